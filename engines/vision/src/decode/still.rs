//! PNG, WebP and BMP, through the `image` crate.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::error::{ImageError, ImageResult};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, Limits};

use super::{DecodeError, DecodeLimits, Format, Header, corrupt, webp};

pub(super) fn probe(format: Format, bytes: &[u8]) -> Result<Header, DecodeError> {
    open(format, bytes).map(|(header, _)| header)
}

pub(super) fn decode(
    format: Format,
    bytes: &[u8],
    limits: &DecodeLimits,
    mut buffer: Vec<u8>,
) -> Result<(Header, Vec<u8>), DecodeError> {
    let (header, mut decoder) = open(format, bytes)?;
    header.check(format, limits)?;
    let pixels = u64::from(header.width) * u64::from(header.height);
    // The widest pixel has four channels of sixteen bits; the decoder holds the picture twice at most.
    decoder.set_limits(memory(pixels * 16 + (1 << 20))).map_err(|cause| error(format, &cause))?;
    if decoder.color_type() == ColorType::Rgb8 {
        let length = usize::try_from(decoder.total_bytes()).map_err(|_| corrupt(format, "too large"))?;
        buffer.resize(length, 0);
        decoder.read_image(&mut buffer).map_err(|cause| error(format, &cause))?;
    } else {
        let picture = DynamicImage::from_decoder(decoder).map_err(|cause| error(format, &cause))?;
        buffer = picture.into_rgb8().into_raw();
    }
    Ok((header, buffer))
}

/// Reads the header only.
fn open(format: Format, bytes: &[u8]) -> Result<(Header, Box<dyn ImageDecoder + '_>), DecodeError> {
    let mut decoder = decoder(format, Cursor::new(bytes)).map_err(|cause| error(format, &cause))?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(corrupt(format, format_args!("the size is {width}x{height}")));
    }
    if format == Format::WebP {
        webp::check(bytes, (width, height))?;
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((Header { width, height, orientation }, decoder))
}

fn decoder(format: Format, bytes: Cursor<&[u8]>) -> ImageResult<Box<dyn ImageDecoder + '_>> {
    Ok(match format {
        // Chunks beside the pixels (profiles, texts) may take this much memory.
        Format::Png => Box::new(PngDecoder::with_limits(bytes, memory(1 << 20))?),
        Format::WebP => Box::new(WebPDecoder::new(bytes)?),
        _ => Box::new(BmpDecoder::new(bytes)?),
    })
}

fn memory(most: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(most);
    limits
}

fn error(format: Format, cause: &ImageError) -> DecodeError {
    match cause {
        ImageError::Unsupported(what) => DecodeError::Unsupported { format: format.label(), what: what.to_string() },
        other => corrupt(format, other),
    }
}
