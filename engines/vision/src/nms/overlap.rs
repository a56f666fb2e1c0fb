//! Intersection over union.

use crate::Real;

/// Intersection over union of two boxes. `offset` is 0 for continuous coordinates, 1 where they count pixels. Boxes that
/// touch meet. Two boxes without area give 0/0, which is NaN.
pub(super) fn iou<T: Real>(a: [T; 4], b: [T; 4], offset: T) -> T {
    if b[0] > a[2] || b[2] < a[0] || b[1] > a[3] || b[3] < a[1] {
        return T::zero();
    }
    let width = minimum(a[2], b[2]) - maximum(a[0], b[0]) + offset;
    let height = minimum(a[3], b[3]) - maximum(a[1], b[1]) + offset;
    let intersection = width * height;
    intersection / (area(a, offset) + area(b, offset) - intersection)
}

/// Area; 0 for an inverted box.
pub(super) fn area<T: Real>(corners: [T; 4], offset: T) -> T {
    let [x1, y1, x2, y2] = corners;
    if x2 < x1 || y2 < y1 { T::zero() } else { (x2 - x1 + offset) * (y2 - y1 + offset) }
}

/// The smaller; unlike `f32::min` without a rule for NaN, so that it is one instruction.
#[inline(always)]
pub(super) fn minimum<T: Real>(a: T, b: T) -> T {
    if b < a { b } else { a }
}

/// The larger; unlike `f32::max` without a rule for NaN, so that it is one instruction.
#[inline(always)]
pub(super) fn maximum<T: Real>(a: T, b: T) -> T {
    if b > a { b } else { a }
}
