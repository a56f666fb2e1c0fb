//! Every layout of a head, with random and with adversarial outputs.

use detectd_cuda::Queue;
use detectd_cuda::layout::Number;
use detectd_vision::{AnchorLevel, DetectOptions, Head, MatrixNms, Nms, PpyoloHead, Preprocess, Resize};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::detections::{Case, Outputs, compare};
use super::{Bench, options};

const WIDTH: u32 = 96;
const HEIGHT: u32 = 64;
const CLASSES: usize = 5;
/// Rows of strides 8, 16 and 32.
const CELLS: usize = 12 * 8 + 6 * 4 + 3 * 2;

/// One of every layout and of every way to store it.
pub fn cases() -> Vec<Case> {
    let anchors: Vec<AnchorLevel> = [8, 16, 32]
        .map(|stride| {
            let side = stride as f32;
            AnchorLevel { stride, anchors: vec![[side, side * 1.3], [side * 2.0, side], [side * 3.0, side * 2.7]] }
        })
        .into();
    let logits = vec![(-4.0, 3.0)];
    // Centre, size, objectness and classes of finished rows.
    let side = HEIGHT as f32;
    let finished = vec![(0.0, side), (0.0, side), (1.0, 30.0), (1.0, 30.0), (0.0, 1.0), (0.0, 1.0)];
    let columns = vec![(0.0, side), (0.0, side), (1.0, 30.0), (1.0, 30.0), (0.0, 1.0)];
    let yolox = vec![(-1.0, 2.0), (-1.0, 2.0), (-1.0, 1.5), (-1.0, 1.5), (0.0, 1.0), (0.0, 1.0)];
    let planes = |elements: usize| grids().map(|[across, down]| vec![elements, down, across]).to_vec();
    let yolov5 = Preprocess::yolov5(WIDTH, HEIGHT);
    let base = Case {
        name: "yolov5 levels",
        head: Head::Yolov5Levels { levels: anchors.clone() },
        classes: CLASSES,
        preprocess: yolov5.clone(),
        shapes: planes(3 * (5 + CLASSES)),
        ranges: vec![logits; 3],
        rows: false,
    };
    let permuted = grids().map(|[across, down]| vec![3, down, across, 5 + CLASSES]).to_vec();
    let coarsest_first: Vec<AnchorLevel> = anchors.iter().rev().cloned().collect();
    let ppyolo = |iou: Option<f32>, clip_bbox: bool, scale_x_y: f32| {
        let levels = coarsest_first.clone();
        Head::Ppyolo(PpyoloHead { levels, scale_x_y, conf_thresh: 0.01, clip_bbox, iou_aware_factor: iou })
    };
    let coarse_planes = |elements: usize| planes(elements).into_iter().rev().collect::<Vec<_>>();
    let stretched = Preprocess { resize: Resize::Stretch, ..yolov5 };
    let yolox_head = |decoded, logits| Head::Yolox { strides: vec![8, 16, 32], decoded, logits };
    let one = |name, head, shape: [usize; 2], ranges: &[(f32, f32)], rows| Case {
        name,
        head,
        shapes: vec![shape.to_vec()],
        ranges: vec![ranges.to_vec()],
        rows,
        ..base.clone()
    };
    vec![
        base.clone(),
        Case { name: "yolov5 levels, permuted", shapes: permuted, rows: true, ..base.clone() },
        one("yolov5 decoded", Head::Yolov5, [3 * CELLS, 5 + CLASSES], &finished, true),
        one("yolov8", Head::Yolov8, [4 + CLASSES, CELLS], &columns, false),
        Case {
            name: "boxes and scores",
            head: Head::BoxesScores,
            shapes: vec![vec![CELLS, 4], vec![CELLS, CLASSES]],
            ranges: vec![vec![(0.0, 30.0), (0.0, 30.0), (28.0, 60.0), (28.0, 60.0)], vec![(0.0, 1.0)]],
            rows: true,
            ..base.clone()
        },
        one("yolox decoded", yolox_head(true, false), [CELLS, 5 + CLASSES], &finished, true),
        one("yolox raw", yolox_head(false, false), [CELLS, 5 + CLASSES], &yolox, true),
        one("yolox raw, logits", yolox_head(false, true), [CELLS, 5 + CLASSES], &[(-3.0, 3.0)], true),
        Case {
            name: "yolox levels",
            head: yolox_head(false, true),
            shapes: planes(5 + CLASSES),
            ranges: vec![vec![(-3.0, 3.0)]; 3],
            ..base.clone()
        },
        Case {
            name: "ppyolo, IoU-aware",
            head: ppyolo(Some(0.4), true, 1.05),
            preprocess: stretched.clone(),
            shapes: coarse_planes(3 * (6 + CLASSES)),
            ..base.clone()
        },
        Case {
            name: "ppyolo, all IoU",
            head: ppyolo(Some(1.0), false, 1.05),
            shapes: coarse_planes(3 * (6 + CLASSES)),
            ..base.clone()
        },
        Case {
            name: "yolov3",
            head: ppyolo(None, true, 1.0),
            preprocess: stretched,
            shapes: coarse_planes(3 * (5 + CLASSES)),
            ..base.clone()
        },
        Case {
            name: "one class",
            head: Head::Yolov8,
            classes: 1,
            shapes: vec![vec![5, CELLS]],
            ranges: vec![columns],
            ..base
        },
    ]
}

/// Columns and rows of each level's grid.
fn grids() -> [[usize; 2]; 3] {
    [8, 16, 32].map(|stride| [WIDTH as usize / stride, HEIGHT as usize / stride])
}

pub fn every_layout<Q: Queue>(bench: &Bench<Q>) {
    let mut random = ChaCha8Rng::seed_from_u64(31);
    for case in cases() {
        let mut boxes = 0;
        for _ in 0..bench.rounds {
            let pictures = random.random_range(1..4);
            let outputs = case.outputs(&mut random, pictures);
            let options: Vec<DetectOptions> =
                (0..pictures).map(|_| options::random(&mut random, case.classes)).collect();
            boxes += compare(bench, &case, &outputs, &options, Number::Float32);
        }
        assert!(boxes > 10, "{}: only {boxes} boxes were compared", case.name);
    }
}

pub fn half_precision<Q: Queue>(bench: &Bench<Q>) {
    let mut random = ChaCha8Rng::seed_from_u64(32);
    for case in cases() {
        for number in [Number::Float16, Number::Bfloat16] {
            let outputs = case.outputs(&mut random, 2);
            let options: Vec<DetectOptions> = (0..2).map(|_| options::random(&mut random, case.classes)).collect();
            compare(bench, &case, &outputs, &options, number);
        }
    }
}

/// What no model should give: no numbers, infinities, boxes without area or inside out, equal scores, nothing at all.
pub fn adversarial<Q: Queue>(bench: &Bench<Q>) {
    let mut random = ChaCha8Rng::seed_from_u64(33);
    let specials =
        [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0, -0.0, 1e-40, 1.0, -1.0, 88.8, -104.0];
    for case in cases() {
        let compare_values = |random: &mut ChaCha8Rng, change: &mut dyn FnMut(&mut f32, &mut ChaCha8Rng)| {
            let Outputs { shapes, mut values } = case.outputs(random, 2);
            values.iter_mut().flatten().for_each(|value| change(value, random));
            let outputs = Outputs { shapes, values };
            let wide = DetectOptions {
                score_threshold: 0.0,
                nms: Nms::Matrix(MatrixNms { post_threshold: 0.0, ..MatrixNms::default() }),
                max_detections: 1_000_000,
                multi_label: true,
                ..DetectOptions::default()
            };
            let other = options::random(random, case.classes);
            compare(bench, &case, &outputs, &[wide, other], Number::Float32);
        };
        for share in [0.01, 0.2, 0.9] {
            compare_values(&mut random, &mut |value, random| {
                if random.random_bool(share) {
                    *value = *specials.choose(random).expect("one");
                }
            });
        }
        for special in specials {
            compare_values(&mut random, &mut |value, _| *value = special);
        }
        // Few different values: many equal scores, many equal boxes.
        compare_values(&mut random, &mut |value, _| *value = value.round());
        compare_values(&mut random, &mut |value, random| {
            if random.random_bool(0.5) {
                *value = -*value;
            }
        });
    }
}
