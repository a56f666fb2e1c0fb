use std::collections::BTreeMap;

use super::*;

fn object(class_id: u32, x1: f32, y1: f32, x2: f32, y2: f32) -> LabelledBox {
    LabelledBox { class_id, bbox: BoundingBox::new(x1, y1, x2, y2) }
}

fn found(class_id: u32, score: f32, x1: f32, y1: f32, x2: f32, y2: f32) -> Detection {
    Detection { class_id, score, bbox: BoundingBox::new(x1, y1, x2, y2) }
}

fn evaluate(classes: usize, pictures: &[(&[Detection], &[LabelledBox])]) -> Metrics {
    let mut evaluator = Evaluator::new(classes);
    pictures.iter().for_each(|(detections, truth)| evaluator.add(detections, truth));
    evaluator.finish()
}

#[test]
fn perfect_detections_score_one() {
    let truth = [object(0, 0.0, 0.0, 10.0, 10.0), object(1, 5.0, 5.0, 25.0, 30.0)];
    let detections = [found(0, 0.9, 0.0, 0.0, 10.0, 10.0), found(1, 0.8, 5.0, 5.0, 25.0, 30.0)];
    let metrics = evaluate(2, &[(&detections, &truth)]);
    assert_eq!((metrics.map50, metrics.map50_95, metrics.fitness()), (1.0, 1.0, 1.0));
    assert_eq!((metrics.precision, metrics.recall, metrics.pictures), (1.0, 1.0, 1));
}

#[test]
fn nothing_found_and_nothing_there() {
    let truth = [object(0, 0.0, 0.0, 10.0, 10.0)];
    let missed = evaluate(1, &[(&[], &truth)]);
    assert_eq!((missed.map50, missed.precision, missed.recall, missed.per_class.len()), (0.0, 0.0, 0.0, 1));
    let empty = evaluate(1, &[(&[found(0, 0.9, 0.0, 0.0, 1.0, 1.0)], &[])]);
    assert_eq!((empty.map50, empty.per_class.len()), (0.0, 0), "a class without objects does not count");
}

#[test]
fn a_false_alarm_between_two_hits_by_hand() {
    // Ranked: hit, miss, hit, of 2 objects. Precision 1 up to recall 0.5 (51 levels), then 2/3 (50 levels).
    let truth = [object(0, 0.0, 0.0, 10.0, 10.0), object(0, 50.0, 50.0, 60.0, 60.0)];
    let detections = [
        found(0, 0.5, 50.0, 50.0, 60.0, 60.0),
        found(0, 0.7, 100.0, 100.0, 110.0, 110.0),
        found(0, 0.9, 0.0, 0.0, 10.0, 10.0),
    ];
    let metrics = evaluate(1, &[(&detections, &truth)]);
    let expected = (51.0 + 50.0 * 2.0 / 3.0) / 101.0;
    assert!((metrics.map50 - expected).abs() < 1e-12, "{}", metrics.map50);
    // F1: {0.9} 2/3, {0.9, 0.7} 1/2, all 0.8; the lowest threshold that keeps all three is the first of 1000.
    assert_eq!((metrics.precision, metrics.recall, metrics.threshold), (2.0 / 3.0, 1.0, 0.0));
}

#[test]
fn overlap_of_0_6_counts_for_three_of_ten_thresholds() {
    // 6 of 10 columns: IoU is exactly 0.6, which satisfies 0.5, 0.55 and 0.6.
    let metrics = evaluate(1, &[(&[found(0, 0.9, 0.0, 0.0, 6.0, 10.0)], &[object(0, 0.0, 0.0, 10.0, 10.0)])]);
    assert_eq!(metrics.map50, 1.0);
    assert!((metrics.map50_95 - 0.3).abs() < 1e-12, "{}", metrics.map50_95);
    assert!((metrics.fitness() - 0.37).abs() < 1e-12);
}

#[test]
fn an_object_is_found_once() {
    let truth = [object(0, 0.0, 0.0, 10.0, 10.0)];
    let twice = [found(0, 0.8, 0.0, 0.0, 10.0, 10.0), found(0, 0.9, 0.0, 0.0, 10.0, 9.0)];
    let metrics = evaluate(1, &[(&twice, &truth)]);
    // At IoU 0.5 the better score takes the object and the second is a false alarm after full recall.
    assert_eq!((metrics.map50, metrics.precision, metrics.recall), (1.0, 1.0, 1.0));
    assert!(metrics.threshold > 0.8 && metrics.threshold <= 0.9);
}

#[test]
fn only_the_best_hundred_of_a_picture_count() {
    let truth = [object(0, 0.0, 0.0, 10.0, 10.0)];
    let mut detections = vec![found(0, 0.9, 200.0, 200.0, 210.0, 210.0); MAX_DETECTIONS];
    detections.push(found(0, 0.1, 0.0, 0.0, 10.0, 10.0));
    assert_eq!(evaluate(1, &[(&detections, &truth)]).map50, 0.0);
    detections.remove(0);
    assert!((evaluate(1, &[(&detections, &truth)]).map50 - 0.01).abs() < 1e-12);
}

#[test]
fn other_classes_and_scores_that_are_no_numbers_are_ignored() {
    let truth = [object(0, 0.0, 0.0, 10.0, 10.0), object(7, 0.0, 0.0, 10.0, 10.0)];
    let detections = [found(0, f32::NAN, 0.0, 0.0, 9.0, 9.0), found(9, 0.9, 0.0, 0.0, 9.0, 9.0)];
    let metrics = evaluate(1, &[(&detections, &truth)]);
    assert_eq!((metrics.map50, metrics.per_class.len()), (0.0, 1));
}

#[derive(Deserialize)]
struct Reference {
    pictures: Vec<Picture>,
    map50: f64,
    map50_95: f64,
    per_class: BTreeMap<u32, ReferenceClass>,
}

#[derive(Deserialize)]
struct Picture {
    truth: Vec<(u32, f32, f32, f32, f32)>,
    found: Vec<(u32, f32, f32, f32, f32, f32)>,
}

#[derive(Deserialize)]
struct ReferenceClass {
    ap50: f64,
    ap50_95: f64,
}

#[test]
fn agrees_with_the_reference_implementation() {
    let reference: Reference = serde_json::from_str(include_str!("fixtures/coco.json")).unwrap();
    let mut evaluator = Evaluator::new(5);
    for picture in &reference.pictures {
        let truth: Vec<_> = picture.truth.iter().map(|&(class, a, b, c, d)| object(class, a, b, c, d)).collect();
        let detections: Vec<_> =
            picture.found.iter().map(|&(class, s, a, b, c, d)| found(class, s, a, b, c, d)).collect();
        evaluator.add(&detections, &truth);
    }
    let metrics = evaluator.finish();
    assert!((metrics.map50 - reference.map50).abs() < 1e-9, "{} against {}", metrics.map50, reference.map50);
    assert!(
        (metrics.map50_95 - reference.map50_95).abs() < 1e-9,
        "{} against {}",
        metrics.map50_95,
        reference.map50_95
    );
    assert_eq!(metrics.per_class.len(), reference.per_class.len());
    for class in &metrics.per_class {
        let expected = &reference.per_class[&class.class_id];
        assert!((class.ap50 - expected.ap50).abs() < 1e-9 && (class.ap50_95 - expected.ap50_95).abs() < 1e-9);
    }
}
