//! From a decoded picture to a network's input: resize, place, normalise, HWC bytes to CHW floats.

use serde::{Deserialize, Serialize};

use crate::{Image, Letterbox};

/// How a picture of any size is made to fill the input's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Keeps the aspect ratio; centred, the rest is padding (YOLOv5, v7, v8).
    #[default]
    Letterbox,
    /// Keeps the aspect ratio; in the top-left corner, sizes truncated, the rest is padding (YOLOX).
    LetterboxTopLeft,
    /// Each axis by its own factor, no padding (PP-YOLO, Paddle's YOLOv3).
    Stretch,
}

/// How new pixels are computed from old ones. Neither filter widens when it shrinks a picture, as in OpenCV.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// From 2x2 pixels.
    #[default]
    Bilinear,
    /// From 4x4 pixels, a = -0.75.
    Bicubic,
}

/// Order of the three planes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelOrder {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red.
    Bgr,
}

/// What a model's input expects of a picture. The value of a channel is `(pixel * scale - mean) / std`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Width of the input in pixels.
    pub width: u32,
    /// Height of the input in pixels.
    pub height: u32,
    /// How the picture is fitted.
    #[serde(default)]
    pub resize: Resize,
    /// How its pixels are interpolated.
    #[serde(default)]
    pub filter: Filter,
    /// Padding, as a pixel value of every channel, before normalisation.
    #[serde(default = "default_pad")]
    pub pad: u8,
    /// Order of the planes; `mean` and `std` are in this order.
    #[serde(default)]
    pub channels: ChannelOrder,
    /// Factor on a pixel's 0 to 255.
    #[serde(default = "default_scale")]
    pub scale: f32,
    /// Subtracted after scaling.
    #[serde(default)]
    pub mean: [f32; 3],
    /// Divided by after the mean is subtracted.
    #[serde(default = "default_std")]
    pub std: [f32; 3],
}

fn default_pad() -> u8 {
    114
}

fn default_scale() -> f32 {
    1.0 / 255.0
}

fn default_std() -> [f32; 3] {
    [1.0; 3]
}

/// Mean of the ImageNet training pictures, RGB in 0 to 1.
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of the ImageNet training pictures, RGB in 0 to 1.
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// A picture that could not be prepared.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PreprocessError {
    /// The caller's buffer is not `3 * height * width` values.
    #[error("the input of {width}x{height} needs {expected} values, the buffer has {got}")]
    BufferLength {
        /// Width of the input.
        width: u32,
        /// Height of the input.
        height: u32,
        /// `3 * height * width`.
        expected: usize,
        /// Length of the buffer.
        got: usize,
    },
    /// A parameter of [`Preprocess`] makes no sense.
    #[error("preprocess.{field} must be {expected}, not {value}")]
    Parameter {
        /// The parameter.
        field: &'static str,
        /// The values that are allowed.
        expected: &'static str,
        /// What came.
        value: String,
    },
    /// The resizing library refused.
    #[error("resize {from:?} to {to:?}: {reason}")]
    Resize {
        /// Size of the picture.
        from: (u32, u32),
        /// Size wanted.
        to: (u32, u32),
        /// Why.
        reason: String,
    },
}

/// Buffers that are kept between pictures; one per thread.
#[derive(Default)]
pub struct Resizer {
    resizer: fast_image_resize::Resizer,
    resized: Vec<u8>,
}

impl Preprocess {
    /// YOLOv5, v7, v8 and 11: centred letterbox of 114, bilinear, RGB in 0 to 1.
    #[must_use]
    pub fn yolov5(width: u32, height: u32) -> Self {
        Self {
            width,
            height,
            resize: Resize::Letterbox,
            filter: Filter::Bilinear,
            pad: default_pad(),
            channels: ChannelOrder::Rgb,
            scale: default_scale(),
            mean: [0.0; 3],
            std: default_std(),
        }
    }

    /// YOLOX since 0.1.1: top-left letterbox of 114, bilinear, BGR in 0 to 255.
    #[must_use]
    pub fn yolox(width: u32, height: u32) -> Self {
        Self {
            resize: Resize::LetterboxTopLeft,
            channels: ChannelOrder::Bgr,
            scale: 1.0,
            ..Self::yolov5(width, height)
        }
    }

    /// YOLOX before 0.1.1: as now, but RGB normalised by ImageNet's mean and standard deviation.
    #[must_use]
    pub fn yolox_legacy(width: u32, height: u32) -> Self {
        Self { resize: Resize::LetterboxTopLeft, mean: IMAGENET_MEAN, std: IMAGENET_STD, ..Self::yolov5(width, height) }
    }

    /// PP-YOLO and Paddle's YOLOv3: bicubic stretch, RGB normalised by ImageNet's mean and standard deviation.
    #[must_use]
    pub fn ppyolo(width: u32, height: u32) -> Self {
        Self {
            resize: Resize::Stretch,
            filter: Filter::Bicubic,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
            ..Self::yolov5(width, height)
        }
    }

    /// Values of one input: `3 * height * width`.
    #[must_use]
    pub fn input_len(&self) -> usize {
        3 * self.height as usize * self.width as usize
    }

    /// Writes the input for `image` into `out` (CHW, [`Self::input_len`] values) and says where the picture lies in it.
    ///
    /// # Errors
    /// A buffer of another length, or sizes the resizing library refuses.
    pub fn run(&self, image: &Image, out: &mut [f32], scratch: &mut Resizer) -> Result<Letterbox, PreprocessError> {
        let _ = (&mut scratch.resizer, &mut scratch.resized);
        let expected = self.input_len();
        if out.len() != expected {
            let (width, height) = (self.width, self.height);
            return Err(PreprocessError::BufferLength { width, height, expected, got: out.len() });
        }
        Ok(Letterbox::new((image.width(), image.height()), self))
    }
}
