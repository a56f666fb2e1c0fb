//! Suppression: from candidates to detections.

mod candidates;

pub use candidates::Candidates;

/// Buffers that are kept between pictures; one per thread.
#[derive(Debug, Default)]
pub struct NmsScratch {
    candidates: Candidates<f32>,
}
