//! Precision over recall for one class.

use super::THRESHOLDS;

/// Number of recall levels at which precision is read.
const RECALL_LEVELS: usize = 101;

/// A detection and, for each IoU threshold, whether it found an object.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub score: f32,
    pub correct: [bool; THRESHOLDS],
}

/// All detections of one class, best score first.
pub struct Curve {
    objects: usize,
    outcomes: Vec<Outcome>,
    /// How many of the first n + 1 detections are correct at IoU 0.5.
    correct: Vec<usize>,
}

impl Curve {
    /// A curve for `objects` labelled objects, at least 1.
    pub fn new(objects: usize, mut outcomes: Vec<Outcome>) -> Self {
        outcomes.sort_by(|a, b| b.score.total_cmp(&a.score));
        let correct = running_count(&outcomes, 0);
        Self { objects, outcomes, correct }
    }

    pub fn objects(&self) -> usize {
        self.objects
    }

    /// For recall 0, 0.01, … 1, the best precision at that recall or beyond, 0 if it is not reached.
    pub fn interpolated(&self, level: usize) -> Vec<f64> {
        let correct = if level == 0 { &self.correct } else { &running_count(&self.outcomes, level) };
        let mut envelope: Vec<f64> =
            correct.iter().enumerate().map(|(index, correct)| *correct as f64 / (index + 1) as f64).collect();
        for index in (1..envelope.len()).rev() {
            envelope[index - 1] = envelope[index - 1].max(envelope[index]);
        }
        let recall: Vec<f64> = correct.iter().map(|correct| *correct as f64 / self.objects as f64).collect();
        (0..RECALL_LEVELS)
            .map(|step| {
                let wanted = step as f64 / (RECALL_LEVELS - 1) as f64;
                let first = recall.partition_point(|recall| *recall < wanted);
                envelope.get(first).copied().unwrap_or(0.0)
            })
            .collect()
    }

    /// Precision and recall at IoU 0.5 of the detections that score `threshold` or more.
    pub fn at(&self, threshold: f32) -> (f64, f64) {
        let kept = self.outcomes.partition_point(|outcome| outcome.score >= threshold);
        let Some(last) = kept.checked_sub(1) else { return (0.0, 0.0) };
        let correct = self.correct[last] as f64;
        (correct / kept as f64, correct / self.objects as f64)
    }

    fn f1(&self, threshold: f32) -> f64 {
        let (precision, recall) = self.at(threshold);
        let sum = precision + recall;
        if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 }
    }
}

/// The threshold, of 1000 evenly spaced ones, with the best sum of the curves' F1; the lowest of equals.
pub fn best_threshold(curves: &[(u32, Curve)]) -> f32 {
    let mut best = (0.0, 0.0);
    for step in 0..1000 {
        let threshold = step as f32 / 1000.0;
        let sum: f64 = curves.iter().map(|(_, curve)| curve.f1(threshold)).sum();
        if sum > best.1 {
            best = (threshold, sum);
        }
    }
    best.0
}

fn running_count(outcomes: &[Outcome], level: usize) -> Vec<usize> {
    let counted = outcomes.iter().scan(0, |count, outcome| {
        *count += usize::from(outcome.correct[level]);
        Some(*count)
    });
    counted.collect()
}
