//! Suppression of many candidates: clusters that overlap, boxes that are equal or without area, classes of any size.

use detectd_cuda::Queue;
use detectd_cuda::layout::Number;
use detectd_cuda::{Launching, is_known};
use detectd_vision::{DetectOptions, GreedyNms, Head, MAX_CANDIDATES, MatrixKernel, MatrixNms, Nms, Preprocess};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Bench;
use super::detections::{Case, Outputs, both, compare};

/// Boxes and scores as they are, so that nothing but suppression is computed.
fn case(rows: usize, classes: usize) -> Case {
    Case {
        name: "boxes and scores",
        head: Head::BoxesScores,
        classes,
        preprocess: Preprocess::yolov5(640, 640),
        shapes: vec![vec![rows, 4], vec![rows, classes]],
        ranges: vec![vec![(0.0, 1.0)], vec![(0.0, 1.0)]],
        rows: true,
    }
}

/// Boxes around few places; some are equal, some have no area.
fn clustered(random: &mut ChaCha8Rng, case: &Case, pictures: usize, places: usize) -> Outputs {
    let mut outputs = case.outputs(random, pictures);
    let centres: Vec<[f32; 4]> = (0..places)
        .map(|_| {
            [random.random_range(50.0..550.0), random.random_range(50.0..550.0), random.random_range(5.0..80.0), 0.0]
        })
        .collect();
    for corners in outputs.values[0].chunks_exact_mut(4) {
        let [x, y, size, _] = centres[random.random_range(0..places)];
        let noise = if random.random_bool(0.1) { 0.0 } else { 0.3 * size };
        let mut near = |at: f32| if noise == 0.0 { at } else { at + random.random_range(-noise..noise) };
        let (left, top) = (near(x), near(y));
        let (width, height) = (near(size).max(0.0), near(size).max(0.0));
        corners.copy_from_slice(&[left, top, left + width, top + height]);
        if random.random_bool(0.02) {
            (corners[2], corners[3]) = (corners[0], corners[1]);
        }
    }
    // Scores on a coarse scale, so that many are equal.
    outputs.values[1].iter_mut().for_each(|score| *score = (*score * 200.0).round() / 200.0);
    outputs
}

pub fn matrix<Q: Queue>(bench: &Bench<Q>) {
    let mut random = ChaCha8Rng::seed_from_u64(41);
    for (rows, classes, places) in shapes(bench) {
        let case = case(rows, classes);
        let outputs = clustered(&mut random, &case, 2, places);
        for kernel in [MatrixKernel::Linear, MatrixKernel::Gaussian] {
            for (normalized, top_k, class_agnostic) in
                [(true, None, false), (false, Some(40), false), (true, None, true)]
            {
                let nms = Nms::Matrix(MatrixNms { kernel, normalized, top_k, post_threshold: 0.02, sigma: 2.0 });
                let all = options(nms.clone(), class_agnostic, 1_000_000);
                compare(bench, &case, &outputs, &[all, options(nms, class_agnostic, 50)], Number::Float32);
            }
        }
    }
}

pub fn greedy<Q: Queue>(bench: &Bench<Q>) {
    let mut random = ChaCha8Rng::seed_from_u64(42);
    for (rows, classes, places) in shapes(bench) {
        let case = case(rows, classes);
        let outputs = clustered(&mut random, &case, 2, places);
        for iou_threshold in [0.3, 0.7] {
            for (eta, top_k, class_agnostic) in [(1.0, None, false), (0.9, Some(60), false), (0.99, None, true)] {
                let nms = Nms::Greedy(GreedyNms { iou_threshold, top_k, eta });
                let all = options(nms.clone(), class_agnostic, 1_000_000);
                compare(bench, &case, &outputs, &[all, options(nms, class_agnostic, 50)], Number::Float32);
            }
        }
    }
}

/// Rows, classes, places that boxes gather around.
fn shapes<Q: Queue>(bench: &Bench<Q>) -> Vec<(usize, usize, usize)> {
    let mut shapes = vec![(1, 1, 1), (2, 1, 1), (40, 1, 1), (300, 1, 5), (300, 40, 5), (700, 3, 20)];
    if bench.rounds > 10 {
        shapes.extend([(1000, 80, 100), (5000, 1, 300), (8400, 80, 400), (25_200, 80, 1000), (25_200, 1, 1000)]);
    }
    shapes
}

fn options(nms: Nms, class_agnostic: bool, max_detections: usize) -> DetectOptions {
    DetectOptions { score_threshold: 0.01, nms, max_detections, class_agnostic, ..DetectOptions::default() }
}

/// More candidates than there is room for are counted and said; as many as take part at most are the best.
pub fn overflow<Q: Queue>(bench: &Bench<Q>) {
    let mut random = ChaCha8Rng::seed_from_u64(43);
    let nms = Nms::Greedy(GreedyNms { iou_threshold: 1.0, ..GreedyNms::default() });
    let everything = DetectOptions { multi_label: true, score_threshold: 0.0, ..options(nms, true, 3) };
    // 70,000 candidates, room for 65,536.
    let mut case = case(1000, 70);
    let outputs = clustered(&mut random, &case, 1, 10);
    let compared = both(bench, &case, &outputs, std::slice::from_ref(&everything), Number::Float32, Launching::Plainly);
    let passing = outputs.values[1].iter().filter(|score| **score > 0.0).count();
    assert!(passing > 65_536 && compared.answers[0].overflowed);
    assert_eq!(compared.answers[0].found as usize, passing);
    // 40,000 candidates, of which 30,000 take part: what is kept is still what the CPU keeps.
    (case.shapes, case.classes) = (vec![vec![1000, 4], vec![1000, 40]], 40);
    let outputs = clustered(&mut random, &case, 1, 10);
    assert!(outputs.values[1].iter().filter(|score| **score > 0.0).count() > MAX_CANDIDATES);
    compare(bench, &case, &outputs, &[everything], Number::Float32);
    assert!(is_known(&case.head) && !is_known(&Head::EndToEnd));
}
