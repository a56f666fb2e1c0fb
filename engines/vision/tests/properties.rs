//! Properties of suppression, of the letterbox and of decoding, on generated inputs.

use detectd_vision::{
    BoundingBox, Candidates, DecodeLimits, GreedyNms, Kept, Letterbox, MatrixKernel, MatrixNms, MatrixScratch,
    Preprocess, Resize, SoftKernel, SoftNms, decode, greedy_nms, matrix_nms, probe, soft_nms,
};
use proptest::prelude::*;

/// Class, corners and score.
type Candidate = (u32, [f64; 4], f64);

/// Boxes on a coarse grid (many equal, touching and empty ones, with equal scores) or anywhere; few or many.
fn boxes() -> impl Strategy<Value = Vec<Candidate>> {
    let coarse = (0..3_u32, 0..12_i32, 0..12_i32, 0..6_i32, 0..6_i32, 1..20_i32)
        .prop_map(|(class, x, y, w, h, score)| (class, [x, y, x + w, y + h].map(f64::from), f64::from(score) / 20.0));
    let fine = (0..3_u32, 0.0..600.0, 0.0..600.0, 0.0..9.0_f64, -1.0..1.0_f64, 0.011..1.0).prop_map(
        |(class, x, y, size, aspect, score): (u32, f64, f64, f64, f64, f64)| {
            let (width, height) = (size.exp2() * aspect.exp2(), size.exp2() / aspect.exp2());
            (class, [x, y, x + width, y + height], score)
        },
    );
    prop_oneof![
        prop::collection::vec(coarse.clone(), 0..60),
        prop::collection::vec(fine.clone(), 0..60),
        prop::collection::vec(coarse, 600..900),
        prop::collection::vec(fine, 600..1200),
    ]
}

fn matrix() -> impl Strategy<Value = MatrixNms> {
    let kernel = prop_oneof![Just(MatrixKernel::Linear), Just(MatrixKernel::Gaussian)];
    let top_k = prop_oneof![3 => Just(None), 1 => (1..200_usize).prop_map(Some)];
    let post_threshold = prop_oneof![Just(0.0), Just(0.0137), Just(0.3)];
    (kernel, 0.5..4.0_f32, post_threshold, top_k, any::<bool>()).prop_map(
        |(kernel, sigma, post_threshold, top_k, normalized)| MatrixNms {
            kernel,
            sigma,
            post_threshold,
            top_k,
            normalized,
        },
    )
}

fn candidates(boxes: &[Candidate]) -> Candidates<f64> {
    let mut candidates = Candidates::new();
    for (row, (class, corners, score)) in boxes.iter().enumerate() {
        candidates.push(*corners, *score, *class, row as u32);
    }
    candidates
}

fn overlap(a: [f64; 4], b: [f64; 4], offset: f64) -> f64 {
    if b[0] > a[2] || b[2] < a[0] || b[1] > a[3] || b[3] < a[1] {
        return 0.0;
    }
    let area = |c: [f64; 4]| (c[2] - c[0] + offset) * (c[3] - c[1] + offset);
    let across = a[2].min(b[2]) - a[0].max(b[0]) + offset;
    let down = a[3].min(b[3]) - a[1].max(b[1]) + offset;
    across * down / (area(a) + area(b) - across * down)
}

/// Matrix NMS as its definition reads: all overlaps, then all decays. Returns (row, score) of what is kept.
fn plain_matrix_nms(boxes: &[Candidate], parameters: &MatrixNms, agnostic: bool) -> Vec<(usize, f64)> {
    let offset = if parameters.normalized { 0.0 } else { 1.0 };
    let mut kept = Vec::new();
    for class in if agnostic { 0..1 } else { 0..3 } {
        let mut rows: Vec<usize> = (0..boxes.len()).filter(|row| agnostic || boxes[*row].0 == class).collect();
        rows.sort_by(|a, b| boxes[*b].2.total_cmp(&boxes[*a].2).then(a.cmp(b)));
        rows.truncate(parameters.top_k.unwrap_or(usize::MAX));
        let v = |i: usize, j: usize| overlap(boxes[rows[i]].1, boxes[rows[j]].1, offset);
        // `f64::max` and `f64::min` ignore NaN, the overlap of two empty boxes.
        let m: Vec<f64> = (0..rows.len()).map(|j| (0..j).map(|k| v(k, j)).fold(0.0, f64::max)).collect();
        for i in 0..rows.len() {
            let decay = |j: usize| match parameters.kernel {
                MatrixKernel::Linear => (1.0 - v(i, j)) / (1.0 - m[j]),
                MatrixKernel::Gaussian => (f64::from(parameters.sigma) * (m[j].powi(2) - v(i, j).powi(2))).exp(),
            };
            let score = boxes[rows[i]].2 * (0..i).map(decay).fold(1.0, f64::min);
            if score > f64::from(parameters.post_threshold) {
                kept.push((rows[i], score));
            }
        }
    }
    kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    kept
}

fn rows(candidates: &Candidates<f64>, kept: &[Kept<f64>]) -> Vec<(usize, f64)> {
    kept.iter().map(|kept| (candidates.rows()[kept.index] as usize, kept.score)).collect()
}

/// A box further down the order may differ by rounding alone, so scores are compared place by place, boxes as sets.
fn assert_same(got: &[(usize, f64)], expected: &[(usize, f64)], post_threshold: f64) {
    // A score at the threshold may fall to either side.
    let clear = |kept: &[(usize, f64)]| -> Vec<(usize, f64)> {
        let mut kept: Vec<_> =
            kept.iter().copied().filter(|(_, score)| (score - post_threshold).abs() > 1e-9).collect();
        kept.sort_by_key(|(row, _)| *row);
        kept
    };
    let (got, expected) = (clear(got), clear(expected));
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(&expected) {
        assert_eq!(got.0, expected.0);
        assert!((got.1 - expected.1).abs() < 1e-9, "{got:?}, expected {expected:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn matrix_nms_equals_its_definition(boxes in boxes(), parameters in matrix(), agnostic: bool) {
        let candidates = candidates(&boxes);
        let kept = matrix_nms(&candidates, &parameters, agnostic, usize::MAX, &mut MatrixScratch::default());
        let expected = plain_matrix_nms(&boxes, &parameters, agnostic);
        assert_same(&rows(&candidates, &kept), &expected, f64::from(parameters.post_threshold));
    }

    #[test]
    fn a_limit_keeps_the_best(boxes in boxes(), parameters in matrix(), most in 1..40_usize) {
        let candidates = candidates(&boxes);
        let mut scratch = MatrixScratch::default();
        let all = matrix_nms(&candidates, &parameters, false, usize::MAX, &mut scratch);
        let some = matrix_nms(&candidates, &parameters, false, most, &mut scratch);
        assert_eq!(some, all[..most.min(all.len())]);
        assert!(all.is_sorted_by(|a, b| a.score >= b.score));
        assert!(all.iter().all(|kept| kept.score <= candidates.scores()[kept.index]));
    }

    #[test]
    fn single_precision_agrees(boxes in boxes(), normalized: bool) {
        let mut single = Candidates::<f32>::new();
        let mut rounded = Vec::new();
        for (row, (class, corners, score)) in boxes.iter().enumerate() {
            let (corners, score) = (corners.map(|v| v as f32), *score as f32);
            single.push(corners, score, *class, row as u32);
            rounded.push((*class, corners.map(f64::from), f64::from(score)));
        }
        let parameters = MatrixNms { post_threshold: 0.0, kernel: MatrixKernel::Gaussian, normalized, ..MatrixNms::default() };
        let kept = matrix_nms(&single, &parameters, false, usize::MAX, &mut MatrixScratch::default());
        let expected = plain_matrix_nms(&rounded, &parameters, false);
        assert_eq!(kept.len(), expected.len());
        for (kept, expected) in kept.iter().zip(&expected) {
            assert!((f64::from(kept.score) - expected.1).abs() < 1e-4, "{kept:?}, expected {expected:?}");
        }
    }

    #[test]
    fn the_order_of_arrival_does_not_matter(boxes in boxes(), seed: u64, parameters in matrix()) {
        let mut order: Vec<usize> = (0..boxes.len()).collect();
        order.sort_by_key(|row| (*row as u64 + 1).wrapping_mul(seed | 1).rotate_left(17));
        let mut shuffled = Candidates::new();
        for row in order {
            let (class, corners, score) = boxes[row];
            shuffled.push(corners, score, class, row as u32);
        }
        let plain = candidates(&boxes);
        let mut scratch = MatrixScratch::default();
        let both = [&plain, &shuffled].map(|c| {
            let greedy = greedy_nms(c, &GreedyNms::default(), false, usize::MAX);
            let soft = soft_nms(c, &SoftNms::default(), false, 30);
            let matrix = matrix_nms(c, &parameters, false, usize::MAX, &mut scratch);
            [rows(c, &matrix), rows(c, &greedy), rows(c, &soft)]
        });
        assert_eq!(both[0], both[1]);
    }

    #[test]
    fn greedy_keeps_what_no_kept_box_covers(boxes in boxes(), agnostic: bool, threshold in 0.1..0.9_f32) {
        let candidates = candidates(&boxes);
        let parameters = GreedyNms { iou_threshold: threshold, ..GreedyNms::default() };
        let kept = greedy_nms(&candidates, &parameters, agnostic, usize::MAX);
        let covers = |a: usize, b: usize| {
            let same = agnostic || candidates.classes()[a] == candidates.classes()[b];
            same && overlap(candidates.corners()[a], candidates.corners()[b], 0.0) > f64::from(threshold)
        };
        for (place, one) in kept.iter().enumerate() {
            assert!(kept[..place].iter().all(|other| !covers(one.index, other.index)));
        }
        for index in 0..candidates.len() {
            let better = |kept: &Kept<f64>| kept.score >= candidates.scores()[index] && covers(kept.index, index);
            assert!(kept.iter().any(|kept| kept.index == index || better(kept)));
        }
    }

    #[test]
    fn soft_nms_only_lowers_scores(boxes in boxes(), linear: bool, minimum_score in 0.05..0.5_f32) {
        let candidates = candidates(&boxes);
        let kernel = if linear { SoftKernel::Linear { iou_threshold: 0.3 } } else { SoftKernel::Gaussian { sigma: 0.5 } };
        let kept = soft_nms(&candidates, &SoftNms { kernel, minimum_score }, false, 60);
        assert!(kept.is_sorted_by(|a, b| a.score >= b.score));
        assert!(kept.iter().all(|kept| kept.score <= candidates.scores()[kept.index]));
        assert!(kept.iter().all(|kept| kept.score >= f64::from(minimum_score)));
        // The best of each class overlaps nothing better.
        let best = candidates.scores().iter().copied().fold(0.0, f64::max);
        if best >= f64::from(minimum_score) {
            assert_eq!(kept.first().map(|kept| kept.score), Some(best));
        }
    }

    #[test]
    fn a_box_comes_back_from_the_input(
        source in (1..5000_u32, 1..5000_u32),
        input in (1..60_u32, 1..60_u32),
        resize in prop_oneof![Just(Resize::Letterbox), Just(Resize::LetterboxTopLeft), Just(Resize::Stretch)],
        corners in (0.0..1.0_f32, 0.0..1.0_f32, 0.0..1.0_f32, 0.0..1.0_f32),
    ) {
        let preprocess = Preprocess { resize, ..Preprocess::yolov5(input.0 * 32, input.1 * 32) };
        let letterbox = Letterbox::new(source, &preprocess);
        let (width, height) = (source.0 as f32, source.1 as f32);
        let (x1, x2) = (corners.0.min(corners.2) * width, corners.0.max(corners.2) * width);
        let (y1, y2) = (corners.1.min(corners.3) * height, corners.1.max(corners.3) * height);
        let back = letterbox.unmap(letterbox.map(BoundingBox::new(x1, y1, x2, y2)));
        // One unit of single precision in the input, in the picture's pixels.
        let error = (1.0 + 2000.0 / letterbox.scale().0.min(letterbox.scale().1)) as f32 * 2.5e-7 + width.max(height) * 2.5e-7;
        for (back, there) in [(back.x1, x1), (back.y1, y1), (back.x2, x2), (back.y2, y2)] {
            assert!((back - there).abs() <= error, "{back} for {there}, {letterbox:?}");
        }
        // The picture's place lies inside the input.
        let (content, offset) = (letterbox.content(), letterbox.offset());
        assert!(content.0 + offset.0 <= input.0 * 32 && content.1 + offset.1 <= input.1 * 32);
        assert!(content.0 > 0 && content.1 > 0);
        // Whatever comes from the input is clipped to the picture.
        let all = letterbox.unmap(BoundingBox::new(-1e6, -1e6, 1e6, 1e6));
        assert_eq!((all.x1, all.y1, all.x2, all.y2), (0.0, 0.0, width, height));
    }

    #[test]
    fn broken_pictures_are_errors(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut data = seeds()[which.index(seeds().len())].clone();
        for (at, value) in changes {
            let at = at.index(data.len());
            data[at] = value;
        }
        if let Some(cut) = cut {
            data.truncate(cut.index(data.len()));
        }
        let limits = DecodeLimits { max_pixels: 100_000 };
        let info = probe(&data);
        if let Ok(decoded) = decode(&data, &limits, Vec::new()) {
            let info = info.expect("what decodes has a header");
            assert_eq!((decoded.image.width(), decoded.image.height()), (info.width, info.height));
            assert!(u64::from(info.width) * u64::from(info.height) <= limits.max_pixels);
        }
    }
}

/// The encoded pictures beside the tests.
fn seeds() -> &'static [Vec<u8>] {
    static SEEDS: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    SEEDS.get_or_init(|| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/images");
        let paths = std::fs::read_dir(folder).expect(folder).map(|entry| entry.expect("readable folder").path());
        let pictures = paths
            .filter(|path| path.extension().is_some_and(|e| ["jpg", "png", "webp", "bmp"].iter().any(|k| e == *k)));
        let mut pictures: Vec<_> = pictures.collect();
        pictures.sort();
        pictures.iter().map(|path| std::fs::read(path).expect("readable file")).collect()
    })
}
