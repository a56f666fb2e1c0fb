//! JPEG, through zune-jpeg.
//!
//! Libraries that decode for display make the best of a broken file and paint the rest grey; a detector would answer for
//! half a picture. So data that end too early are an error, wherever the cut is and whether an end marker follows or
//! not, and so are invalid codes and restart markers out of order. What a viewer bears without loss is borne: stray
//! bytes between segments, anything behind the picture, a missing end marker.
//!
//! A JPEG has no checksum, so some damage cannot be told from a picture: data that were overwritten and still read as
//! valid codes for at least as many blocks; the last scans of a progressive picture missing as a whole (it is coarser,
//! not shorter), and data missing within its first scan or within the runs of its refining scans; data missing within a
//! scan other than the last where each colour has its own.

use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::guard::guarded;
use super::{DecodeError, DecodeLimits, Format, Header, corrupt};

type Decoder<'a> = JpegDecoder<ZCursor<&'a [u8]>>;

pub(super) fn probe(bytes: &[u8]) -> Result<Header, DecodeError> {
    open(&guarded(bytes)?).map(|(_, header)| header)
}

pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    mut buffer: Vec<u8>,
) -> Result<(Header, Vec<u8>), DecodeError> {
    let bytes = guarded(bytes)?;
    let (mut decoder, header) = open(&bytes)?;
    header.check(Format::Jpeg, limits)?;
    let length = decoder.output_buffer_size().ok_or_else(|| corrupt(Format::Jpeg, "no size"))?;
    // What the decoder may leave unwritten is not to be another picture's.
    buffer.clear();
    buffer.resize(length, 0);
    decoder.decode_into(&mut buffer).map_err(|cause| match error(&cause) {
        DecodeError::Corrupt { format, reason } => {
            corrupt(format, format_args!("the data end too early or are broken: {reason}"))
        }
        other => other,
    })?;
    Ok((header, buffer))
}

/// Reads everything before the first scan.
fn open(bytes: &[u8]) -> Result<(Decoder<'_>, Header), DecodeError> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|cause| error(&cause))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| corrupt(Format::Jpeg, "no size"))?;
    let side = |length: usize| u32::try_from(length).map_err(|_| corrupt(Format::Jpeg, "no size"));
    let orientation =
        decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif)).unwrap_or(Orientation::NoTransforms);
    let header = Header { width: side(width)?, height: side(height)?, orientation };
    Ok((decoder, header))
}

fn error(cause: &DecodeErrors) -> DecodeError {
    match cause {
        DecodeErrors::Unsupported(scheme) => {
            DecodeError::Unsupported { format: Format::Jpeg.label(), what: format!("{scheme:?}") }
        }
        other => corrupt(Format::Jpeg, other),
    }
}
