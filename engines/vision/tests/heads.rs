//! From a head's outputs to detections: thresholds, filters, layouts that end with NMS, broken outputs.

use detectd_vision::{
    BoundingBox, Coordinates, DetectOptions, Detection, GreedyNms, Head, HeadError, Letterbox, Nms, NmsScratch,
    OutputData, OutputView, Preprocess,
};

/// A picture of 200x100 in an input of 100x100: half the size, 25 rows of padding above and below.
fn letterbox() -> Letterbox {
    Letterbox::new((200, 100), &Preprocess::yolov5(100, 100))
}

fn detect(
    head: &Head,
    outputs: &[OutputView<'_>],
    image: usize,
    options: &DetectOptions,
) -> Result<Vec<Detection>, HeadError> {
    head.detect(outputs, image, &letterbox(), options, &mut NmsScratch::default())
}

fn floats<'a>(shape: &'a [usize], data: &'a [f32]) -> OutputView<'a> {
    OutputView { name: "output", shape, data: OutputData::F32(data) }
}

fn greedy() -> DetectOptions {
    DetectOptions { nms: Nms::Greedy(GreedyNms::default()), ..DetectOptions::default() }
}

/// Rows of centre, size, objectness, two classes.
const ROWS: [f32; 28] = [
    50.0, 50.0, 20.0, 10.0, 0.9, 0.8, 0.1, // the best
    51.0, 50.0, 20.0, 10.0, 0.9, 0.7, 0.2, // overlaps it
    20.0, 40.0, 10.0, 10.0, 0.5, 0.1, 0.9, // another class elsewhere
    20.0, 40.0, 10.0, 10.0, 0.25, 1.0, 1.0, // exactly at the threshold
];

#[test]
fn rows_become_boxes_in_the_pictures_pixels() {
    let found = detect(&Head::Yolov5, &[floats(&[1, 4, 7], &ROWS)], 0, &greedy()).expect("detections");
    let expected =
        [(0, 0.72, BoundingBox::new(80.0, 40.0, 120.0, 60.0)), (1, 0.45, BoundingBox::new(30.0, 20.0, 50.0, 40.0))];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, (class_id, score, bbox)) in found.iter().zip(expected) {
        assert_eq!((found.class_id, found.bbox), (class_id, bbox));
        assert!((found.score - score).abs() < 1e-6);
    }
}

#[test]
fn yolox_keeps_a_score_at_the_threshold_and_yolov5_drops_it() {
    let rows = [50.0, 50.0, 20.0, 10.0, 0.25, 1.0, 0.0];
    let dropped = detect(&Head::Yolov5, &[floats(&[1, 1, 7], &rows)], 0, &greedy()).expect("none");
    assert_eq!(dropped, []);
    let head = Head::Yolox { strides: vec![100], decoded: true, logits: false };
    let kept = detect(&head, &[floats(&[1, 1, 7], &rows)], 0, &greedy()).expect("one");
    assert_eq!(kept.len(), 1);
}

#[test]
fn options_choose_classes_and_numbers() {
    let output = [floats(&[1, 4, 7], &ROWS)];
    let only_one = DetectOptions { classes: Some(vec![1]), ..greedy() };
    let found = detect(&Head::Yolov5, &output, 0, &only_one).expect("detections");
    assert_eq!(found.iter().map(|d| d.class_id).collect::<Vec<_>>(), [1]);
    let one = DetectOptions { max_detections: 1, ..greedy() };
    assert_eq!(detect(&Head::Yolov5, &output, 0, &one).expect("one").len(), 1);
    let every_class = DetectOptions { multi_label: true, score_threshold: 0.05, ..greedy() };
    let found = detect(&Head::Yolov5, &output, 0, &every_class).expect("detections");
    assert!(found.iter().any(|d| d.class_id == 1 && (d.score - 0.18).abs() < 1e-6), "{found:?}");
}

#[test]
fn each_picture_of_a_batch_has_its_own_rows() {
    let mut data = vec![0.0; 28];
    data.extend(ROWS);
    let output = [floats(&[2, 4, 7], &data)];
    assert_eq!(detect(&Head::Yolov5, &output, 0, &greedy()).expect("none"), []);
    assert_eq!(detect(&Head::Yolov5, &output, 1, &greedy()).expect("two").len(), 2);
    assert_eq!(detect(&Head::Yolov5, &output, 2, &greedy()), Err(HeadError::Image { image: 2, batch: 2 }));
}

#[test]
fn columns_of_yolov8_are_read_as_rows() {
    // Centre, size and two classes of three rows.
    let data = [50.0, 51.0, 20.0, 50.0, 50.0, 40.0, 20.0, 20.0, 10.0, 10.0, 10.0, 10.0, 0.7, 0.6, 0.1, 0.1, 0.2, 0.5];
    let found = detect(&Head::Yolov8, &[floats(&[1, 6, 3], &data)], 0, &greedy()).expect("detections");
    let classes: Vec<(u32, f32)> = found.iter().map(|d| (d.class_id, d.score)).collect();
    assert_eq!(classes, [(0, 0.7), (1, 0.5)]);
    assert_eq!(found[0].bbox, BoundingBox::new(80.0, 40.0, 120.0, 60.0));
}

#[test]
fn finished_boxes_are_not_suppressed_again() {
    let boxes = [40.0, 45.0, 60.0, 55.0, 41.0, 45.0, 61.0, 55.0];
    let expected = BoundingBox::new(80.0, 40.0, 120.0, 60.0);
    let end_to_end = [40.0, 45.0, 60.0, 55.0, 0.9, 3.0, 41.0, 45.0, 61.0, 55.0, 0.8, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let found = detect(&Head::EndToEnd, &[floats(&[1, 3, 6], &end_to_end)], 0, &greedy()).expect("two");
    assert_eq!((found.len(), found[0].class_id, found[0].bbox), (2, 3, expected));

    let outputs = [
        OutputView { name: "num_dets", shape: &[1, 1], data: OutputData::I32(&[2]) },
        floats(&[1, 2, 4], &boxes),
        floats(&[1, 2], &[0.9, 0.8]),
        OutputView { name: "classes", shape: &[1, 2], data: OutputData::I32(&[3, 3]) },
    ];
    let found = detect(&Head::EfficientNms, &outputs, 0, &greedy()).expect("two");
    assert_eq!((found.len(), found[0].class_id, found[0].bbox), (2, 3, expected));
    let too_many = OutputView { name: "num_dets", shape: &[1, 1], data: OutputData::I32(&[3]) };
    let error = detect(&Head::EfficientNms, &[too_many, outputs[1], outputs[2], outputs[3]], 0, &greedy());
    let message = error.expect_err("three of two").to_string();
    assert_eq!(message, "output \"num_dets\" must hold counts between 0 and 2, not 3 for picture 0");

    // Paddle: label, score, corners in the picture's own pixels; the second picture has the last two rows.
    let rows = [1.0, 0.9, 0.0, 0.0, 9.0, 9.0, 2.0, 0.8, 10.0, 10.0, 500.0, 90.0, 2.0, 0.7, 10.0, 10.0, 50.0, 90.0];
    let counts = OutputView { name: "counts", shape: &[2], data: OutputData::I32(&[1, 2]) };
    let head = Head::PaddleNms { coordinates: Coordinates::Source };
    let found = detect(&head, &[floats(&[3, 6], &rows), counts], 1, &greedy()).expect("two");
    assert_eq!((found.len(), found[0].class_id), (2, 2));
    assert_eq!(found[0].bbox, BoundingBox::new(10.0, 10.0, 200.0, 90.0));
    let counts = OutputView { name: "counts", shape: &[2], data: OutputData::I32(&[-1, 2]) };
    assert!(detect(&head, &[floats(&[3, 6], &rows), counts], 1, &greedy()).is_err());
}

#[test]
fn broken_outputs_are_errors_with_their_names() {
    let short = OutputView { name: "output0", shape: &[1, 4, 7], data: OutputData::F32(&ROWS[..20]) };
    let message = detect(&Head::Yolov5, &[short], 0, &greedy()).expect_err("short").to_string();
    assert_eq!(message, "output \"output0\" must hold 28 values, not 20 for the shape [1, 4, 7]");
    let whole = OutputView { name: "output0", shape: &[1, 1, 7], data: OutputData::I64(&[0; 7]) };
    let message = detect(&Head::Yolov5, &[whole], 0, &greedy()).expect_err("integers").to_string();
    assert_eq!(message, "output \"output0\" must hold 32-bit floats, not 64-bit integers");
    let numbers = [f32::NAN, f32::INFINITY, -f32::INFINITY, 3e38, f32::NAN, 1.0, 1.0];
    assert_eq!(detect(&Head::Yolov5, &[floats(&[1, 1, 7], &numbers)], 0, &greedy()), Ok(vec![]));
    assert_eq!(detect(&Head::Yolov8, &[floats(&[1, 6, 0], &[])], 0, &greedy()), Ok(vec![]));
    assert!(detect(&Head::Yolov5, &[], 0, &greedy()).is_err());
}
