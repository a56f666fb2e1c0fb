//! From light to a photograph: falloff of the lamp, vignette, white balance, blur, sensor noise, 8-bit sRGB.

use detectd_vision::Image;
use glam::{Vec2, Vec3};
use rand::Rng;

use super::canvas::Canvas;
use super::noise;

/// Photographs the finished canvas with random settings.
pub fn photograph(canvas: &Canvas, rng: &mut impl Rng) -> Image {
    let size = Vec2::new(canvas.width as f32, canvas.height as f32);
    let exposure = rng.random_range(0.7..1.35);
    let warmth = rng.random_range(-0.16..0.16);
    let gain = Vec3::new(1.0 + warmth, 1.0 + rng.random_range(-0.03..0.03), 1.0 - warmth) * exposure;
    let lamp = Vec2::new(rng.random_range(0.0..1.0), rng.random_range(0.0..1.0));
    let (falloff, vignette) = (rng.random_range(0.0..0.5), rng.random_range(0.0..0.45));
    let grain = if rng.random_bool(0.7) { rng.random_range(1.0..7.0) } else { 0.0 };
    let seed: u32 = rng.random();
    let sigma = if rng.random_bool(0.45) { rng.random_range(0.3..1.0) * size.min_element() / 320.0 } else { 0.0 };

    let blurred;
    let colours = if sigma > 0.0 {
        blurred = blur(canvas, sigma);
        &blurred
    } else {
        &canvas.colours
    };
    let mut pixels = Vec::with_capacity(colours.len() * 3);
    for (index, colour) in colours.iter().enumerate() {
        let (column, row) = ((index % canvas.width as usize) as i32, (index / canvas.width as usize) as i32);
        let position = Vec2::new(column as f32, row as f32) / size;
        let light = 1.0 - falloff * (position - lamp).length_squared().min(1.0);
        let corner = 1.0 - vignette * (position - 0.5).length_squared() * 2.0;
        let exposed = *colour * gain * (light * corner);
        // A soft shoulder keeps highlights from clipping hard; the root is the display's gamma.
        let shown = exposed / (1.0 + 0.22 * exposed);
        for (channel, value) in shown.to_array().into_iter().enumerate() {
            let noise = grain * gaussian(column, row, seed.wrapping_add(channel as u32));
            pixels.push((value.max(0.0).sqrt() * 255.0 + noise + 0.5).clamp(0.0, 255.0) as u8);
        }
    }
    Image::new(canvas.width as u32, canvas.height as u32, pixels)
        .unwrap_or_else(|| unreachable!("one triple was pushed for each of the canvas's pixels"))
}

/// Nearly normal with mean 0 and deviation 1: the sum of four uniform bytes of one hash.
fn gaussian(column: i32, row: i32, seed: u32) -> f32 {
    let sum: u32 = noise::hash(column, row, seed).to_le_bytes().into_iter().map(u32::from).sum();
    (sum as f32 - 510.0) / 147.8
}

/// Gaussian blur with edges repeated, rows first, then columns.
fn blur(canvas: &Canvas, sigma: f32) -> Vec<Vec3> {
    let reach = (2.5 * sigma).ceil() as i32;
    let mut weights: Vec<f32> = (-reach..=reach).map(|i| (-0.5 * (i as f32 / sigma).powi(2)).exp()).collect();
    let total: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total);
    let (width, height) = (canvas.width, canvas.height);
    let pass = |source: &[Vec3], step: (i32, i32)| {
        let mut target = Vec::with_capacity(source.len());
        for row in 0..height {
            for column in 0..width {
                let mut sum = Vec3::ZERO;
                for (offset, weight) in (-reach..=reach).zip(&weights) {
                    let x = (column + offset * step.0).clamp(0, width - 1);
                    let y = (row + offset * step.1).clamp(0, height - 1);
                    sum += source[(y * width + x) as usize] * *weight;
                }
                target.push(sum);
            }
        }
        target
    };
    pass(&pass(&canvas.colours, (1, 0)), (0, 1))
}
