//! The boxes that take part in suppression.

use crate::{Coordinates, Real};

/// Most candidates of one picture; beyond, the best are kept.
pub const MAX_CANDIDATES: usize = 30_000;

/// Scored boxes of one picture, a vector per field so that loops over them vectorise.
#[derive(Clone, Debug, Default)]
pub struct Candidates<T = f32> {
    /// Left edges.
    pub x1: Vec<T>,
    /// Top edges.
    pub y1: Vec<T>,
    /// Right edges.
    pub x2: Vec<T>,
    /// Bottom edges.
    pub y2: Vec<T>,
    /// Confidences.
    pub scores: Vec<T>,
    /// Classes.
    pub classes: Vec<u32>,
    /// Rows of the head's output they come from; decides between equal scores.
    pub rows: Vec<u32>,
    /// What the edges are measured in.
    pub coordinates: Coordinates,
}

impl<T: Real> Candidates<T> {
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
}
