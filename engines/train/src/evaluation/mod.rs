//! How good detections are: mean average precision as COCO defines it, and precision and recall at the best threshold.
//!
//! Detections of a picture are matched to its objects class by class, best score first, each to the free object it
//! overlaps most, once for each of ten IoU thresholds from 0.5 to 0.95. Average precision is the mean, over 101 recall
//! levels from 0 to 1, of the best precision at that recall or a higher one. Classes without objects do not count.

mod curve;

use detectd_vision::{BoundingBox, Detection};
use serde::{Deserialize, Serialize};

use crate::sample::LabelledBox;
use curve::{Curve, Outcome};

/// IoU thresholds from 0.5 to 0.95 in steps of 0.05.
const THRESHOLDS: usize = 10;

/// Detections counted per picture and class: those with the best scores, as in COCO's primary metric.
pub const MAX_DETECTIONS: usize = 100;

/// The result over all pictures. Everything is in `[0, 1]`; 0 where there is nothing to average.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Mean average precision at IoU 0.5.
    pub map50: f64,
    /// Mean average precision over IoU 0.5 to 0.95.
    pub map50_95: f64,
    /// Mean precision over the classes at [`Metrics::threshold`] and IoU 0.5.
    pub precision: f64,
    /// Mean recall over the classes at [`Metrics::threshold`] and IoU 0.5.
    pub recall: f64,
    /// The score threshold at which the mean F1 of the classes is best.
    pub threshold: f32,
    /// Pictures evaluated.
    pub pictures: usize,
    /// One entry for each class that has objects.
    pub per_class: Vec<ClassMetrics>,
}

/// The result of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// Index into the class names.
    pub class_id: u32,
    /// Labelled objects.
    pub objects: usize,
    /// Average precision at IoU 0.5.
    pub ap50: f64,
    /// Average precision over IoU 0.5 to 0.95.
    pub ap50_95: f64,
    /// Precision at [`Metrics::threshold`].
    pub precision: f64,
    /// Recall at [`Metrics::threshold`].
    pub recall: f64,
    /// Interpolated precision at IoU 0.5 for recall 0, 0.01, … 1.
    pub curve: Vec<f64>,
}

impl Metrics {
    /// YOLOv5's one number to choose a model by: a tenth of mAP at 0.5 and nine tenths of mAP over 0.5 to 0.95.
    #[must_use]
    pub fn fitness(&self) -> f64 {
        0.1 * self.map50 + 0.9 * self.map50_95
    }
}

/// Collects pictures, then computes [`Metrics`].
#[derive(Clone, Debug)]
pub struct Evaluator {
    classes: Vec<Class>,
    pictures: usize,
}

#[derive(Clone, Debug, Default)]
struct Class {
    objects: usize,
    outcomes: Vec<Outcome>,
}

impl Evaluator {
    /// An evaluator for `classes` classes. Detections and objects of other classes are ignored.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self { classes: vec![Class::default(); classes], pictures: 0 }
    }

    /// Adds one picture: what was found, in any order, and what is there.
    pub fn add(&mut self, detections: &[Detection], truth: &[LabelledBox]) {
        self.pictures += 1;
        for (class_id, class) in self.classes.iter_mut().enumerate() {
            let of_class = |id: u32| id as usize == class_id;
            let mut found: Vec<&Detection> =
                detections.iter().filter(|found| of_class(found.class_id) && !found.score.is_nan()).collect();
            found.sort_by(|a, b| b.score.total_cmp(&a.score));
            found.truncate(MAX_DETECTIONS);
            let objects: Vec<BoundingBox> =
                truth.iter().filter(|labelled| of_class(labelled.class_id)).map(|labelled| labelled.bbox).collect();
            class.objects += objects.len();
            class.outcomes.extend(outcomes(&found, &objects));
        }
    }

    /// The metrics of everything added.
    #[must_use]
    pub fn finish(mut self) -> Metrics {
        let curves: Vec<(u32, Curve)> = (0..)
            .zip(&mut self.classes)
            .filter(|(_, class)| class.objects > 0)
            .map(|(class_id, class)| (class_id, Curve::new(class.objects, std::mem::take(&mut class.outcomes))))
            .collect();
        let threshold = curve::best_threshold(&curves);
        let per_class: Vec<ClassMetrics> = curves
            .iter()
            .map(|(class_id, curve)| {
                let (precision, recall) = curve.at(threshold);
                let levels = curve.interpolated(0);
                let over_thresholds = (0..THRESHOLDS).map(|level| mean(curve.interpolated(level).iter().copied()));
                ClassMetrics {
                    class_id: *class_id,
                    objects: curve.objects(),
                    ap50: mean(levels.iter().copied()),
                    ap50_95: mean(over_thresholds),
                    precision,
                    recall,
                    curve: levels,
                }
            })
            .collect();
        Metrics {
            map50: mean(per_class.iter().map(|class| class.ap50)),
            map50_95: mean(per_class.iter().map(|class| class.ap50_95)),
            precision: mean(per_class.iter().map(|class| class.precision)),
            recall: mean(per_class.iter().map(|class| class.recall)),
            threshold,
            pictures: self.pictures,
            per_class,
        }
    }
}

/// Matches one class's detections of one picture, best score first, to its objects.
fn outcomes(found: &[&Detection], objects: &[BoundingBox]) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> =
        found.iter().map(|found| Outcome { score: found.score, correct: [false; THRESHOLDS] }).collect();
    for level in 0..THRESHOLDS {
        let threshold = (50 + 5 * level) as f64 / 100.0;
        let mut taken = vec![false; objects.len()];
        for (outcome, found) in outcomes.iter_mut().zip(found) {
            let free = objects.iter().enumerate().filter(|(index, _)| !taken[*index]);
            let best = free
                .map(|(index, object)| (index, iou(&found.bbox, object)))
                .filter(|(_, overlap)| *overlap >= threshold)
                // Of equal overlaps the last one counts, as in COCO's reference.
                .max_by(|(_, a), (_, b)| a.total_cmp(b));
            if let Some((index, _)) = best {
                taken[index] = true;
                outcome.correct[level] = true;
            }
        }
    }
    outcomes
}

/// Intersection over union in double precision, so that an overlap right at a threshold is judged as COCO does.
fn iou(a: &BoundingBox, b: &BoundingBox) -> f64 {
    let [ax1, ay1, ax2, ay2] = [a.x1, a.y1, a.x2, a.y2].map(f64::from);
    let [bx1, by1, bx2, by2] = [b.x1, b.y1, b.x2, b.y2].map(f64::from);
    let intersection = (ax2.min(bx2) - ax1.max(bx1)).max(0.0) * (ay2.min(by2) - ay1.max(by1)).max(0.0);
    let union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection;
    if union > 0.0 { intersection / union } else { 0.0 }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for value in values {
        sum += value;
        count += 1;
    }
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

#[cfg(test)]
mod tests;
