//! Any numbers in any head's outputs, of shapes that fit and shapes that do not: detections are boxes inside the picture,
//! or there is an error.

#![no_main]

use detectd_vision::{
    AnchorLevel, Coordinates, DetectOptions, GreedyNms, Head, Letterbox, MatrixNms, Nms, NmsScratch, OutputData,
    OutputView, PpyoloHead, Preprocess, SoftNms,
};
use libfuzzer_sys::arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;

/// Width and height of the input.
const INPUT: u32 = 64;

#[derive(Debug, Arbitrary)]
struct Case {
    head: u8,
    nms: u8,
    classes: u8,
    batch: u8,
    source: (u16, u16),
    threshold: u8,
    flags: u8,
    /// Replaces one side of one output.
    wrong: Option<(u8, u8, u8)>,
}

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let Ok(case) = Case::arbitrary(&mut input) else { return };
    let numbers: Vec<f32> =
        input.take_rest().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    run(&case, &numbers);
});

fn run(case: &Case, numbers: &[f32]) {
    let flag = |bit: u8| case.flags >> bit & 1 == 1;
    let (classes, batch) = (usize::from(case.classes % 5) + 1, usize::from(case.batch % 3));
    let anchors = vec![[10.0, 13.0], [30.0, 61.0]];
    let levels = vec![AnchorLevel { stride: 16, anchors: anchors.clone() }, AnchorLevel { stride: 32, anchors }];
    let (fine, coarse) = (INPUT as usize / 16, INPUT as usize / 32);
    let rows = 2 * (fine * fine + coarse * coarse);
    let level =
        |elements: usize| vec![vec![batch, 2 * elements, fine, fine], vec![batch, 2 * elements, coarse, coarse]];
    let (head, mut shapes) = match case.head % 10 {
        0 => (Head::Yolov5Levels { levels }, level(classes + 5)),
        1 => {
            let shape = |side: usize| vec![batch, 2, side, side, classes + 5];
            (Head::Yolov5Levels { levels }, vec![shape(fine), shape(coarse)])
        }
        2 => (Head::Yolov5, vec![vec![batch, rows, classes + 5]]),
        3 => (Head::BoxesScores, vec![vec![batch, rows, 4], vec![batch, rows, classes]]),
        4 => {
            let head = Head::Yolox { strides: vec![16, 32], decoded: flag(0), logits: flag(1) };
            (head, vec![vec![batch, fine * fine + coarse * coarse, classes + 5]])
        }
        5 => (Head::Yolov8, vec![vec![batch, classes + 4, rows]]),
        6 => {
            let iou_aware_factor = flag(0).then_some(0.4);
            let head = PpyoloHead { levels, scale_x_y: 1.05, conf_thresh: 0.01, clip_bbox: flag(1), iou_aware_factor };
            (Head::Ppyolo(head), level(classes + if flag(0) { 6 } else { 5 }))
        }
        7 => {
            let coordinates = if flag(0) { Coordinates::Input } else { Coordinates::Source };
            (Head::PaddleNms { coordinates }, vec![vec![rows, 6], vec![batch]])
        }
        8 => (Head::EndToEnd, vec![vec![batch, rows, 6]]),
        _ => (Head::EfficientNms, vec![vec![batch, 1], vec![batch, rows, 4], vec![batch, rows], vec![batch, rows]]),
    };
    if let Some((output, side, value)) = case.wrong {
        let output = usize::from(output) % shapes.len();
        let side = usize::from(side) % shapes[output].len();
        shapes[output][side] = usize::from(value);
    }
    // As many numbers as each shape says, the given ones over and over.
    let mut next = numbers.iter().copied().cycle();
    let counted = matches!(head, Head::PaddleNms { .. } | Head::EfficientNms);
    let counts_at = if matches!(head, Head::EfficientNms) { 0 } else { 1 };
    let data: Vec<Vec<f32>> =
        shapes.iter().map(|shape| (0..shape.iter().product()).map(|_| next.next().unwrap_or(0.5)).collect()).collect();
    let whole: Vec<Vec<i32>> = data.iter().map(|data| data.iter().map(|value| *value as i32).collect()).collect();
    let outputs: Vec<OutputView<'_>> = (0..shapes.len())
        .map(|at| {
            let integers = counted && at == counts_at;
            let data = if integers { OutputData::I32(&whole[at]) } else { OutputData::F32(&data[at]) };
            OutputView { name: "output", shape: &shapes[at], data }
        })
        .collect();
    let preprocess = match case.nms % 3 {
        0 => Preprocess::yolov5(INPUT, INPUT),
        1 => Preprocess::yolox(INPUT, INPUT),
        _ => Preprocess::ppyolo(INPUT, INPUT),
    };
    let source = (u32::from(case.source.0).max(1), u32::from(case.source.1).max(1));
    let letterbox = Letterbox::new(source, &preprocess);
    let options = DetectOptions {
        score_threshold: f32::from(case.threshold) / 255.0,
        nms: match case.nms / 3 % 3 {
            0 => Nms::Matrix(MatrixNms { normalized: flag(2), ..MatrixNms::default() }),
            1 => Nms::Greedy(GreedyNms::default()),
            _ => Nms::Soft(SoftNms::default()),
        },
        max_detections: 50,
        classes: flag(3).then(|| vec![0, 2]),
        class_agnostic: flag(4),
        multi_label: flag(5),
    };
    let mut scratch = NmsScratch::default();
    for image in 0..=batch {
        let Ok(detections) = head.detect(&outputs, image, &letterbox, &options, &mut scratch) else { continue };
        assert!(detections.len() <= options.max_detections);
        assert!(detections.is_sorted_by(|a, b| a.score >= b.score));
        for detection in detections {
            assert!(detection.bbox.is_valid(), "{detection:?}");
            assert!(detection.bbox.x1 >= 0.0 && detection.bbox.x2 <= source.0 as f32, "{detection:?}");
            assert!(detection.bbox.y1 >= 0.0 && detection.bbox.y2 <= source.1 as f32, "{detection:?}");
            assert!(options.allows(detection.class_id), "{detection:?}");
        }
    }
}
