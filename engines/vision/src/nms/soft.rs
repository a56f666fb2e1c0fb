//! Soft-NMS (Bodla et al. 2017).

use super::overlap::iou;
use super::{Kept, finish};
use crate::{Candidates, Real, SoftKernel, SoftNms};

/// Takes the best candidate, lowers the scores of the rest of its class by their overlap with it, and so on until the
/// best score left is below the minimum; at most `most`, best first. `agnostic`: all classes count as one.
#[must_use]
pub fn soft_nms<T: Real>(
    candidates: &Candidates<T>,
    parameters: &SoftNms,
    agnostic: bool,
    most: usize,
) -> Vec<Kept<T>> {
    let class = |index: usize| if agnostic { 0 } else { candidates.classes[index] };
    // In order of class, then of row: the first of equal scores is the one of the lower row.
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_unstable_by_key(|index| (class(*index), candidates.rows[*index], candidates.classes[*index]));
    let mut kept = Vec::new();
    for group in order.chunk_by(|a, b| class(*a) == class(*b)) {
        pick(candidates, group, parameters, most, &mut kept);
    }
    finish(candidates, kept, most)
}

/// The picks of one class.
fn pick<T: Real>(
    candidates: &Candidates<T>,
    group: &[usize],
    parameters: &SoftNms,
    most: usize,
    kept: &mut Vec<Kept<T>>,
) {
    let minimum = T::from_f32(parameters.minimum_score);
    let mut rest: Vec<Kept<T>> =
        group.iter().map(|index| Kept { index: *index, score: candidates.scores[*index] }).collect();
    // Scores only fall, so the picks come in falling order and no class needs more than `most`.
    for _ in 0..most {
        rest.retain(|candidate| candidate.score >= minimum);
        let Some(best) = rest.iter().copied().reduce(|best, other| if other.score > best.score { other } else { best })
        else {
            return;
        };
        kept.push(best);
        rest.retain(|candidate| candidate.index != best.index);
        for candidate in &mut rest {
            let overlap = iou(candidates.corners[best.index], candidates.corners[candidate.index], T::zero());
            // Two boxes without area have no overlap to speak of.
            if overlap > T::zero() {
                candidate.score = candidate.score * decay(overlap, parameters.kernel);
            }
        }
    }
}

fn decay<T: Real>(overlap: T, kernel: SoftKernel) -> T {
    match kernel {
        SoftKernel::Linear { iou_threshold } if overlap > T::from_f32(iou_threshold) => T::one() - overlap,
        SoftKernel::Linear { .. } => T::one(),
        SoftKernel::Gaussian { sigma } => (-(overlap * overlap) / T::from_f32(sigma)).exp(),
    }
}
