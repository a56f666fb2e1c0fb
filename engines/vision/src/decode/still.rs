//! PNG, WebP and BMP, through the `image` crate.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::error::ImageError;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, Limits};

use super::{DecodeError, DecodeLimits, Format, Header, corrupt};

pub(super) fn probe(format: Format, bytes: &[u8]) -> Result<Header, DecodeError> {
    visit(format, bytes, Probe)
}

pub(super) fn decode(
    format: Format,
    bytes: &[u8],
    limits: &DecodeLimits,
    buffer: Vec<u8>,
) -> Result<(Header, Vec<u8>), DecodeError> {
    visit(format, bytes, Decode { format, limits, buffer })
}

/// Something to do with a decoder of any format.
trait Visitor {
    type Output;
    fn visit(self, header: Header, decoder: impl ImageDecoder) -> Result<Self::Output, DecodeError>;
}

/// Opens the decoder, which reads the header only.
fn visit<V: Visitor>(format: Format, bytes: &[u8], visitor: V) -> Result<V::Output, DecodeError> {
    fn open<V: Visitor>(
        format: Format,
        decoder: Result<impl ImageDecoder, ImageError>,
        visitor: V,
    ) -> Result<V::Output, DecodeError> {
        let mut decoder = decoder.map_err(|cause| error(format, &cause))?;
        let (width, height) = decoder.dimensions();
        if width == 0 || height == 0 {
            return Err(corrupt(format, format_args!("the size is {width}x{height}")));
        }
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        visitor.visit(Header { width, height, orientation }, decoder)
    }
    let bytes = Cursor::new(bytes);
    match format {
        // Chunks beside the pixels (profiles, texts) may take this much memory.
        Format::Png => open(format, PngDecoder::with_limits(bytes, limits(1 << 20)), visitor),
        Format::WebP => open(format, WebPDecoder::new(bytes), visitor),
        Format::Bmp => open(format, BmpDecoder::new(bytes), visitor),
        Format::Jpeg | Format::Raw => Err(corrupt(format, "not a format of this module")),
    }
}

struct Probe;

impl Visitor for Probe {
    type Output = Header;
    fn visit(self, header: Header, _: impl ImageDecoder) -> Result<Header, DecodeError> {
        Ok(header)
    }
}

struct Decode<'a> {
    format: Format,
    limits: &'a DecodeLimits,
    buffer: Vec<u8>,
}

impl Visitor for Decode<'_> {
    type Output = (Header, Vec<u8>);

    fn visit(mut self, header: Header, mut decoder: impl ImageDecoder) -> Result<Self::Output, DecodeError> {
        header.check(self.format, self.limits)?;
        let pixels = u64::from(header.width) * u64::from(header.height);
        // The widest pixel has four channels of sixteen bits; the decoder holds the picture twice at most.
        decoder.set_limits(limits(pixels * 16 + (1 << 20))).map_err(|cause| error(self.format, &cause))?;
        if decoder.color_type() == ColorType::Rgb8 {
            let length = usize::try_from(decoder.total_bytes()).map_err(|_| corrupt(self.format, "too large"))?;
            self.buffer.resize(length, 0);
            decoder.read_image(&mut self.buffer).map_err(|cause| error(self.format, &cause))?;
        } else {
            let picture = DynamicImage::from_decoder(decoder).map_err(|cause| error(self.format, &cause))?;
            self.buffer = picture.into_rgb8().into_raw();
        }
        Ok((header, self.buffer))
    }
}

fn limits(max_alloc: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_alloc);
    limits
}

fn error(format: Format, cause: &ImageError) -> DecodeError {
    match cause {
        ImageError::Unsupported(what) => DecodeError::Unsupported { format: format.label(), what: what.to_string() },
        other => corrupt(format, other),
    }
}
