//! What a WebP file says about itself, checked before its decoder allocates by it.

use super::{DecodeError, Format, corrupt};

/// Checks that every chunk lies within the file, and every frame within the canvas of `width` x `height` pixels.
pub(super) fn check(bytes: &[u8], (width, height): (u32, u32)) -> Result<(), DecodeError> {
    let end = number(bytes, 4).map_or(0, |size| size.saturating_add(8)).min(bytes.len());
    for chunk in Chunks(bytes.get(12..end).unwrap_or_default()) {
        let (name, content) = chunk?;
        // A frame of an animation begins with sixteen bytes about its place and time.
        let frames = if name == *b"ANMF" { content.get(16..).unwrap_or_default() } else { &[] };
        for chunk in std::iter::once(Ok((name, content))).chain(Chunks(frames)) {
            let (name, content) = chunk?;
            if let Some((frame_width, frame_height)) = frame_size(name, content)
                && (frame_width > width || frame_height > height)
            {
                let reason = format_args!("a frame of {frame_width}x{frame_height} in a canvas of {width}x{height}");
                return Err(corrupt(Format::WebP, reason));
            }
        }
    }
    Ok(())
}

/// Width and height in the header of a chunk of pixels.
fn frame_size(name: [u8; 4], content: &[u8]) -> Option<(u32, u32)> {
    match &name {
        // Three bytes of tag, three of start code, then fourteen bits each, with two of scale.
        b"VP8 " => {
            let sides = number(content, 6)?;
            Some(((sides & 0x3fff) as u32, (sides >> 16 & 0x3fff) as u32))
        }
        // One byte of signature, then fourteen bits each, less one.
        b"VP8L" => {
            let sides = number(content, 1)?;
            Some(((sides & 0x3fff) as u32 + 1, (sides >> 14 & 0x3fff) as u32 + 1))
        }
        _ => None,
    }
}

/// The chunks of a file, or of an animation's frame: name, length, content, and a byte of padding after an odd length.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<([u8; 4], &'a [u8]), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.0.split_first_chunk::<4>()?;
        let (size, rest) = (number(rest, 0)?, &rest[4..]);
        let Some((content, after)) = rest.split_at_checked(size) else {
            self.0 = &[];
            let name = String::from_utf8_lossy(name).into_owned();
            let reason = format_args!("chunk {name:?} says {size} bytes, {} are left", rest.len());
            return Some(Err(corrupt(Format::WebP, reason)));
        };
        self.0 = after.get(size % 2..).unwrap_or_default();
        Some(Ok((*name, content)))
    }
}

/// Four bytes as a number, the lowest first.
fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}
