//! Training-time changes to pictures, after YOLOv5: mosaic, a random affine or perspective warp, mixup, colour, flips.
//!
//! Order: mosaic (or a letterboxed single picture), warp, mixup, colour, vertical flip, horizontal flip. Boxes are in
//! continuous pixel coordinates, where a pixel at column `c` covers `c` to `c + 1`; pictures and boxes therefore move
//! together exactly.

mod colour;
mod mosaic;
mod warp;

use rand::Rng;
use rand::seq::SliceRandom;
use rand_distr::{Beta, Distribution};
use serde::{Deserialize, Serialize};

use crate::sample::Sample;

/// Grey of everything no picture covers.
pub const PADDING: [u8; 3] = [114; 3];

/// Both parameters of the Beta distribution a mixup ratio is drawn from.
const MIXUP_BETA: f32 = 32.0;

/// How strongly training pictures are changed; the names are those of YOLOv5's hyper-parameter files.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Augmentation {
    /// Hue gain: hue is multiplied by up to `1 ± hsv_h`.
    pub hsv_h: f32,
    /// Saturation gain, as for hue.
    pub hsv_s: f32,
    /// Value gain, as for hue.
    pub hsv_v: f32,
    /// Rotation by up to ± this many degrees.
    pub degrees: f32,
    /// Shift by up to ± this share of the side.
    pub translate: f32,
    /// Scaling by up to `1 ± scale`.
    pub scale: f32,
    /// Shear by up to ± this many degrees along each axis.
    pub shear: f32,
    /// Perspective terms up to ± this value, per pixel.
    pub perspective: f32,
    /// Probability of a flip upside down.
    pub flipud: f32,
    /// Probability of a flip left to right.
    pub fliplr: f32,
    /// Probability of a mosaic of four pictures.
    pub mosaic: f32,
    /// Probability of blending a mosaic with a second one.
    pub mixup: f32,
}

impl Default for Augmentation {
    /// The values of YOLOv5 for training from scratch.
    fn default() -> Self {
        Self {
            hsv_h: 0.015,
            hsv_s: 0.7,
            hsv_v: 0.4,
            degrees: 0.0,
            translate: 0.1,
            scale: 0.5,
            shear: 0.0,
            perspective: 0.0,
            flipud: 0.0,
            fliplr: 0.5,
            mosaic: 1.0,
            mixup: 0.0,
        }
    }
}

/// A hyper-parameter outside its range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("augmentation {name} must be from 0 to {limit}, not {value}")]
pub struct OutOfRange {
    /// The hyper-parameter's name.
    pub name: &'static str,
    /// Its value.
    pub value: f32,
    /// The largest value allowed.
    pub limit: f32,
}

impl Augmentation {
    /// No change at all: pictures are only letterboxed.
    pub const NONE: Self = Self {
        hsv_h: 0.0,
        hsv_s: 0.0,
        hsv_v: 0.0,
        degrees: 0.0,
        translate: 0.0,
        scale: 0.0,
        shear: 0.0,
        perspective: 0.0,
        flipud: 0.0,
        fliplr: 0.0,
        mosaic: 0.0,
        mixup: 0.0,
    };

    /// Checks every value against the range in which the formulas make sense.
    ///
    /// # Errors
    /// The first value that is out of range or not a number.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let ranges = [
            ("hsv_h", self.hsv_h, 1.0),
            ("hsv_s", self.hsv_s, 1.0),
            ("hsv_v", self.hsv_v, 1.0),
            ("degrees", self.degrees, 180.0),
            ("translate", self.translate, 0.9),
            ("scale", self.scale, 0.95),
            ("shear", self.shear, 60.0),
            ("perspective", self.perspective, 0.001),
            ("flipud", self.flipud, 1.0),
            ("fliplr", self.fliplr, 1.0),
            ("mosaic", self.mosaic, 1.0),
            ("mixup", self.mixup, 1.0),
        ];
        match ranges.into_iter().find(|(_, value, limit)| !(0.0..=*limit).contains(value)) {
            Some((name, value, limit)) => Err(OutOfRange { name, value, limit }),
            None => Ok(()),
        }
    }
}

/// Makes one `size` x `size` training sample from `samples[index]` and, for mosaic and mixup, others drawn at random.
/// A box of which too little is left is dropped.
///
/// # Panics
/// If `index` is not an index into `samples`.
pub fn training_sample(
    samples: &[Sample],
    index: usize,
    size: u32,
    augmentation: &Augmentation,
    rng: &mut impl Rng,
) -> Sample {
    let chance = |probability: f32, rng: &mut _| Rng::random::<f32>(rng) < probability;
    let mut sample = if chance(augmentation.mosaic, rng) {
        let mut sample = mosaic_sample(samples, index, size, augmentation, rng);
        if chance(augmentation.mixup, rng) {
            let other = mosaic_sample(samples, rng.random_range(0..samples.len()), size, augmentation, rng);
            mix(&mut sample, other, mixup_ratio(rng));
        }
        sample
    } else {
        let fitted = mosaic::letterbox(&samples[index], size);
        warp::Warp::random(augmentation, size, size, rng).apply(fitted, size)
    };
    colour::Gains::random(augmentation, rng).apply(&mut sample.image);
    if chance(augmentation.flipud, rng) {
        flip_vertically(&mut sample);
    }
    if chance(augmentation.fliplr, rng) {
        flip_horizontally(&mut sample);
    }
    sample
}

fn mosaic_sample(
    samples: &[Sample],
    index: usize,
    size: u32,
    augmentation: &Augmentation,
    rng: &mut impl Rng,
) -> Sample {
    let mut chosen = [0; 4].map(|_| rng.random_range(0..samples.len()));
    chosen[0] = index;
    chosen.shuffle(rng);
    let centre = [0; 2].map(|_| rng.random_range(size / 2..size + size.div_ceil(2)));
    let canvas = mosaic::mosaic(chosen.map(|index| &samples[index]), size, centre);
    warp::Warp::random(augmentation, 2 * size, size, rng).apply(canvas, size)
}

fn mixup_ratio(rng: &mut impl Rng) -> f32 {
    Beta::new(MIXUP_BETA, MIXUP_BETA).map_or(0.5, |beta| beta.sample(rng))
}

/// `ratio` of `sample` and the rest of `other`, with the boxes of both.
fn mix(sample: &mut Sample, other: Sample, ratio: f32) {
    // In 1/256 steps, which is as fine as the pixels are.
    let share = (ratio * 256.0).round() as u32;
    for (pixel, other) in sample.image.pixels_mut().iter_mut().zip(other.image.pixels()) {
        *pixel = ((u32::from(*pixel) * share + u32::from(*other) * (256 - share) + 128) >> 8) as u8;
    }
    sample.boxes.extend(other.boxes);
}

fn flip_vertically(sample: &mut Sample) {
    let (row, height) = (sample.image.width() as usize * 3, sample.image.height() as usize);
    let (upper, lower) = sample.image.pixels_mut().split_at_mut(height / 2 * row);
    upper.chunks_exact_mut(row).zip(lower.rchunks_exact_mut(row)).for_each(|(a, b)| a.swap_with_slice(b));
    for labelled in &mut sample.boxes {
        let (y1, y2) = (labelled.bbox.y1, labelled.bbox.y2);
        (labelled.bbox.y1, labelled.bbox.y2) = (height as f32 - y2, height as f32 - y1);
    }
}

fn flip_horizontally(sample: &mut Sample) {
    let width = sample.image.width() as usize;
    for row in sample.image.pixels_mut().chunks_exact_mut(width * 3) {
        row.as_chunks_mut::<3>().0.reverse();
    }
    for labelled in &mut sample.boxes {
        let (x1, x2) = (labelled.bbox.x1, labelled.bbox.x2);
        (labelled.bbox.x1, labelled.bbox.x2) = (width as f32 - x2, width as f32 - x1);
    }
}

#[cfg(test)]
mod tests;
