//! From a decoded picture to a network's input: resize, place, normalise, HWC bytes to CHW floats.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Image, Letterbox};

/// How a picture of any size is made to fill the input's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// From 2x2 pixels.
    #[default]
    Bilinear,
    /// From 4x4 pixels, a = -0.75.
    Bicubic,
}

/// Order of the three planes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChannelOrder {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red.
    Bgr,
}

/// What a model's input expects of a picture. The value of a channel is `(pixel * scale - mean) / std`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// Longest side of an input.
const MAX_SIDE: u32 = 16_384;

/// An input of more pixels is a mistake: it would take 800 MB.
const MAX_AREA: u64 = 1 << 26;

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

    /// Checks the parameters, at load.
    ///
    /// # Errors
    /// The first parameter that makes no sense.
    pub fn validate(&self) -> Result<(), PreprocessError> {
        for (field, side) in [("width", self.width), ("height", self.height)] {
            if !(1..=MAX_SIDE).contains(&side) {
                return Err(parameter(field, "between 1 and 16384", side));
            }
        }
        if u64::from(self.width) * u64::from(self.height) > MAX_AREA {
            let size = format_args!("{} x {}", self.width, self.height);
            return Err(parameter("width and height", "at most 67108864 pixels", size));
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return Err(parameter("scale", "above 0 and finite", self.scale));
        }
        if !self.mean.iter().all(|value| value.is_finite()) {
            return Err(parameter("mean", "finite", format_args!("{:?}", self.mean)));
        }
        if !self.std.iter().all(|value| value.is_finite() && *value > 0.0) {
            return Err(parameter("std", "above 0 and finite", format_args!("{:?}", self.std)));
        }
        Ok(())
    }

    /// Writes the input for `image` into `out` (CHW, [`Self::input_len`] values) and says where the picture lies in it.
    ///
    /// # Errors
    /// A buffer of another length, or sizes the resizing library refuses.
    pub fn run(&self, image: &Image, out: &mut [f32], scratch: &mut Resizer) -> Result<Letterbox, PreprocessError> {
        let expected = self.input_len();
        if out.len() != expected || expected == 0 {
            let (width, height) = (self.width, self.height);
            return Err(PreprocessError::BufferLength { width, height, expected, got: out.len() });
        }
        let letterbox = Letterbox::new((image.width(), image.height()), self);
        let content = scratch.resize(image, letterbox.content(), self.filter)?;
        self.place(content, &letterbox, out);
        Ok(letterbox)
    }

    /// Normalises the pixels of the resized picture into the planes of `out`, and pads around them.
    fn place(&self, content: &[u8], letterbox: &Letterbox, out: &mut [f32]) {
        let (columns, rows) = (letterbox.content().0 as usize, letterbox.content().1 as usize);
        let (left, top) = (letterbox.offset().0 as usize, letterbox.offset().1 as usize);
        let width = self.width as usize;
        let plane = width * self.height as usize;
        // (pixel * scale - mean) / std, as one multiplication and one addition per value.
        let factor = self.std.map(|std| self.scale / std);
        let bias: [f32; 3] = std::array::from_fn(|channel| -self.mean[channel] / self.std[channel]);
        // Which byte of a pixel goes to each plane.
        let from = match self.channels {
            ChannelOrder::Rgb => [0, 1, 2],
            ChannelOrder::Bgr => [2, 1, 0],
        };
        let padding: [f32; 3] = std::array::from_fn(|channel| f32::from(self.pad) * factor[channel] + bias[channel]);
        for (plane, padding) in out.chunks_exact_mut(plane).zip(padding) {
            plane[..top * width].fill(padding);
            plane[(top + rows) * width..].fill(padding);
        }
        for (row, pixels) in content.chunks_exact(columns * 3).enumerate() {
            for (channel, plane) in out.chunks_exact_mut(plane).enumerate() {
                let target = &mut plane[(top + row) * width..][..width];
                target[..left].fill(padding[channel]);
                target[left + columns..].fill(padding[channel]);
                let (factor, bias, from) = (factor[channel], bias[channel], from[channel]);
                for (value, pixel) in target[left..left + columns].iter_mut().zip(pixels.as_chunks::<3>().0) {
                    *value = f32::from(pixel[from]) * factor + bias;
                }
            }
        }
    }
}

impl Resizer {
    /// The pixels of `image` at another size; its own if the size is the same.
    fn resize<'a>(&'a mut self, image: &'a Image, to: (u32, u32), filter: Filter) -> Result<&'a [u8], PreprocessError> {
        let from = (image.width(), image.height());
        if from == to {
            return Ok(image.pixels());
        }
        let error = |reason: &dyn std::fmt::Display| PreprocessError::Resize { from, to, reason: reason.to_string() };
        let length = to.0 as usize * to.1 as usize * 3;
        if self.resized.len() < length {
            self.resized.resize(length, 0);
        }
        let pixels = &mut self.resized[..length];
        let source =
            TypedImageRef::<U8x3>::from_buffer(from.0, from.1, image.pixels()).map_err(|cause| error(&cause))?;
        let mut target = TypedImage::<U8x3>::from_buffer(to.0, to.1, pixels).map_err(|cause| error(&cause))?;
        let kernel = match filter {
            Filter::Bilinear => FilterType::Bilinear,
            Filter::Bicubic => {
                let kernel = fast_image_resize::Filter::new("bicubic, a = -0.75", cubic, 2.0);
                FilterType::Custom(kernel.map_err(|cause| error(&cause))?)
            }
        };
        // Interpolation keeps the kernel's width in source pixels when shrinking, as OpenCV does.
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Interpolation(kernel));
        self.resizer.resize_typed::<U8x3>(&source, &mut target, &options).map_err(|cause| error(&cause))?;
        Ok(&self.resized[..length])
    }
}

/// The cubic convolution kernel (Keys 1981) with a = -0.75, as in OpenCV's INTER_CUBIC.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.75;
    let x = x.abs();
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    } else {
        0.0
    }
}

fn parameter(field: &'static str, expected: &'static str, value: impl std::fmt::Display) -> PreprocessError {
    PreprocessError::Parameter { field, expected, value: value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a channel at a place of the input.
    fn at(out: &[f32], preprocess: &Preprocess, channel: usize, x: usize, y: usize) -> f32 {
        out[(channel * preprocess.height as usize + y) * preprocess.width as usize + x]
    }

    #[test]
    fn a_letterboxed_picture_lies_between_padding_in_the_order_of_the_channels() {
        let picture = Image::filled(20, 10, [10, 20, 30]);
        // Twenty by ten fits a 40x40 input twice enlarged: 40x20 in the middle, or at the top.
        let cases = [
            (Preprocess::yolov5(40, 40), 10..30, [10.0 / 255.0, 20.0 / 255.0, 30.0 / 255.0], [114.0 / 255.0; 3]),
            (Preprocess::yolox(40, 40), 0..20, [30.0, 20.0, 10.0], [114.0; 3]),
            (
                Preprocess::yolox_legacy(40, 40),
                0..20,
                [(10.0 / 255.0 - 0.485) / 0.229, (20.0 / 255.0 - 0.456) / 0.224, (30.0 / 255.0 - 0.406) / 0.225],
                [(114.0 / 255.0 - 0.485) / 0.229, (114.0 / 255.0 - 0.456) / 0.224, (114.0 / 255.0 - 0.406) / 0.225],
            ),
        ];
        for (preprocess, rows, colour, padding) in cases {
            let mut out = vec![f32::NAN; preprocess.input_len()];
            let letterbox = preprocess.run(&picture, &mut out, &mut Resizer::default()).expect("prepared");
            assert_eq!((letterbox.content(), letterbox.offset()), ((40, 20), (0, rows.start as u32)));
            for channel in 0..3 {
                for y in 0..40 {
                    let expected = if rows.contains(&y) { colour[channel] } else { padding[channel] };
                    for x in 0..40 {
                        let got = at(&out, &preprocess, channel, x, y);
                        assert!((got - expected).abs() < 1e-5, "channel {channel}, ({x}, {y}): {got}, not {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_stretched_picture_fills_the_input() {
        let preprocess = Preprocess::ppyolo(32, 64);
        let mut out = vec![f32::NAN; preprocess.input_len()];
        let picture = Image::filled(7, 5, [255, 0, 128]);
        let letterbox = preprocess.run(&picture, &mut out, &mut Resizer::default()).expect("prepared");
        assert_eq!(letterbox.scale(), (32.0 / 7.0, 64.0 / 5.0));
        let expected = [(1.0 - 0.485) / 0.229, -0.456 / 0.224, (128.0 / 255.0 - 0.406) / 0.225];
        for (channel, plane) in out.chunks_exact(32 * 64).enumerate() {
            assert!(plane.iter().all(|value| (value - expected[channel]).abs() < 1e-5), "channel {channel}");
        }
    }

    #[test]
    fn the_buffers_may_have_held_a_larger_picture() {
        let (preprocess, mut scratch) = (Preprocess::yolov5(64, 64), Resizer::default());
        let run = |picture: &Image, scratch: &mut Resizer| {
            let mut out = vec![f32::NAN; preprocess.input_len()];
            preprocess.run(picture, &mut out, scratch).expect("prepared");
            out
        };
        let small = Image::filled(3, 200, [1, 2, 3]);
        let alone = run(&small, &mut Resizer::default());
        run(&Image::filled(500, 500, [9, 9, 9]), &mut scratch);
        assert_eq!(run(&small, &mut scratch), alone);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let good = Preprocess::yolov5(640, 640);
        assert_eq!(good.validate(), Ok(()));
        let bad = Preprocess { std: [1.0, 0.0, 1.0], ..good };
        let message = bad.validate().expect_err("a zero deviation").to_string();
        assert_eq!(message, "preprocess.std must be above 0 and finite, not [1.0, 0.0, 1.0]");
        assert!(Preprocess { width: 0, ..good }.validate().is_err());
        let error = good.run(&Image::filled(2, 2, [0; 3]), &mut [0.0; 7], &mut Resizer::default()).expect_err("short");
        assert_eq!(error.to_string(), "the input of 640x640 needs 1228800 values, the buffer has 7");
    }
}
