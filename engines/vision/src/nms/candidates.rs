//! The boxes that take part in suppression.

use std::cmp::Ordering;

use super::Kept;
use crate::{BoundingBox, Coordinates, Detection, Letterbox, Real};

/// Most candidates of one picture; beyond, the best are kept.
pub const MAX_CANDIDATES: usize = 30_000;

/// Scored boxes of one picture, a vector per field.
#[derive(Clone, Debug, Default)]
pub struct Candidates<T = f32> {
    /// Corners `[x1, y1, x2, y2]`.
    pub(crate) corners: Vec<[T; 4]>,
    /// Confidences.
    pub(crate) scores: Vec<T>,
    /// Classes.
    pub(crate) classes: Vec<u32>,
    /// Rows of the head's output they come from; the lower comes first among equal scores.
    pub(crate) rows: Vec<u32>,
    /// What the corners are measured in.
    pub(crate) coordinates: Coordinates,
}

impl<T: Real> Candidates<T> {
    /// None, measured in pixels of the input.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// Forgets all, keeps the memory.
    pub fn clear(&mut self) {
        self.corners.clear();
        self.scores.clear();
        self.classes.clear();
        self.rows.clear();
    }

    /// Adds a candidate, unless its score or box is not finite or the box is inverted. Never holds more than twice
    /// 30,000.
    pub fn push(&mut self, corners: [T; 4], score: T, class: u32, row: u32) {
        let [x1, y1, x2, y2] = corners;
        let usable = score.is_finite() && corners.iter().all(|value| value.is_finite());
        if !usable || x1 > x2 || y1 > y2 {
            return;
        }
        self.corners.push(corners);
        self.scores.push(score);
        self.classes.push(class);
        self.rows.push(row);
        if self.len() >= 2 * MAX_CANDIDATES {
            self.truncate_to_best(MAX_CANDIDATES);
        }
    }

    /// Corners `[x1, y1, x2, y2]` of each.
    #[must_use]
    pub fn corners(&self) -> &[[T; 4]] {
        &self.corners
    }

    /// Confidence of each.
    #[must_use]
    pub fn scores(&self) -> &[T] {
        &self.scores
    }

    /// Class of each.
    #[must_use]
    pub fn classes(&self) -> &[u32] {
        &self.classes
    }

    /// Row of the head's output that each comes from.
    #[must_use]
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// What the corners are measured in.
    #[must_use]
    pub fn coordinates(&self) -> Coordinates {
        self.coordinates
    }

    /// Best score first, then lower row, then lower class.
    pub(super) fn order(&self, a: usize, b: usize) -> Ordering {
        let by_score = self.scores[b].partial_cmp(&self.scores[a]).unwrap_or(Ordering::Equal);
        by_score.then_with(|| (self.rows[a], self.classes[a]).cmp(&(self.rows[b], self.classes[b])))
    }

    /// Keeps the best `count`.
    pub(crate) fn truncate_to_best(&mut self, count: usize) {
        if self.len() <= count {
            return;
        }
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.select_nth_unstable_by(count, |a, b| self.order(*a, *b));
        order.truncate(count);
        order.sort_unstable();
        // Ascending, so each value moves to a place at or before its own.
        for (to, from) in order.into_iter().enumerate() {
            self.corners[to] = self.corners[from];
            self.scores[to] = self.scores[from];
            self.classes[to] = self.classes[from];
            self.rows[to] = self.rows[from];
        }
        self.corners.truncate(count);
        self.scores.truncate(count);
        self.classes.truncate(count);
        self.rows.truncate(count);
    }
}

impl Candidates<f32> {
    /// A kept candidate in the picture's own pixels, clipped to the picture.
    pub(crate) fn detection(&self, kept: Kept<f32>, letterbox: &Letterbox) -> Detection {
        let [x1, y1, x2, y2] = self.corners[kept.index];
        let bbox = BoundingBox { x1, y1, x2, y2 };
        let bbox = match self.coordinates {
            Coordinates::Input => letterbox.unmap(bbox),
            Coordinates::Source => letterbox.clip(bbox),
        };
        Detection { class_id: self.classes[kept.index], score: kept.score, bbox }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_or_inverted_is_left_out() {
        let mut candidates = Candidates::<f32>::new();
        candidates.push([0.0, 0.0, 1.0, 1.0], 0.5, 0, 0);
        candidates.push([0.0, 0.0, 1.0, 1.0], f32::NAN, 0, 1);
        candidates.push([0.0, 0.0, f32::INFINITY, 1.0], 0.5, 0, 2);
        candidates.push([0.0, f32::NAN, 1.0, 1.0], 0.5, 0, 3);
        candidates.push([2.0, 0.0, 1.0, 1.0], 0.5, 0, 4);
        assert_eq!(candidates.rows(), [0]);
    }

    #[test]
    fn the_number_is_bounded_and_the_best_stay() {
        let mut candidates = Candidates::<f32>::new();
        for row in 0..200_000_u32 {
            candidates.push([0.0, 0.0, 1.0, 1.0], ((row * 7919) % 200_000) as f32, 0, row);
            assert!(candidates.len() < 2 * MAX_CANDIDATES);
        }
        candidates.truncate_to_best(MAX_CANDIDATES);
        assert_eq!(candidates.len(), MAX_CANDIDATES);
        assert!(candidates.scores().iter().all(|score| *score >= 170_000.0));
    }
}
