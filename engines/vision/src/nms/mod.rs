//! Suppression: from candidates to detections.

mod candidates;
mod field;
mod greedy;
mod matrix;
mod overlap;
mod soft;
mod tensor;

pub use candidates::{Candidates, MAX_CANDIDATES};
pub use greedy::greedy_nms;
pub use matrix::{MatrixScratch, matrix_nms};
pub use soft::{MAX_SOFT_CANDIDATES, soft_nms};
pub use tensor::{MatrixNmsArguments, MatrixNmsBatch, MatrixNmsOutput, matrix_nms_batch};

use crate::{DetectOptions, Nms, Real};

/// A candidate that suppression kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept<T = f32> {
    /// Index into the candidates.
    pub index: usize,
    /// Score after suppression.
    pub score: T,
}

/// Buffers that are kept between pictures; one per thread.
#[derive(Debug, Default)]
pub struct NmsScratch {
    pub(crate) candidates: Candidates<f32>,
    matrix: MatrixScratch<f32>,
}

/// Applies the method that the options name; best first.
pub(crate) fn suppress(candidates: &Candidates, options: &DetectOptions, scratch: &mut NmsScratch) -> Vec<Kept> {
    let (agnostic, most) = (options.class_agnostic, options.max_detections);
    match &options.nms {
        Nms::Matrix(parameters) => matrix_nms(candidates, parameters, agnostic, most, &mut scratch.matrix),
        Nms::Greedy(parameters) => greedy_nms(candidates, parameters, agnostic, most),
        Nms::Soft(parameters) => soft::soft_nms_of_best(candidates, parameters, agnostic, most),
    }
}

/// The best `most` candidates as they are, best first.
pub(crate) fn best<T: Real>(candidates: &Candidates<T>, most: usize) -> Vec<Kept<T>> {
    let mut order = ranked(candidates);
    order.truncate(most);
    order.into_iter().map(|index| Kept { index, score: candidates.scores[index] }).collect()
}

/// Indices, best first.
fn ranked<T: Real>(candidates: &Candidates<T>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_unstable_by(|a, b| candidates.order(*a, *b));
    order
}

/// Puts what was kept in order of the scores after suppression, and cuts it.
fn finish<T: Real>(candidates: &Candidates<T>, mut kept: Vec<Kept<T>>, most: usize) -> Vec<Kept<T>> {
    kept.sort_unstable_by(|a, b| {
        let by_score = b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal);
        by_score.then_with(|| {
            let key = |index: usize| (candidates.rows[index], candidates.classes[index]);
            key(a.index).cmp(&key(b.index))
        })
    });
    kept.truncate(most);
    kept
}
