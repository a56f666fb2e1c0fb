//! Where decoded rows go: through the thresholds into candidates, or all of them into a list.

use crate::{Candidates, DetectOptions, Real};

/// Takes the rows of a head one by one.
pub(super) trait Sink<T: Real> {
    /// Rows whose objectness is certainly less may be left out without asking [`Self::wants`].
    fn least_objectness(&self) -> f32;

    /// A row of this objectness is worth decoding.
    fn wants(&self, objectness: T) -> bool;

    /// Takes a row: its index in the head's order, corners, objectness (1 where the head has none), and the
    /// probability of each class.
    fn take(&mut self, row: usize, corners: [T; 4], objectness: T, class: &dyn Fn(usize) -> T);
}

/// Keeps what passes the thresholds and the class filter.
pub(super) struct Filter<'a, T> {
    pub options: &'a DetectOptions,
    /// Number of classes.
    pub classes: usize,
    /// A score equal to the threshold is kept (YOLOX).
    pub keeps_equal: bool,
    pub out: &'a mut Candidates<T>,
}

impl<T: Real> Filter<'_, T> {
    fn passes(&self, score: T) -> bool {
        let threshold = T::from_f32(self.options.score_threshold);
        score > threshold || (self.keeps_equal && score == threshold)
    }
}

impl<T: Real> Sink<T> for Filter<'_, T> {
    fn least_objectness(&self) -> f32 {
        self.options.score_threshold
    }

    fn wants(&self, objectness: T) -> bool {
        self.passes(objectness)
    }

    fn take(&mut self, row: usize, corners: [T; 4], objectness: T, class: &dyn Fn(usize) -> T) {
        if self.options.multi_label {
            for index in 0..self.classes {
                let score = objectness * class(index);
                if self.passes(score) && self.options.allows(index as u32) {
                    self.out.push(corners, score, index as u32, row as u32);
                }
            }
            return;
        }
        // The first of equal classes, as argmax does. NaN never wins.
        let mut best = (0, T::neg_infinity());
        for index in 0..self.classes {
            let score = objectness * class(index);
            if score > best.1 {
                best = (index, score);
            }
        }
        if self.passes(best.1) && self.options.allows(best.0 as u32) {
            self.out.push(corners, best.1, best.0 as u32, row as u32);
        }
    }
}

/// Every row of a head for one picture, before any threshold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DecodedRows<T = f32> {
    /// Number of classes.
    pub classes: usize,
    /// Corners of each row.
    pub corners: Vec<[T; 4]>,
    /// Objectness of each row; 1 where the head has none.
    pub objectness: Vec<T>,
    /// Class probabilities, row by row. A score is objectness times probability.
    pub probabilities: Vec<T>,
}

impl<T: Real> Sink<T> for DecodedRows<T> {
    fn least_objectness(&self) -> f32 {
        f32::NEG_INFINITY
    }

    fn wants(&self, _: T) -> bool {
        true
    }

    fn take(&mut self, _: usize, corners: [T; 4], objectness: T, class: &dyn Fn(usize) -> T) {
        self.corners.push(corners);
        self.objectness.push(objectness);
        self.probabilities.extend((0..self.classes).map(class));
    }
}
