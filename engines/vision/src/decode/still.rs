//! PNG, WebP and BMP, through the `image` crate.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::error::{ImageError, ImageResult};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, Limits};

use super::{DecodeError, DecodeLimits, Format, Header, corrupt, webp};

/// Pixels up to which a probe lets the decoder look at a header.
const MOST_PROBED: u64 = 1 << 28;
/// Longest side of a bitmap that the decoder takes.
const LONGEST_BMP_SIDE: u32 = 0xffff;

pub(super) fn probe(format: Format, bytes: &[u8]) -> Result<Header, DecodeError> {
    match stated(format, bytes) {
        // The decoder would refuse it in its own words; the size is what the caller's limit needs.
        Some(header) if header.pixels() > MOST_PROBED => Ok(header),
        _ => open(format, bytes).map(|(header, _)| header),
    }
}

pub(super) fn decode(
    format: Format,
    bytes: &[u8],
    limits: &DecodeLimits,
    mut buffer: Vec<u8>,
) -> Result<(Header, Vec<u8>), DecodeError> {
    if let Some(header) = stated(format, bytes) {
        header.check(format, limits)?;
    }
    let (header, mut decoder) = open(format, bytes)?;
    header.check(format, limits)?;
    // The widest pixel has four channels of sixteen bits; the decoder holds the picture twice at most.
    decoder.set_limits(memory(header.pixels() * 16 + (1 << 20))).map_err(|cause| error(format, &cause))?;
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

/// The size at its fixed place in the header of a PNG or BMP file, before a decoder sees it.
fn stated(format: Format, bytes: &[u8]) -> Option<Header> {
    let at = |at: usize| bytes.get(at..)?.first_chunk::<4>().copied();
    let (width, height) = match format {
        Format::Png if at(12)? == *b"IHDR" => (u32::from_be_bytes(at(16)?), u32::from_be_bytes(at(20)?)),
        // The oldest header, of twelve bytes, has sixteen bits a side: these are within any limit of the decoder.
        // A negative height means that the rows come from the top; a negative width is an error of the decoder's.
        Format::Bmp if u32::from_le_bytes(at(14)?) > 12 && i32::from_le_bytes(at(18)?) >= 0 => {
            (u32::from_le_bytes(at(18)?), i32::from_le_bytes(at(22)?).unsigned_abs())
        }
        _ => return None,
    };
    Some(Header { width, height, orientation: Orientation::NoTransforms })
}

/// Reads the header only.
fn open(format: Format, bytes: &[u8]) -> Result<(Header, Box<dyn ImageDecoder + '_>), DecodeError> {
    let (width, height) = stated(format, bytes).map_or((0, 0), |header| (header.width, header.height));
    if format == Format::Bmp && width.max(height) > LONGEST_BMP_SIDE {
        let what = format!("a picture of {width}x{height}, the longest side is {LONGEST_BMP_SIDE}");
        return Err(DecodeError::Unsupported { format: format.label(), what });
    }
    let mut decoder = decoder(format, Cursor::new(bytes), width).map_err(|cause| error(format, &cause))?;
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

fn decoder(format: Format, bytes: Cursor<&[u8]>, width: u32) -> ImageResult<Box<dyn ImageDecoder + '_>> {
    Ok(match format {
        // Chunks beside the pixels (profiles, texts) may take a mebibyte, beside two rows of the widest pixels.
        Format::Png => Box::new(PngDecoder::with_limits(bytes, memory((1 << 20) + u64::from(width) * 16))?),
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
