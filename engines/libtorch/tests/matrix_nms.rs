//! Matrix NMS with libtorch's operators, as its definition reads: a third opinion beside the implementation for the CPU
//! and the kernels for GPUs, on any device.
#![cfg(feature = "libtorch")]

mod support;

use detectd_libtorch::device;
use detectd_vision::{MatrixNmsArguments, MatrixNmsBatch, MatrixNmsOutput, MatrixScratch, matrix_nms_batch};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

/// Scores may differ by rounding, and what is as near to a limit may fall to either side of it.
const TOLERANCE: f32 = 1e-5;

/// Boxes and scores of some pictures.
struct Case {
    name: &'static str,
    images: usize,
    classes: usize,
    boxes: usize,
    corners: Vec<[f32; 4]>,
    scores: Vec<f32>,
}

/// Corners `[N, M, 4]` and scores `[N, C, M]` in; for each picture what is kept of it, the best first.
fn with_operators(case: &Case, arguments: &MatrixNmsArguments, device: Device) -> MatrixNmsOutput<f32> {
    let (images, classes, boxes) = (case.images as i64, case.classes as i64, case.boxes as i64);
    let corners = Tensor::from_slice(case.corners.as_flattened()).view([images, boxes, 4]).to_device(device);
    let scores = Tensor::from_slice(&case.scores).view([images, classes, boxes]).to_device(device);
    let mut output = MatrixNmsOutput::default();
    for image in 0..images {
        // Where a box takes no part, its score is below every threshold.
        let mut decayed = vec![Tensor::zeros([0, boxes], (Kind::Float, device))];
        for class in 0..classes {
            let scores = scores.get(image).get(class);
            let scores = if class == arguments.background_label {
                scores.full_like(f64::NEG_INFINITY)
            } else {
                decay(&corners.get(image), &scores, arguments)
            };
            decayed.push(scores.unsqueeze(0));
        }
        // Class by class, so that of equal scores the lower class comes first, then the lower box.
        let (scores, places) = Tensor::cat(&decayed, 0).flatten(0, 1).sort_stable(true, 0, true);
        let kept = scores.gt(f64::from(arguments.post_threshold)).sum(Kind::Int64).int64_value(&[]);
        let kept = if arguments.keep_top_k < 0 { kept } else { kept.min(arguments.keep_top_k) };
        let places = Vec::<i64>::try_from(places.narrow(0, 0, kept)).unwrap();
        output.counts.push(places.len());
        output.labels.extend(places.iter().map(|place| (place / boxes) as u32));
        output.indices.extend(places.iter().map(|place| (image * boxes + place % boxes) as usize));
        output.scores.extend(Vec::<f32>::try_from(scores.narrow(0, 0, kept)).unwrap());
    }
    output
}

/// The decayed scores of one class, in the order of the boxes.
fn decay(corners: &Tensor, scores: &Tensor, arguments: &MatrixNmsArguments) -> Tensor {
    let finite = corners.isfinite().all_dim(1, false).logical_and(&scores.isfinite());
    let candidates = finite.logical_and(&scores.gt(f64::from(arguments.score_threshold))).nonzero().squeeze_dim(1);
    let (ranked, order) = scores.index_select(0, &candidates).sort_stable(true, 0, true);
    let none = scores.full_like(f64::NEG_INFINITY);
    let count = if arguments.nms_top_k < 0 { order.size()[0] } else { order.size()[0].min(arguments.nms_top_k) };
    if count == 0 {
        return none;
    }
    let (ranked, order) = (ranked.narrow(0, 0, count), order.narrow(0, 0, count));
    let places = candidates.index_select(0, &order);

    // In row j and column i: what i has of j, which is better.
    let better = ranked.new_ones([count, count], (Kind::Bool, ranked.device())).triu(1);
    let v = overlaps(&corners.index_select(0, &places), if arguments.normalized { 0.0 } else { 1.0 });
    let v = v.masked_fill(&better.logical_not().logical_or(&v.isnan()), 0.0);
    let m = v.amax([0], false).unsqueeze(1);
    let f = if arguments.use_gaussian {
        ((m.square() - v.square()) * f64::from(arguments.gaussian_sigma)).exp()
    } else {
        // Not `1.0 - m`, which is `-(m - 1.0)`: -0 where m is 1, and a quotient of minus infinity.
        let but = |overlap: &Tensor| overlap.ones_like() - overlap;
        but(&v) / but(&m)
    };
    let f = f.masked_fill(&better.logical_not().logical_or(&f.isnan()), f64::INFINITY);
    let decayed = ranked * f.amin([0], false).clamp_max(1.0);
    none.index_put(&[Some(&places)], &decayed, false)
}

/// The overlap of each box with each.
fn overlaps(corners: &Tensor, offset: f64) -> Tensor {
    let side = |column| corners.select(1, column);
    let (x1, y1, x2, y2) = (side(0), side(1), side(2), side(3));
    let each = |a: &Tensor, b: &Tensor, of: fn(&Tensor, &Tensor) -> Tensor| of(&a.unsqueeze(1), &b.unsqueeze(0));
    let extent =
        |low: &Tensor, high: &Tensor| each(high, high, Tensor::minimum) - each(low, low, Tensor::maximum) + offset;
    let apart = |low: &Tensor, high: &Tensor| {
        let beyond = each(low, high, Tensor::gt_tensor);
        beyond.logical_or(&beyond.tr())
    };
    let shared = extent(&x1, &x2) * extent(&y1, &y2);
    let inverted = x2.lt_tensor(&x1).logical_or(&y2.lt_tensor(&y1));
    let area = ((&x2 - &x1 + offset) * (&y2 - &y1 + offset)).masked_fill(&inverted, 0.0);
    let union = each(&area, &area, |a, b| a + b) - &shared;
    (shared / union).masked_fill(&apart(&x1, &x2).logical_or(&apart(&y1, &y2)), 0.0)
}

/// Compares picture by picture. Boxes whose score is clear of both limits, the threshold and the worst that is kept, are
/// the same; scores are the same place by place. Returns how many there are.
fn assert_same(got: &MatrixNmsOutput<f32>, expected: &MatrixNmsOutput<f32>, limits: (f32, i64), what: &str) -> usize {
    let (post_threshold, keep_top_k) = limits;
    let (mut first, mut other, mut compared) = (0, 0, 0);
    assert_eq!(got.counts.len(), expected.counts.len(), "{what}: pictures");
    for (image, (&count, &others)) in got.counts.iter().zip(&expected.counts).enumerate() {
        let full = |count: usize| i64::try_from(count) == Ok(keep_top_k);
        let worst = |output: &MatrixNmsOutput<f32>, end: usize| if full(count) { output.scores[end - 1] } else { 0.0 };
        let limit = if count == 0 || others == 0 {
            post_threshold
        } else {
            post_threshold.max(worst(got, first + count)).max(worst(expected, other + others))
        };
        let clear = |output: &MatrixNmsOutput<f32>, start: usize, count: usize| {
            let rows = (start..start + count).filter(|&row| output.scores[row] > limit + TOLERANCE);
            let mut rows: Vec<_> =
                rows.map(|row| (output.labels[row], output.indices[row], output.scores[row])).collect();
            rows.sort_by_key(|row| (row.0, row.1));
            rows
        };
        let (ours, theirs) = (clear(got, first, count), clear(expected, other, others));
        let boxes = |rows: &[(u32, usize, f32)]| rows.iter().map(|row| (row.0, row.1)).collect::<Vec<_>>();
        assert_eq!(boxes(&ours), boxes(&theirs), "{what}: picture {image}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!((ours.2 - theirs.2).abs() <= TOLERANCE, "{what}: picture {image}: {ours:?}, expected {theirs:?}");
        }
        compared += ours.len();
        (first, other) = (first + count, other + others);
    }
    compared
}

/// A score that is no multiple of anything, and a box anywhere.
fn random(images: usize, classes: usize, boxes: usize, seed: u64) -> Case {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // Some objects, and boxes around them.
    let objects: Vec<[f32; 4]> = (0..12)
        .map(|_| {
            let (x, y) = (random.random_range(0.0..600.0), random.random_range(0.0..600.0));
            [x, y, x + random.random_range(4.0..200.0), y + random.random_range(4.0..200.0)]
        })
        .collect();
    let corners = (0..images * boxes).map(|_| {
        let [x1, y1, x2, y2] = objects[random.random_range(0..objects.len())];
        let mut near = |side: f32, spread: f32| side + random.random_range(-0.2..0.2) * spread;
        let (left, top) = (near(x1, x2 - x1), near(y1, y2 - y1));
        [left, top, near(x2, x2 - x1).max(left), near(y2, y2 - y1).max(top)]
    });
    let corners = corners.collect();
    let scores = (0..images * classes * boxes).map(|_| random.random_range(0.0f32..1.0).powi(3)).collect();
    Case { name: "random", images, classes, boxes, corners, scores }
}

/// What rounding, ties, empty boxes and numbers that are none can do.
fn adversarial() -> Vec<Case> {
    let one = |name, corners: Vec<[f32; 4]>, scores: Vec<f32>| {
        assert_eq!(corners.len(), scores.len());
        Case { name, images: 1, classes: 1, boxes: corners.len(), corners, scores }
    };
    let falling = |count: usize| (0..count).map(|index| 1.0 - index as f32 / (count + 1) as f32).collect::<Vec<f32>>();
    let square = |at: f32, side: f32| [at, at, at + side, at + side];
    let (nan, infinite) = (f32::NAN, f32::INFINITY);
    let mut odd = random(1, 3, 60, 41);
    odd.name = "values that are no numbers";
    for (index, value) in [(3, nan), (9, infinite), (17, -infinite), (100, nan), (140, infinite)] {
        odd.scores[index] = value;
    }
    odd.corners[5][2] = nan;
    odd.corners[20][0] = -infinite;
    odd.corners[33][3] = infinite;
    let mut ties = random(2, 4, 90, 42);
    ties.name = "equal scores";
    ties.scores.iter_mut().for_each(|score| *score = (*score * 8.0).ceil() / 8.0);
    let mut coarse = random(2, 2, 200, 43);
    coarse.name = "a coarse grid";
    coarse.corners.iter_mut().flatten().for_each(|side| *side = (*side / 50.0).round() * 50.0);
    let mut inverted = random(1, 2, 80, 44);
    inverted.name = "inverted boxes";
    inverted.corners.iter_mut().step_by(3).for_each(|corners| corners.swap(0, 2));
    vec![
        one("nothing", vec![], vec![]),
        Case { name: "no picture", images: 0, classes: 3, boxes: 5, corners: vec![], scores: vec![] },
        Case { name: "no class", images: 2, classes: 0, boxes: 1, corners: vec![square(0.0, 1.0); 2], scores: vec![] },
        one("one", vec![square(3.0, 5.0)], vec![0.9]),
        one("duplicates", vec![square(10.0, 30.0); 40], falling(40)),
        one("empty boxes", vec![[7.0, 7.0, 7.0, 7.0]; 12], falling(12)),
        one("lines", (0..20).map(|at| [at as f32, 0.0, at as f32, 50.0]).collect(), falling(20)),
        one("nested", (0..50).map(|ring| square(ring as f32, 200.0 - 2.0 * ring as f32)).collect(), falling(50)),
        one(
            "touching",
            (0..30).map(|at| [at as f32 * 10.0, 0.0, at as f32 * 10.0 + 10.0, 10.0]).collect(),
            falling(30),
        ),
        one("a chain", (0..120).map(|at| square(at as f32 * 0.7, 40.0)).collect(), falling(120)),
        one("nearly the same", (0..80).map(|at| square(at as f32 * 1e-4, 300.0)).collect(), falling(80)),
        one("far away", (0..60).map(|at| square(4e6 + at as f32 * 3.0, 40.0)).collect(), falling(60)),
        one("overflowing areas", (0..20).map(|at| [0.0, 0.0, 1e25 + at as f32 * 1e23, 1e25]).collect(), falling(20)),
        one(
            "scores at the thresholds",
            (0..9).map(|at| square(at as f32 * 50.0, 9.0)).collect(),
            vec![0.01, 0.25, 0.3, 0.01, 0.25, 0.3, 0.0, 1.0, 0.25],
        ),
        odd,
        ties,
        coarse,
        inverted,
    ]
}

#[test]
fn boxes_and_scores_are_those_of_the_cpu() {
    let device = device::open(support::device()).unwrap_or_else(|error| panic!("{error}"));
    let mut cases = adversarial();
    for (seed, (images, classes, boxes)) in
        [(1, 1, 300), (1, 1, 800), (2, 3, 300), (1, 80, 60), (5, 8, 64)].into_iter().enumerate()
    {
        cases.push(random(images, classes, boxes, seed as u64));
    }
    let plain = MatrixNmsArguments {
        score_threshold: 0.01,
        post_threshold: 0.01,
        nms_top_k: -1,
        keep_top_k: -1,
        use_gaussian: false,
        gaussian_sigma: 2.0,
        background_label: -1,
        normalized: true,
    };
    let choices = [
        plain.clone(),
        MatrixNmsArguments { normalized: false, ..plain.clone() },
        MatrixNmsArguments { keep_top_k: 20, ..plain.clone() },
        MatrixNmsArguments { nms_top_k: 25, score_threshold: 0.25, post_threshold: 0.25, ..plain.clone() },
        MatrixNmsArguments { nms_top_k: 0, ..plain.clone() },
        MatrixNmsArguments { post_threshold: 0.3, background_label: 0, normalized: false, ..plain },
    ];
    let mut scratch = MatrixScratch::default();
    let (mut kept, mut decayed) = (0, 0);
    for case in &cases {
        let Case { name, images, classes, boxes, ref corners, ref scores } = *case;
        for choice in &choices {
            for (use_gaussian, gaussian_sigma) in [(false, 2.0), (true, 2.0), (true, 0.5)] {
                let arguments = MatrixNmsArguments { use_gaussian, gaussian_sigma, ..choice.clone() };
                let batch = MatrixNmsBatch { images, classes, boxes, corners, scores };
                let expected = matrix_nms_batch(&batch, &arguments, &mut scratch).expect("as many values as it says");
                let got = with_operators(case, &arguments, device);
                let what = format!("{name}, {images}x{classes}x{boxes}, {arguments:?}");
                kept += assert_same(&got, &expected, (arguments.post_threshold, arguments.keep_top_k), &what);
                let original = |row: usize| {
                    let (image, index) = (expected.indices[row] / boxes, expected.indices[row] % boxes);
                    scores[(image * classes + expected.labels[row] as usize) * boxes + index]
                };
                decayed += (0..expected.scores.len()).filter(|&row| expected.scores[row] < original(row)).count();
            }
        }
    }
    println!("{kept} boxes compared on {device:?}, {decayed} of them with a lower score than before");
    assert!(kept > 20_000 && decayed > 10_000, "{kept} boxes, {decayed} decayed: the cases show too little");
}
