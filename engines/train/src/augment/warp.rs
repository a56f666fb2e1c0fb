//! The random affine or perspective warp.

use std::ops::Range;

use detectd_vision::{BoundingBox, Image};
use glam::{Mat3, Vec2, Vec3};
use rand::Rng;

use super::{Augmentation, PADDING};
use crate::sample::{LabelledBox, Sample};

/// A mapping of the plane, from source pixels to target pixels.
pub struct Warp {
    matrix: Mat3,
    /// Its scaling alone, against which the loss of a box's area is judged.
    gain: f32,
}

impl Warp {
    /// `T · S · R · P · C`, applied right to left: centre, perspective, rotation and scale, shear, translation, from a
    /// square of side `source` to one of side `target`.
    pub fn random(augmentation: &Augmentation, source: u32, target: u32, rng: &mut impl Rng) -> Self {
        let mut around = |middle: f32, spread: f32| middle + spread * rng.random_range(-1.0..=1.0);
        let perspective = [around(0.0, augmentation.perspective), around(0.0, augmentation.perspective)];
        let angle = around(0.0, augmentation.degrees).to_radians();
        let gain = around(1.0, augmentation.scale);
        let shear = [around(0.0, augmentation.shear), around(0.0, augmentation.shear)];
        let shift = [around(0.5, augmentation.translate), around(0.5, augmentation.translate)];
        Self::new(source as f32, target as f32, perspective, angle, gain, shear, shift)
    }

    fn new(
        source: f32,
        target: f32,
        perspective: [f32; 2],
        angle: f32,
        gain: f32,
        shear: [f32; 2],
        shift: [f32; 2],
    ) -> Self {
        let centre = Mat3::from_translation(Vec2::splat(-source / 2.0));
        let tilt = Mat3::from_cols(Vec3::new(1.0, 0.0, perspective[0]), Vec3::new(0.0, 1.0, perspective[1]), Vec3::Z);
        // Positive angles turn counter-clockwise on the screen, where y points down.
        let turn = Mat3::from_scale_angle_translation(Vec2::splat(gain), -angle, Vec2::ZERO);
        let [shear_x, shear_y] = shear.map(|degrees| degrees.to_radians().tan());
        let shear = Mat3::from_cols(Vec3::new(1.0, shear_y, 0.0), Vec3::new(shear_x, 1.0, 0.0), Vec3::Z);
        let place = Mat3::from_translation(Vec2::from(shift) * target);
        Self { matrix: place * shear * turn * tilt * centre, gain }
    }

    /// `sample` warped onto a `size` x `size` canvas.
    pub fn apply(&self, sample: Sample, size: u32) -> Sample {
        let identity = self.matrix.abs_diff_eq(Mat3::IDENTITY, 1e-7);
        let same_size = sample.image.width() == size && sample.image.height() == size;
        if identity && same_size {
            return sample;
        }
        let boxes = sample.boxes.iter().filter_map(|labelled| self.labelled_box(labelled, size as f32)).collect();
        Sample { image: self.image(&sample.image, size), boxes }
    }

    /// The hull of the box's warped corners, cut at the canvas; `None` if too little of it is left.
    fn labelled_box(&self, labelled: &LabelledBox, size: f32) -> Option<LabelledBox> {
        const MIN_SIDE: f32 = 2.0;
        const MAX_ASPECT: f32 = 100.0;
        const MIN_AREA_LEFT: f32 = 0.1;
        let BoundingBox { x1, y1, x2, y2 } = labelled.bbox;
        let corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)].map(|(x, y)| {
            let point = self.matrix * Vec3::new(x, y, 1.0);
            (point.z > 1e-6).then(|| point.truncate() / point.z)
        });
        // A corner behind the viewer has no image.
        let [Some(a), Some(b), Some(c), Some(d)] = corners else { return None };
        let low = a.min(b).min(c).min(d).clamp(Vec2::ZERO, Vec2::splat(size));
        let high = a.max(b).max(c).max(d).clamp(Vec2::ZERO, Vec2::splat(size));
        let (width, height) = (high.x - low.x, high.y - low.y);
        let before = labelled.bbox.area() * self.gain * self.gain;
        let kept = width > MIN_SIDE
            && height > MIN_SIDE
            && width / height < MAX_ASPECT
            && height / width < MAX_ASPECT
            && width * height > MIN_AREA_LEFT * before;
        kept.then(|| LabelledBox { bbox: BoundingBox::new(low.x, low.y, high.x, high.y), ..*labelled })
    }

    /// Bilinear resampling: the colour of a target pixel is that of the source where its middle comes from.
    fn image(&self, source: &Image, size: u32) -> Image {
        let mut target = Image::filled(size, size, PADDING);
        let inverse = self.matrix.inverse();
        if !inverse.is_finite() {
            return target;
        }
        let sampler = Sampler::new(source);
        let affine = inverse.x_axis.z == 0.0 && inverse.y_axis.z == 0.0;
        for (row, pixels) in target.pixels_mut().chunks_exact_mut(size as usize * 3).enumerate() {
            let start = inverse * Vec3::new(0.5, row as f32 + 0.5, 1.0);
            let (pixels, _) = pixels.as_chunks_mut::<3>();
            if affine {
                let (step, start) = (inverse.x_axis.truncate(), start.truncate() / start.z - 0.5);
                let touched = sampler.columns_touched(start, step, pixels.len());
                let inner = sampler.columns_inside(start, step, pixels.len());
                let inner = inner.start.clamp(touched.start, touched.end)..inner.end.clamp(touched.start, touched.end);
                for column in (touched.start..inner.start).chain(inner.end.max(inner.start)..touched.end) {
                    pixels[column] = sampler.at_border(start + step * column as f32);
                }
                for column in inner {
                    pixels[column] = sampler.at(start + step * column as f32);
                }
            } else {
                for (column, pixel) in pixels.iter_mut().enumerate() {
                    let point = start + inverse.x_axis * column as f32;
                    if point.z > 1e-6 {
                        *pixel = sampler.at_border(point.truncate() / point.z - 0.5);
                    }
                }
            }
        }
        target
    }
}

/// Bilinear lookup with weights in 1/256, coordinates counted from the middle of the first pixel.
struct Sampler<'a> {
    pixels: &'a [[u8; 3]],
    width: usize,
    height: usize,
}

impl<'a> Sampler<'a> {
    fn new(image: &'a Image) -> Self {
        let (pixels, _) = image.pixels().as_chunks::<3>();
        Self { pixels, width: image.width() as usize, height: image.height() as usize }
    }

    /// Columns whose four neighbours all lie in the picture, with a pixel to spare for rounding.
    fn columns_inside(&self, start: Vec2, step: Vec2, columns: usize) -> Range<usize> {
        let high = Vec2::new(self.width as f32 - 2.0, self.height as f32 - 2.0);
        range_between(start, step, Vec2::splat(1e-2), high - 1e-2, columns)
    }

    /// Columns that the picture or its antialiased border reaches.
    fn columns_touched(&self, start: Vec2, step: Vec2, columns: usize) -> Range<usize> {
        let range = range_between(
            start,
            step,
            Vec2::splat(-1.01),
            Vec2::new(self.width as f32, self.height as f32) + 0.01,
            columns,
        );
        range.start.saturating_sub(1)..(range.end + 1).min(columns)
    }

    /// The colour at a point whose four neighbours lie in the picture.
    fn at(&self, point: Vec2) -> [u8; 3] {
        let (x, y) = ((point.x * 256.0) as usize, (point.y * 256.0) as usize);
        let (column, row) = (x >> 8, y >> 8);
        let (u, v) = ((x & 255) as u32, (y & 255) as u32);
        let first = row * self.width + column;
        let upper = &self.pixels[first..first + 2];
        let lower = &self.pixels[first + self.width..first + self.width + 2];
        blend([upper[0], upper[1], lower[0], lower[1]], u, v)
    }

    /// The colour at any point; beyond the edge everything is [`PADDING`].
    fn at_border(&self, point: Vec2) -> [u8; 3] {
        let outside =
            point.x <= -1.0 || point.y <= -1.0 || point.x >= self.width as f32 || point.y >= self.height as f32;
        if outside || !point.is_finite() {
            return PADDING;
        }
        let (x, y) = ((point.x * 256.0).floor() as i64, (point.y * 256.0).floor() as i64);
        let get = |column: i64, row: i64| {
            let inside = (0..self.width as i64).contains(&column) && (0..self.height as i64).contains(&row);
            if inside { self.pixels[row as usize * self.width + column as usize] } else { PADDING }
        };
        let (column, row) = (x >> 8, y >> 8);
        let corners = [get(column, row), get(column + 1, row), get(column, row + 1), get(column + 1, row + 1)];
        blend(corners, (x & 255) as u32, (y & 255) as u32)
    }
}

/// The columns `c` in `0..columns` for which `low <= start + c * step <= high` on both axes.
fn range_between(start: Vec2, step: Vec2, low: Vec2, high: Vec2, columns: usize) -> Range<usize> {
    let (mut first, mut last) = (0.0f32, columns as f32 - 1.0);
    for axis in 0..2 {
        if step[axis].abs() < 1e-9 {
            if start[axis] < low[axis] || start[axis] > high[axis] {
                return 0..0;
            }
            continue;
        }
        let (a, b) = ((low[axis] - start[axis]) / step[axis], (high[axis] - start[axis]) / step[axis]);
        first = first.max(a.min(b));
        last = last.min(a.max(b));
    }
    if first > last { 0..0 } else { first.ceil() as usize..last.floor() as usize + 1 }
}

fn blend([a, b, c, d]: [[u8; 3]; 4], u: u32, v: u32) -> [u8; 3] {
    std::array::from_fn(|channel| {
        let upper = u32::from(a[channel]) * (256 - u) + u32::from(b[channel]) * u;
        let lower = u32::from(c[channel]) * (256 - u) + u32::from(d[channel]) * u;
        ((upper * (256 - v) + lower * v + 32768) >> 16) as u8
    })
}

#[cfg(test)]
mod tests;
