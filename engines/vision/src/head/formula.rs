//! The formulas from a head's numbers to corners `[x1, y1, x2, y2]`, in either precision.

use crate::Real;

/// `1 / (1 + e^-x)`.
pub(super) fn sigmoid<T: Real>(x: T) -> T {
    T::one() / (T::one() + (-x).exp())
}

/// The logit below which `sigmoid` is certainly less than `probability`, in any precision.
pub(super) fn logit_below(probability: f32) -> f32 {
    if probability <= 0.0 {
        return f32::NEG_INFINITY;
    }
    let probability = f64::from(probability).min(1.0 - 1e-6);
    (probability / (1.0 - probability)).ln() as f32 - 1e-3
}

/// Centre and size to corners.
pub(super) fn corners<T: Real>([x, y, width, height]: [T; 4]) -> [T; 4] {
    let half = T::from_f32(0.5);
    let (across, down) = (width * half, height * half);
    [x - across, y - down, x + across, y + down]
}

/// YOLOv5 and v7: the centre within half a cell around its cell, the size up to four times the anchor's.
pub(super) fn yolov5<T: Real>(logits: [T; 4], cell: [usize; 2], stride: u32, anchor: [f32; 2]) -> [T; 4] {
    let [tx, ty, tw, th] = logits.map(sigmoid);
    let two = T::from_f32(2.0);
    let centre = |t: T, cell: usize| (two * t - T::from_f32(0.5) + count(cell)) * count(stride as usize);
    let size = |t: T, anchor: f32| T::from_f32(anchor) * (two * t).powi(2);
    corners([centre(tx, cell[0]), centre(ty, cell[1]), size(tw, anchor[0]), size(th, anchor[1])])
}

/// YOLOX: the centre as an offset from the cell, the size as a logarithm of strides.
pub(super) fn yolox<T: Real>([tx, ty, tw, th]: [T; 4], cell: [usize; 2], stride: u32) -> [T; 4] {
    let stride = count(stride as usize);
    corners([(tx + count(cell[0])) * stride, (ty + count(cell[1])) * stride, tw.exp() * stride, th.exp() * stride])
}

/// What `yolo_box` needs beside the logits.
pub(super) struct YoloBox {
    /// Cells across and down.
    pub grid: [usize; 2],
    /// Input pixels per cell.
    pub stride: u32,
    /// The picture's width and height.
    pub picture: (u32, u32),
    /// Grid Sensitive's alpha.
    pub scale_x_y: f32,
    /// Clip to the picture's last pixel.
    pub clip: bool,
}

/// YOLOv3 and PP-YOLO, Paddle's `yolo_box`: in the picture's own pixels, whatever its aspect ratio.
pub(super) fn yolo_box<T: Real>(logits: [T; 4], cell: [usize; 2], anchor: [f32; 2], of: &YoloBox) -> [T; 4] {
    let [tx, ty, tw, th] = logits;
    let alpha = T::from_f32(of.scale_x_y);
    let shift = (alpha - T::one()) * T::from_f32(0.5);
    let picture: [T; 2] = [count(of.picture.0 as usize), count(of.picture.1 as usize)];
    let centre = |t: T, axis: usize| {
        (count::<T>(cell[axis]) + alpha * sigmoid(t) - shift) * picture[axis] / count(of.grid[axis])
    };
    let size = |t: T, axis: usize| {
        t.exp() * T::from_f32(anchor[axis]) * picture[axis] / count(of.stride as usize * of.grid[axis])
    };
    let [x1, y1, x2, y2] = corners([centre(tx, 0), centre(ty, 1), size(tw, 0), size(th, 1)]);
    if of.clip {
        let [right, bottom] = picture.map(|length| length - T::one());
        let (left, top) = (if x1 > T::zero() { x1 } else { T::zero() }, if y1 > T::zero() { y1 } else { T::zero() });
        [left, top, if x2 > right { right } else { x2 }, if y2 > bottom { bottom } else { y2 }]
    } else {
        [x1, y1, x2, y2]
    }
}

/// PP-YOLO's confidence, `sigmoid(objectness)^(1-f) * sigmoid(iou)^f`.
pub(super) fn iou_aware<T: Real>(objectness: T, iou: T, factor: f32) -> T {
    let factor = T::from_f32(factor);
    sigmoid(objectness).powf(T::one() - factor) * sigmoid(iou).powf(factor)
}

/// A whole number; exact up to 2^24, and a grid or a picture is smaller.
pub(super) fn count<T: Real>(value: usize) -> T {
    T::from_f64(value as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_logits_give_the_cell_centre_and_the_anchor() {
        let [x1, y1, x2, y2] = yolov5([0.0_f64; 4], [3, 5], 8, [10.0, 13.0]);
        assert_eq!([(x1 + x2) / 2.0, (y1 + y2) / 2.0, x2 - x1, y2 - y1], [28.0, 44.0, 10.0, 13.0]);
    }

    #[test]
    fn iou_aware_confidence_of_known_values() {
        let logit = |p: f64| (p / (1.0 - p)).ln();
        assert!((iou_aware(logit(0.9), logit(0.5), 0.4) - 0.711432).abs() < 1e-6);
        assert!((iou_aware(logit(0.9), logit(0.5), 0.5) - 0.670820).abs() < 1e-6);
    }

    #[test]
    fn the_gate_never_cuts_a_probability_above() {
        for percent in 1..100 {
            let probability = percent as f32 / 100.0;
            assert!(sigmoid(logit_below(probability)) < probability);
            assert!(sigmoid(logit_below(probability)) > probability - 0.001);
        }
        assert_eq!(logit_below(0.0), f32::NEG_INFINITY);
    }
}
