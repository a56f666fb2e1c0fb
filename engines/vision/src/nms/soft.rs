//! Soft-NMS (Bodla et al. 2017).

use super::overlap::iou;
use super::{Kept, finish};
use crate::{Candidates, Real, SoftKernel, SoftNms};

/// Most candidates of one picture that take part in a request, the best. Each pick looks at all that are left, so without
/// a bound one picture with a low threshold holds a core up for all others.
pub const MAX_SOFT_CANDIDATES: usize = 2_000;

/// [`soft_nms`] of the best 2,000 candidates.
pub(super) fn soft_nms_of_best<T: Real>(
    candidates: &Candidates<T>,
    parameters: &SoftNms,
    agnostic: bool,
    most: usize,
) -> Vec<Kept<T>> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    if order.len() > MAX_SOFT_CANDIDATES {
        order.select_nth_unstable_by(MAX_SOFT_CANDIDATES, |a, b| candidates.order(*a, *b));
        order.truncate(MAX_SOFT_CANDIDATES);
    }
    among(candidates, order, parameters, agnostic, most)
}

/// Takes the best candidate, lowers the scores of the rest of its class by their overlap with it, and so on until the
/// best score left is below the minimum; at most `most`, best first. `agnostic`: all classes count as one. The time grows
/// with the square of the candidates of a class.
#[must_use]
pub fn soft_nms<T: Real>(
    candidates: &Candidates<T>,
    parameters: &SoftNms,
    agnostic: bool,
    most: usize,
) -> Vec<Kept<T>> {
    among(candidates, (0..candidates.len()).collect(), parameters, agnostic, most)
}

fn among<T: Real>(
    candidates: &Candidates<T>,
    mut order: Vec<usize>,
    parameters: &SoftNms,
    agnostic: bool,
    most: usize,
) -> Vec<Kept<T>> {
    let class = |index: usize| if agnostic { 0 } else { candidates.classes[index] };
    // In order of class, then of row: the first of equal scores is the one of the lower row.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_bound_the_best_take_part() {
        // Apart from each other, so that no score changes; the best come last.
        let count = MAX_SOFT_CANDIDATES + 500;
        let mut candidates = Candidates::<f64>::new();
        for row in 0..count {
            let left = 2.0 * row as f64;
            candidates.push(
                [left, 0.0, left + 1.0, 1.0],
                (row + 1) as f64 / count as f64,
                (row % 3) as u32,
                row as u32,
            );
        }
        let parameters = SoftNms { minimum_score: 0.0, ..SoftNms::default() };
        for agnostic in [false, true] {
            let rows = |kept: Vec<Kept<f64>>| kept.iter().map(|kept| kept.index).collect::<Vec<_>>();
            let best = soft_nms_of_best(&candidates, &parameters, agnostic, usize::MAX);
            assert!(rows(best).into_iter().eq((500..count).rev()));
            let all = soft_nms(&candidates, &parameters, agnostic, usize::MAX);
            assert!(rows(all).into_iter().eq((0..count).rev()), "the function itself knows no bound");
        }
    }
}
