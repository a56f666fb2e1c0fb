//! From an encoded picture to pixels: JPEG, PNG, WebP, BMP and raw buffers.

mod guard;
mod jpeg;
mod raw;
mod still;
mod webp;

pub use raw::{RawLayout, from_raw};

use std::fmt;

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use serde::{Deserialize, Serialize};

use crate::Image;

/// An encoding this crate reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// JPEG, baseline and progressive; grey, YCbCr, RGB, CMYK and YCCK.
    Jpeg,
    /// PNG, every colour type and depth.
    Png,
    /// WebP, lossy, lossless and the first frame of an animation.
    WebP,
    /// Windows bitmap.
    Bmp,
    /// Pixels without an encoding.
    Raw,
}

impl Format {
    /// A lower-case name, for labels and messages.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Bmp => "bmp",
            Self::Raw => "raw",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What a picture may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeLimits {
    /// Most pixels, checked against the header before anything is allocated.
    pub max_pixels: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { max_pixels: 50_000_000 }
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// The encoding.
    pub format: Format,
    /// Width in pixels, after the EXIF orientation.
    pub width: u32,
    /// Height in pixels, after the EXIF orientation.
    pub height: u32,
}

/// A decoded picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedImage {
    /// The pixels, upright: the EXIF orientation is applied.
    pub image: Image,
    /// The encoding.
    pub format: Format,
}

/// A picture that could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// None of the known signatures.
    #[error("not a picture in a known format (JPEG, PNG, WebP, BMP): {length} bytes, beginning {beginning:02x?}")]
    Unrecognised {
        /// At most the first 8 bytes.
        beginning: Vec<u8>,
        /// Bytes in all.
        length: usize,
    },
    /// The header promises too many pixels.
    #[error("the {format} picture is {width}x{height}: {} pixels, the limit is {limit}", u64::from(*.width) * u64::from(*.height))]
    TooManyPixels {
        /// The encoding.
        format: Format,
        /// Width by the header.
        width: u32,
        /// Height by the header.
        height: u32,
        /// The limit.
        limit: u64,
    },
    /// The bytes do not follow the format, or end too early.
    #[error("corrupt {format}: {reason}")]
    Corrupt {
        /// The encoding.
        format: Format,
        /// What the decoder found.
        reason: String,
    },
    /// A valid picture of a kind that is not supported.
    #[error("unsupported {format}: {what}")]
    Unsupported {
        /// The encoding, or the name of one that is recognised but not read.
        format: &'static str,
        /// What is not supported.
        what: String,
    },
    /// A raw picture without pixels.
    #[error("a raw picture of {width}x{height}: a side is 0, each must be at least 1")]
    RawSide {
        /// Width that was stated.
        width: u32,
        /// Height that was stated.
        height: u32,
    },
    /// Raw rows that lie closer together than they are long.
    #[error("the row stride is too small: a row of {width} {layout} pixels needs {row} bytes, the stride is {stride}")]
    RawStride {
        /// Width that was stated.
        width: u32,
        /// Layout that was stated.
        layout: RawLayout,
        /// Bytes of a row, of each plane for planes.
        row: usize,
        /// Bytes from one row to the next that were stated.
        stride: usize,
    },
    /// A raw buffer whose length does not fit its size and layout.
    #[error("{width}x{height} {layout} pixels with {stride} bytes a row need {expected} bytes, {got} came")]
    RawLength {
        /// Width that was stated.
        width: u32,
        /// Height that was stated.
        height: u32,
        /// Layout that was stated.
        layout: RawLayout,
        /// Bytes from one row to the next.
        stride: usize,
        /// Bytes needed.
        expected: u64,
        /// Bytes that came.
        got: usize,
    },
}

impl DecodeError {
    /// The format for a metric's label; `unknown` where none was recognised.
    #[must_use]
    pub fn format(&self) -> &'static str {
        match self {
            Self::Unrecognised { .. } => "unknown",
            Self::TooManyPixels { format, .. } | Self::Corrupt { format, .. } => format.label(),
            Self::Unsupported { format, .. } => format,
            Self::RawSide { .. } | Self::RawStride { .. } | Self::RawLength { .. } => Format::Raw.label(),
        }
    }
}

/// Reads the header only.
///
/// # Errors
/// Unknown, unsupported or corrupt bytes.
pub fn probe(bytes: &[u8]) -> Result<ImageInfo, DecodeError> {
    let format = recognise(bytes)?;
    let header = match format {
        Format::Jpeg => jpeg::probe(bytes)?,
        _ => still::probe(format, bytes)?,
    };
    let (width, height) = header.upright();
    Ok(ImageInfo { format, width, height })
}

/// Decodes a picture into `buffer`, which is grown where needed; an empty one will do. Alpha is dropped, as OpenCV and
/// Pillow do: the colour stored under a transparent pixel counts. Sixteen bits are rounded to eight. The first frame of
/// an animation is taken.
///
/// # Errors
/// Unknown, unsupported, corrupt or truncated bytes; more pixels than `limits` allow.
pub fn decode(bytes: &[u8], limits: &DecodeLimits, buffer: Vec<u8>) -> Result<DecodedImage, DecodeError> {
    let format = recognise(bytes)?;
    let (header, pixels) = match format {
        Format::Jpeg => jpeg::decode(bytes, limits, buffer)?,
        _ => still::decode(format, bytes, limits, buffer)?,
    };
    let image = header.turn(pixels).ok_or_else(|| corrupt(format, "the size does not fit the pixels"))?;
    Ok(DecodedImage { image, format })
}

/// What every format's header tells.
struct Header {
    /// Width as stored.
    width: u32,
    /// Height as stored.
    height: u32,
    /// How to turn the stored picture upright.
    orientation: Orientation,
}

impl Header {
    fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Fails if the picture has more pixels than the limit.
    fn check(&self, format: Format, limits: &DecodeLimits) -> Result<(), DecodeError> {
        let Self { width, height, .. } = *self;
        if self.pixels() > limits.max_pixels {
            return Err(DecodeError::TooManyPixels { format, width, height, limit: limits.max_pixels });
        }
        Ok(())
    }

    /// Width and height after the orientation is applied.
    fn upright(&self) -> (u32, u32) {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        match self.orientation {
            Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => (self.height, self.width),
            _ => (self.width, self.height),
        }
    }

    /// Applies the orientation to RGB pixels.
    fn turn(&self, pixels: Vec<u8>) -> Option<Image> {
        if self.orientation == Orientation::NoTransforms {
            return Image::new(self.width, self.height, pixels);
        }
        let mut picture = DynamicImage::ImageRgb8(RgbImage::from_raw(self.width, self.height, pixels)?);
        picture.apply_orientation(self.orientation);
        Image::new(picture.width(), picture.height(), picture.into_rgb8().into_raw())
    }
}

/// Tells the format by its signature.
fn recognise(bytes: &[u8]) -> Result<Format, DecodeError> {
    let unsupported = |format: &'static str| {
        let what = "send JPEG, PNG, WebP or BMP".to_owned();
        Err(DecodeError::Unsupported { format, what })
    };
    match bytes {
        [0xff, 0xd8, 0xff, ..] => Ok(Format::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(Format::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Format::WebP),
        [b'B', b'M', ..] => Ok(Format::Bmp),
        [b'G', b'I', b'F', b'8', ..] => unsupported("gif"),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => unsupported("tiff"),
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', ..] => unsupported("avif"),
        [_, _, _, _, b'f', b't', b'y', b'p', b'h' | b'm', ..] => unsupported("heif"),
        _ => Err(DecodeError::Unrecognised { beginning: bytes.iter().take(8).copied().collect(), length: bytes.len() }),
    }
}

fn corrupt(format: Format, reason: impl fmt::Display) -> DecodeError {
    DecodeError::Corrupt { format, reason: reason.to_string() }
}
