//! What a detector answers.

use serde::{Deserialize, Serialize};

/// A box by two corners, in pixels, `x1 <= x2` and `y1 <= y2`; the origin is the picture's top-left corner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BoundingBox {
    /// Left edge.
    pub x1: f32,
    /// Top edge.
    pub y1: f32,
    /// Right edge.
    pub x2: f32,
    /// Bottom edge.
    pub y2: f32,
}

impl BoundingBox {
    /// A box from its corners.
    #[must_use]
    pub fn new(x1: f32, y1: f32, x2: f32, y2: f32) -> Self {
        Self { x1, y1, x2, y2 }
    }

    /// Horizontal extent; 0 for an inverted box.
    #[must_use]
    pub fn width(&self) -> f32 {
        (self.x2 - self.x1).max(0.0)
    }

    /// Vertical extent; 0 for an inverted box.
    #[must_use]
    pub fn height(&self) -> f32 {
        (self.y2 - self.y1).max(0.0)
    }

    /// Area in square pixels; 0 for an inverted box.
    #[must_use]
    pub fn area(&self) -> f32 {
        self.width() * self.height()
    }

    /// Intersection over union with `other`, in `[0, 1]`; 0 when both are empty.
    #[must_use]
    pub fn iou(&self, other: &Self) -> f32 {
        let width = (self.x2.min(other.x2) - self.x1.max(other.x1)).max(0.0);
        let height = (self.y2.min(other.y2) - self.y1.max(other.y1)).max(0.0);
        let intersection = width * height;
        let union = self.area() + other.area() - intersection;
        if union > 0.0 { intersection / union } else { 0.0 }
    }

    /// All four coordinates are finite and the box is not inverted.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        [self.x1, self.y1, self.x2, self.y2].iter().all(|v| v.is_finite()) && self.x1 <= self.x2 && self.y1 <= self.y2
    }
}

/// One object found in a picture.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Index into the model's labels.
    pub class_id: u32,
    /// Confidence in `[0, 1]`.
    pub score: f32,
    /// Where it is, in the picture's own pixels.
    pub bbox: BoundingBox,
}
