use detectd_vision::BoundingBox;

use super::*;
use crate::evaluation::Evaluator;
use crate::scenes::{CLASSES, render};

fn epochs(count: usize) -> Vec<EpochFigures> {
    (1..=count)
        .map(|epoch| {
            let progress = epoch as f64 / count as f64;
            EpochFigures {
                epoch,
                training_loss: [0.1, 0.05, 0.03].map(|loss| loss * (1.5 - progress)),
                held_out_loss: [0.11, 0.06, 0.04].map(|loss| loss * (1.5 - progress)),
                precision: progress,
                recall: 0.9 * progress,
                map50: 0.95 * progress,
                map50_95: 0.7 * progress,
                learning_rate: 0.01 * (1.0 - progress),
            }
        })
        .collect()
}

/// A report whose "model" finds every object of two scenes, somewhat off.
fn report() -> Report {
    let mut evaluator = Evaluator::new(CLASSES.len());
    let pictures = [40, 41].map(|seed| {
        let sample = render(seed, 320, 320);
        let detections: Vec<_> = sample
            .boxes
            .iter()
            .map(|labelled| {
                let bbox = labelled.bbox;
                let bbox = BoundingBox::new(bbox.x1 + 2.0, bbox.y1, bbox.x2, bbox.y2 - 2.0);
                Detection { class_id: labelled.class_id, score: 0.91, bbox }
            })
            .collect();
        evaluator.add(&detections, &sample.boxes);
        Picture { caption: format!("scene {seed}"), image: sample.image, detections }
    });
    let mut classes = CLASSES.map(str::to_owned).to_vec();
    classes[0] = "<bolt> & co".to_owned();
    Report {
        title: "Hardware detector".to_owned(),
        classes,
        facts: vec![("Size".to_owned(), "320".to_owned())],
        epochs: epochs(30),
        metrics: evaluator.finish(),
        pictures: pictures.to_vec(),
    }
}

#[test]
fn the_page_is_complete_and_needs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let report = report();
    report.write(folder.path()).unwrap();
    let page = fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 4);
    assert_eq!(page.matches("data:image/png;base64,").count(), 2);
    assert!(page.contains("Hardware detector") && page.contains("scene 41") && page.contains("320"));
    assert!(!page.contains("src=\"http") && !page.contains("href="), "the page refers to something outside");
    assert!(!page.contains("<bolt>"), "a class name was not escaped");
    for name in ["losses.svg", "accuracy.svg", "learning_rate.svg", "precision_recall.svg"] {
        assert!(folder.path().join(name).is_file(), "{name} is missing");
    }
    let metrics: Metrics = serde_json::from_slice(&fs::read(folder.path().join("metrics.json")).unwrap()).unwrap();
    assert!((metrics.map50_95 - report.metrics.map50_95).abs() < 1e-12);
    assert_eq!(metrics.per_class.len(), report.metrics.per_class.len());
}

#[test]
fn pictures_are_the_originals_with_boxes_drawn_in() {
    let folder = tempfile::tempdir().unwrap();
    let report = report();
    report.write(folder.path()).unwrap();
    let bytes = fs::read(folder.path().join("pictures/00.png")).unwrap();
    let decoded = image::load_from_memory(&bytes).unwrap().into_rgb8();
    let mut expected = report.pictures[0].image.clone();
    assert_ne!(decoded.as_raw().as_slice(), expected.pixels());
    annotate(&mut expected, &report.pictures[0].detections, &report.classes);
    assert_eq!(decoded.as_raw().as_slice(), expected.pixels());
}

#[test]
fn a_run_without_epochs_objects_or_pictures_still_has_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let empty = Report { epochs: Vec::new(), metrics: Metrics::default(), pictures: Vec::new(), ..report() };
    empty.write(&folder.path().join("deep/er")).unwrap();
    assert!(folder.path().join("deep/er/report.html").is_file());
}
