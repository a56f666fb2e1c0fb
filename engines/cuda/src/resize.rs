//! How each column and row of a resized picture comes of the picture's: the fixed-point weights that the CPU resizes with.
//!
//! `fast_image_resize` interpolates without widening the filter when it shrinks, rounds the weights of an axis to as many
//! bits as fit 16, and rounds to a byte after each axis. With the same weights the device gives the same bytes.

use detectd_vision::Filter;

use crate::layout::Tap;

/// Bits behind the point are fewer than 32, less 8 for a value and 2 for sums above and below.
const MOST_BITS: u32 = 22;

/// The taps of one axis, and the bits behind the point of their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// One for each new column or row.
    pub taps: Vec<Tap>,
    /// Bits behind the point.
    pub bits: u32,
}

impl Axis {
    /// From `old` columns or rows to `new`, both at least 1.
    #[must_use]
    pub fn new(old: u32, new: u32, filter: Filter) -> Self {
        let (kernel, radius): (fn(f64) -> f64, f64) = match filter {
            Filter::Bilinear => (linear, 1.0),
            Filter::Bicubic => (cubic, 2.0),
        };
        let weights: Vec<(u32, Vec<f64>)> = if old == new {
            (0..new).map(|place| (place, vec![1.0])).collect()
        } else {
            let scale = f64::from(old) / f64::from(new);
            (0..new).map(|place| around((f64::from(place) + 0.5) * scale, old, kernel, radius)).collect()
        };
        let largest = weights.iter().flat_map(|(_, weights)| weights).copied().fold(0.0, f64::max);
        let bits = bits_for(largest);
        let unit = f64::from(1_u32 << bits);
        let taps = weights.into_iter().map(|(first, weights)| {
            let mut weight = [0; 4];
            for (target, value) in weight.iter_mut().zip(&weights) {
                *target = (value * unit).round() as i16;
            }
            Tap { first, weight }
        });
        Self { taps: taps.collect(), bits }
    }
}

/// The first pixel that counts for a place between pixels, and the weights from it on; their sum is 1.
fn around(centre: f64, length: u32, kernel: fn(f64) -> f64, radius: f64) -> (u32, Vec<f64>) {
    let first = (centre - radius).floor().max(0.0) as u32;
    let end = (centre + radius).ceil().min(f64::from(length)) as u32;
    let centre = centre - 0.5;
    let raw: Vec<f64> = (first..end).map(|pixel| kernel(f64::from(pixel) - centre)).collect();
    let zeros = raw.iter().take_while(|weight| **weight == 0.0).count();
    let sum: f64 = raw[zeros..].iter().sum();
    let mut weights: Vec<f64> =
        raw[zeros..].iter().map(|weight| if sum == 0.0 { *weight } else { weight / sum }).collect();
    while weights.last() == Some(&0.0) {
        weights.pop();
    }
    (first + zeros as u32, weights)
}

/// The most bits with which the largest weight still fits.
fn bits_for(largest: f64) -> u32 {
    let fits = |bits: u32| (largest * f64::from(1_u32 << (bits + 1))).round() < 32_768.0;
    (0..MOST_BITS).find(|bits| !fits(*bits)).unwrap_or(MOST_BITS - 1)
}

fn linear(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 { 1.0 - x } else { 0.0 }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_add_up_to_one_and_lie_inside() {
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            for (old, new) in [(1, 1), (1, 640), (2, 3), (1920, 640), (1080, 360), (640, 640), (7, 5), (3, 200)] {
                let axis = Axis::new(old, new, filter);
                assert_eq!(axis.taps.len(), new as usize);
                let unit = 1 << axis.bits;
                for tap in &axis.taps {
                    let count = tap.weight.iter().rposition(|weight| *weight != 0).map_or(0, |last| last as u32 + 1);
                    assert!(count > 0 && tap.first + count <= old, "{old} to {new}: {tap:?}");
                    let sum: i32 = tap.weight.iter().map(|weight| i32::from(*weight)).sum();
                    assert!((sum - unit).abs() <= 2, "{old} to {new}: {tap:?} of {unit}");
                }
            }
        }
    }

    #[test]
    fn what_keeps_its_size_keeps_its_bytes() {
        let axis = Axis::new(5, 5, Filter::Bicubic);
        assert_eq!(axis.bits, 14);
        assert_eq!(axis.taps[3], Tap { first: 3, weight: [16_384, 0, 0, 0] });
    }
}
