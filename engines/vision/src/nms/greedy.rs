//! Greedy NMS.

use super::overlap::iou;
use super::{Kept, finish, ranked};
use crate::{Candidates, GreedyNms, Real};

/// Takes the best candidate, drops those of its class that overlap it by more than the threshold, and so on; at most
/// `most`, best first. Equal to torchvision's `batched_nms` and, with `top_k` and `eta`, to Paddle's multiclass NMS.
/// `agnostic`: all classes count as one.
#[must_use]
pub fn greedy_nms<T: Real>(
    candidates: &Candidates<T>,
    parameters: &GreedyNms,
    agnostic: bool,
    most: usize,
) -> Vec<Kept<T>> {
    let mut kept = Vec::new();
    let mut groups: Vec<Group> = Vec::new();
    for index in ranked(candidates) {
        let class = if agnostic { 0 } else { candidates.classes[index] };
        let at = match groups.binary_search_by_key(&class, |group| group.class) {
            Ok(at) => at,
            Err(at) => {
                groups.insert(at, Group { class, seen: 0, threshold: parameters.iou_threshold, kept: Vec::new() });
                at
            }
        };
        let group = &mut groups[at];
        group.seen += 1;
        if parameters.top_k.is_some_and(|top_k| group.seen > top_k) {
            continue;
        }
        let corners = candidates.corners[index];
        let threshold = T::from_f32(group.threshold);
        if group.kept.iter().any(|other| iou(candidates.corners[*other], corners, T::zero()) > threshold) {
            continue;
        }
        group.kept.push(index);
        if parameters.eta < 1.0 && group.threshold > 0.5 {
            group.threshold *= parameters.eta;
        }
        kept.push(Kept { index, score: candidates.scores[index] });
        // Scores do not change, so what comes later is no better.
        if kept.len() == most {
            break;
        }
    }
    finish(candidates, kept, most)
}

/// The boxes of one class kept so far.
struct Group {
    class: u32,
    /// Candidates that came, kept or not.
    seen: usize,
    threshold: f32,
    kept: Vec<usize>,
}
