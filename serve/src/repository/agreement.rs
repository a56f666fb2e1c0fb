//! How far two versions see the same in a picture.

use detectd_vision::Detection;

/// Boxes that overlap less are of different objects.
const MIN_IOU: f32 = 0.5;

/// Two answers for one picture, side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Agreement {
    /// Boxes in the first answer.
    pub first: usize,
    /// Boxes in the second.
    pub second: usize,
    /// Pairs of boxes that overlap and have one class.
    pub matched: usize,
    /// Pairs that overlap, but have different classes.
    pub class_changes: usize,
    /// The scores' differences over all matched pairs, second less first, summed.
    pub score_shift: f64,
}

impl Agreement {
    /// Pairs boxes greedily, the best of `first` first, with the box of `second` that overlaps most; one of the same
    /// class goes before any other.
    #[must_use]
    pub fn between(first: &[Detection], second: &[Detection]) -> Self {
        let mut agreement = Self { first: first.len(), second: second.len(), ..Self::default() };
        let mut taken = vec![false; second.len()];
        let mut alone = Vec::new();
        for one in first {
            match nearest(one, second, &taken, true) {
                Some(index) => {
                    taken[index] = true;
                    agreement.matched += 1;
                    agreement.score_shift += f64::from(second[index].score - one.score);
                }
                None => alone.push(one),
            }
        }
        for one in alone {
            if let Some(index) = nearest(one, second, &taken, false) {
                taken[index] = true;
                agreement.class_changes += 1;
            }
        }
        agreement
    }

    /// From 0, nothing in common, to 1: every box has its like (the F1 score of one answer against the other). Two empty
    /// answers agree.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        let boxes = self.first + self.second;
        if boxes == 0 { 1.0 } else { 2.0 * self.matched as f64 / boxes as f64 }
    }
}

fn nearest(one: &Detection, others: &[Detection], taken: &[bool], same_class: bool) -> Option<usize> {
    let candidates = others
        .iter()
        .enumerate()
        .zip(taken)
        .filter(|((_, other), taken)| !**taken && (!same_class || other.class_id == one.class_id));
    let overlaps = candidates.map(|((index, other), _)| (index, one.bbox.iou(&other.bbox)));
    overlaps.filter(|(_, iou)| *iou >= MIN_IOU).max_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use detectd_vision::BoundingBox;

    use super::*;

    fn found(class_id: u32, score: f32, x1: f32) -> Detection {
        Detection { class_id, score, bbox: BoundingBox::new(x1, 0.0, x1 + 100.0, 100.0) }
    }

    #[test]
    fn boxes_are_paired_once() {
        let first = [found(1, 0.9, 0.0), found(1, 0.8, 10.0), found(2, 0.7, 500.0)];
        let second = [found(1, 0.8, 2.0), found(3, 0.6, 505.0)];
        let agreement = Agreement::between(&first, &second);
        assert_eq!((agreement.first, agreement.second), (3, 2));
        assert_eq!((agreement.matched, agreement.class_changes), (1, 1));
        assert!((agreement.score_shift + 0.1).abs() < 1e-6);
        assert!((agreement.ratio() - 0.4).abs() < 1e-9);
    }

    #[test]
    fn empty_answers() {
        assert_eq!(Agreement::between(&[], &[]).ratio(), 1.0);
        assert_eq!(Agreement::between(&[found(1, 0.9, 0.0)], &[]).ratio(), 0.0);
    }
}
