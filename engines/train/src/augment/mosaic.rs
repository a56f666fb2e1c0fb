//! Several pictures on one canvas.

use std::borrow::Cow;

use detectd_vision::{BoundingBox, Image};
use fast_image_resize as fir;

use super::PADDING;
use crate::sample::{LabelledBox, Sample};

/// Puts four samples around the point `centre` (x, y) of a `2 size` x `2 size` canvas: upper left, upper right, lower
/// left, lower right. Each is first scaled so that its longer side is `size`.
pub fn mosaic(samples: [&Sample; 4], size: u32, centre: [u32; 2]) -> Sample {
    let side = i64::from(2 * size);
    let mut canvas = Sample { image: Image::filled(2 * size, 2 * size, PADDING), boxes: Vec::new() };
    for (quarter, sample) in samples.into_iter().enumerate() {
        let (image, scale) = fitted(sample, size);
        let left = i64::from(centre[0]) - if quarter % 2 == 0 { i64::from(image.width()) } else { 0 };
        let top = i64::from(centre[1]) - if quarter < 2 { i64::from(image.height()) } else { 0 };
        paste(&mut canvas.image, &image, left, top);
        place_boxes(&mut canvas.boxes, sample, scale, [left as f32, top as f32], side as f32);
    }
    canvas
}

/// `sample` scaled so that its longer side is `size` and put in the middle of a `size` x `size` canvas.
pub fn letterbox(sample: &Sample, size: u32) -> Sample {
    let (image, scale) = fitted(sample, size);
    let (left, top) = ((size - image.width()) / 2, (size - image.height()) / 2);
    let mut canvas = Sample { image: Image::filled(size, size, PADDING), boxes: Vec::new() };
    paste(&mut canvas.image, &image, i64::from(left), i64::from(top));
    place_boxes(&mut canvas.boxes, sample, scale, [left as f32, top as f32], size as f32);
    canvas
}

/// The picture scaled so that its longer side is `size`, and the scale of each axis.
fn fitted(sample: &Sample, size: u32) -> (Cow<'_, Image>, [f32; 2]) {
    let (width, height) = (sample.image.width(), sample.image.height());
    let longer = width.max(height);
    if longer == size {
        return (Cow::Borrowed(&sample.image), [1.0; 2]);
    }
    let ratio = f64::from(size) / f64::from(longer);
    let scaled = |side: u32| ((f64::from(side) * ratio).round() as u32).max(1);
    let (new_width, new_height) = (scaled(width), scaled(height));
    let mut target = Image::filled(new_width, new_height, PADDING);
    resize(&sample.image, &mut target);
    let scale = [new_width as f32 / width as f32, new_height as f32 / height as f32];
    (Cow::Owned(target), scale)
}

fn resize(source: &Image, target: &mut Image) {
    let (width, height) = (target.width(), target.height());
    let view = fir::images::ImageRef::new(source.width(), source.height(), source.pixels(), fir::PixelType::U8x3);
    let into = fir::images::Image::from_slice_u8(width, height, target.pixels_mut(), fir::PixelType::U8x3);
    let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear));
    let (Ok(view), Ok(mut into)) = (view, into) else { unreachable!("an Image's buffer has the size of its sides") };
    if fir::Resizer::new().resize(&view, &mut into, &options).is_err() {
        unreachable!("both sides have the same pixel type");
    }
}

/// Copies the part of `image` that falls on `canvas` when its corner is put at (`left`, `top`).
fn paste(canvas: &mut Image, image: &Image, left: i64, top: i64) {
    let clip = |start: i64, length: u32, limit: u32| {
        let (from, to) = (start.clamp(0, i64::from(limit)), (start + i64::from(length)).clamp(0, i64::from(limit)));
        (from as usize, to as usize)
    };
    let (x1, x2) = clip(left, image.width(), canvas.width());
    let (y1, y2) = clip(top, image.height(), canvas.height());
    let (stride, source_stride) = (canvas.width() as usize * 3, image.width() as usize * 3);
    let (dx, bytes) = (((x1 as i64 - left) as usize) * 3, (x2 - x1) * 3);
    for y in y1..y2 {
        let from = ((y as i64 - top) as usize) * source_stride + dx;
        canvas.pixels_mut()[y * stride + x1 * 3..][..bytes].copy_from_slice(&image.pixels()[from..from + bytes]);
    }
}

/// Adds `sample`'s boxes, scaled and shifted, cut at the canvas; those entirely off it are left out.
fn place_boxes(boxes: &mut Vec<LabelledBox>, sample: &Sample, scale: [f32; 2], shift: [f32; 2], side: f32) {
    boxes.extend(sample.boxes.iter().filter_map(|labelled| {
        let bbox = labelled.bbox;
        let x = |value: f32| (value * scale[0] + shift[0]).clamp(0.0, side);
        let y = |value: f32| (value * scale[1] + shift[1]).clamp(0.0, side);
        let bbox = BoundingBox::new(x(bbox.x1), y(bbox.y1), x(bbox.x2), y(bbox.y2));
        (bbox.area() > 0.0).then_some(LabelledBox { bbox, ..*labelled })
    }));
}
