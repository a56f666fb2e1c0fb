//! JPEG, through zune-jpeg.

use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{DecodeError, DecodeLimits, Format, Header, corrupt};

type Decoder<'a> = JpegDecoder<ZCursor<&'a [u8]>>;

pub(super) fn probe(bytes: &[u8]) -> Result<Header, DecodeError> {
    open(bytes).map(|(_, header)| header)
}

pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    mut buffer: Vec<u8>,
) -> Result<(Header, Vec<u8>), DecodeError> {
    let (mut decoder, header) = open(bytes)?;
    header.check(Format::Jpeg, limits)?;
    if !has_end(bytes) {
        return Err(corrupt(Format::Jpeg, "truncated: the end marker is missing"));
    }
    let length = decoder.output_buffer_size().ok_or_else(|| corrupt(Format::Jpeg, "no size"))?;
    buffer.resize(length, 0);
    decoder.decode_into(&mut buffer).map_err(|cause| error(&cause))?;
    Ok((header, buffer))
}

/// Reads everything before the first scan.
fn open(bytes: &[u8]) -> Result<(Decoder<'_>, Header), DecodeError> {
    // Strict: broken or missing data is an error. Otherwise the decoder paints the rest grey, and a detector would
    // answer for half a picture.
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

/// The end marker follows the first scan. The decoder notices missing rows, but not a cut within the last one.
fn has_end(bytes: &[u8]) -> bool {
    // Within a scan 0xff is followed by 0, so the marker cannot be data; before it, it may belong to a thumbnail.
    let scan = first_scan(bytes).unwrap_or(bytes.len());
    bytes[scan..].windows(2).rev().any(|pair| pair == [0xff, 0xd9])
}

/// Offset of the start-of-scan marker.
fn first_scan(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        let marker = bytes.get(at..at + 4)?;
        match marker {
            [0xff, 0xda, ..] => return Some(at),
            // Fill bytes, and markers without a length.
            [0xff, 0xff, ..] => at += 1,
            [0xff, 0x01 | 0xd0..=0xd8, ..] => at += 2,
            [0xff, _, high, low] => at += 2 + usize::from(u16::from_be_bytes([*high, *low])),
            // Stray bytes between segments.
            _ => at += 1,
        }
    }
}

fn error(cause: &DecodeErrors) -> DecodeError {
    match cause {
        DecodeErrors::Unsupported(scheme) => {
            DecodeError::Unsupported { format: Format::Jpeg.label(), what: format!("{scheme:?}") }
        }
        other => corrupt(Format::Jpeg, other),
    }
}
