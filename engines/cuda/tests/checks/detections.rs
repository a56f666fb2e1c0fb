//! The whole way from outputs to detections, beside `Head::detect`.

use bytemuck::cast_slice;
use detectd_cuda::layout::Number;
use detectd_cuda::{Answer, Asked, DeviceOutput, Launching, Limits, Postprocess, Queue, describe, detections};
use detectd_vision::{DetectOptions, Detection, Head, Letterbox, NmsScratch, OutputData, OutputView, Preprocess};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Bench, heads, options};

/// A head, its outputs' shapes for a batch, and the network's input.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    pub head: Head,
    pub classes: usize,
    pub preprocess: Preprocess,
    /// Without the batch.
    pub shapes: Vec<Vec<usize>>,
    /// The least and the largest value of an element, by the output it is in; the last counts for those beyond.
    pub ranges: Vec<Vec<(f32, f32)>>,
    /// The elements of a row lie beside each other; otherwise each has a plane.
    pub rows: bool,
}

/// What a model gives for a batch.
pub struct Outputs {
    pub shapes: Vec<Vec<usize>>,
    pub values: Vec<Vec<f32>>,
}

impl Case {
    /// Outputs for `pictures`, within the ranges.
    pub fn outputs(&self, random: &mut ChaCha8Rng, pictures: usize) -> Outputs {
        let shapes: Vec<Vec<usize>> = self.shapes.iter().map(|shape| [&[pictures], &shape[..]].concat()).collect();
        let values = shapes.iter().zip(&self.ranges).map(|(shape, ranges)| {
            let cells = if self.rows { 1 } else { shape[2..].iter().product() };
            let elements = if self.rows { *shape.last().expect("a side") } else { ranges.len().max(1) };
            let planes = if self.rows { elements } else { shape[1] };
            (0..shape.iter().product())
                .map(|at: usize| {
                    let element = at / cells % planes % elements.max(1);
                    let (low, high) = ranges[element.min(ranges.len() - 1)];
                    random.random_range(low..high)
                })
                .collect()
        });
        Outputs { values: values.collect(), shapes }
    }

    fn limits(&self, pictures: usize, outputs: &Outputs) -> Limits {
        let views = self.views(outputs);
        let letterbox = Letterbox::new((10, 10), &self.preprocess);
        let rows = self.head.decode::<f32>(&views, 0, &letterbox).expect("of the head's layout").corners.len();
        Limits { pictures: pictures as u32, rows: rows as u32, classes: self.classes as u32 }
    }

    pub fn views<'a>(&self, outputs: &'a Outputs) -> Vec<OutputView<'a>> {
        outputs
            .shapes
            .iter()
            .zip(&outputs.values)
            .map(|(shape, values)| OutputView { name: "output", shape, data: OutputData::F32(values) })
            .collect()
    }
}

/// What the device makes of a batch, beside what the CPU does.
pub struct Compared {
    pub got: Vec<Vec<Detection>>,
    pub expected: Vec<Vec<Detection>>,
    pub answers: Vec<Answer>,
}

/// Runs a batch both ways.
pub fn both<Q: Queue>(
    bench: &Bench<Q>,
    case: &Case,
    outputs: &Outputs,
    options: &[DetectOptions],
    number: Number,
    launching: Launching,
) -> Compared {
    let rounded = Outputs {
        shapes: outputs.shapes.clone(),
        values: outputs
            .values
            .iter()
            .map(|values| values.iter().map(|value| round(*value, number)).collect())
            .collect(),
    };
    let sent: Vec<_> = rounded.values.iter().map(|values| bench.sent(&stored(values, number))).collect();
    let described: Vec<DeviceOutput<'_>> = sent
        .iter()
        .zip(&rounded.shapes)
        .map(|(sent, shape)| DeviceOutput { name: "output", shape, address: sent.address(), number })
        .collect();
    let (preprocess, classes) = (&case.preprocess, case.classes);
    let input = (preprocess.width, preprocess.height);
    let head =
        describe(&case.head, &described, classes, input).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let limits = case.limits(options.len(), &rounded);
    assert_eq!(head.rows, limits.rows, "{}", case.name);
    let letterboxes: Vec<Letterbox> =
        (0..options.len()).map(|at| Letterbox::new((37 + 20 * at as u32, 61), preprocess)).collect();
    let asked: Vec<Asked> = options
        .iter()
        .zip(&letterboxes)
        .map(|(options, letterbox)| Asked::new(&case.head, options, letterbox))
        .collect();
    let mut postprocess = Postprocess::new(&bench.queue, limits).expect("memory");
    let mut answers = Vec::new();
    for round in 0..2 {
        // SAFETY: the outputs were sent and live until the answer has come.
        #[expect(unsafe_code)]
        let run = unsafe { postprocess.run(&bench.queue, round, &head, &asked, launching) };
        run.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let again = postprocess.answer(&bench.queue, round).expect("an answer");
        assert!(round == 0 || again == answers, "{}: round {round} differs", case.name);
        answers = again;
    }
    let views = case.views(&rounded);
    let mut scratch = NmsScratch::default();
    let expected = options.iter().zip(&letterboxes).enumerate().map(|(at, (options, letterbox))| {
        case.head.detect(&views, at, letterbox, options, &mut scratch).expect("of the head's layout")
    });
    let expected = expected.collect();
    let got = answers.iter().zip(options).zip(&letterboxes);
    let got = got.map(|((answer, options), letterbox)| detections(&answer.kept, &case.head, options, letterbox));
    Compared { got: got.collect(), expected, answers }
}

/// Runs a batch both ways and compares. Gives the number of boxes.
pub fn compare<Q: Queue>(
    bench: &Bench<Q>,
    case: &Case,
    outputs: &Outputs,
    options: &[DetectOptions],
    number: Number,
) -> usize {
    let compared = both(bench, case, outputs, options, number, Launching::Plainly);
    let pairs = compared.got.iter().zip(&compared.expected).zip(&compared.answers).enumerate();
    for (at, ((got, expected), answer)) in pairs {
        assert!(!answer.overflowed, "{}: {} candidates", case.name, answer.found);
        let what = || format!("{}, picture {at}, {number:?}, {:?}", case.name, options[at]);
        assert_same(got, expected, bench.tolerance, &what);
    }
    compared.expected.iter().map(Vec::len).sum()
}

/// Equal, or on a device whose exponentials differ in the last bits: the same but for boxes that are at a threshold.
fn assert_same(got: &[Detection], expected: &[Detection], tolerance: f32, what: &dyn Fn() -> String) {
    if tolerance == 0.0 {
        let at = got.iter().zip(expected).position(|(got, expected)| got != expected);
        let at = at.unwrap_or_else(|| got.len().min(expected.len()));
        let same = got == expected;
        assert!(
            same,
            "{}: {} boxes, expected {}; box {at}: {:?}, expected {:?}",
            what(),
            got.len(),
            expected.len(),
            got.get(at),
            expected.get(at)
        );
        return;
    }
    let near = |a: &Detection, b: &Detection| {
        let sides = |d: &Detection| [d.bbox.x1, d.bbox.y1, d.bbox.x2, d.bbox.y2];
        let close = |(a, b): (f32, f32)| (a - b).abs() <= 100.0 * tolerance * b.abs().max(1.0);
        a.class_id == b.class_id
            && (a.score - b.score).abs() <= tolerance * b.score.abs().max(1.0)
            && sides(a).into_iter().zip(sides(b)).all(close)
    };
    let mut left: Vec<&Detection> = got.iter().collect();
    let mut missing = 0;
    for one in expected {
        match left.iter().position(|other| near(other, one)) {
            Some(at) => drop(left.remove(at)),
            None => missing += 1,
        }
    }
    let allowed = expected.len() / 200 + usize::from(!expected.is_empty());
    assert!(
        missing <= allowed && left.len() <= allowed,
        "{}: of {} boxes {missing} are missing, and {} are too many",
        what(),
        expected.len(),
        left.len()
    );
}

/// A graph that was recorded with one batch gives for others what plain launches give.
pub fn graphs_equal_plain_launches<Q: Queue>(bench: &Bench<Q>) {
    let mut random = ChaCha8Rng::seed_from_u64(71);
    for case in heads::cases() {
        let pictures = 3;
        let first = case.outputs(&mut random, pictures);
        let limits = case.limits(pictures, &first);
        let mut postprocess = Postprocess::new(&bench.queue, limits).expect("memory");
        for round in 0..3 {
            let outputs = case.outputs(&mut random, pictures);
            let options: Vec<DetectOptions> =
                (0..pictures).map(|_| options::random(&mut random, case.classes)).collect();
            let plain = both(bench, &case, &outputs, &options, Number::Float32, Launching::Plainly);
            let sent: Vec<_> = outputs.values.iter().map(|values| bench.sent(cast_slice(values))).collect();
            let described: Vec<DeviceOutput<'_>> = sent
                .iter()
                .zip(&outputs.shapes)
                .map(|(sent, shape)| DeviceOutput {
                    name: "output",
                    shape,
                    address: sent.address(),
                    number: Number::Float32,
                })
                .collect();
            let input = (case.preprocess.width, case.preprocess.height);
            let head = describe(&case.head, &described, case.classes, input).expect("of the head's layout");
            let asked: Vec<Asked> = options
                .iter()
                .enumerate()
                .map(|(at, options)| {
                    let letterbox = Letterbox::new((37 + 20 * at as u32, 61), &case.preprocess);
                    Asked::new(&case.head, options, &letterbox)
                })
                .collect();
            // SAFETY: the outputs were sent and live until the answer has come.
            #[expect(unsafe_code)]
            unsafe {
                postprocess.run(&bench.queue, round, &head, &asked, Launching::AsGraph).expect("run");
            }
            let answers = postprocess.answer(&bench.queue, round).expect("an answer");
            assert_eq!(answers, plain.answers, "{}, round {round}", case.name);
        }
    }
}

/// The value that is left of one when it is stored.
fn round(value: f32, number: Number) -> f32 {
    match number {
        Number::Float32 => value,
        Number::Float16 => half::f16::from_f32(value).to_f32(),
        Number::Bfloat16 => half::bf16::from_f32(value).to_f32(),
    }
}

fn stored(values: &[f32], number: Number) -> Vec<u8> {
    match number {
        Number::Float32 => cast_slice(values).to_vec(),
        Number::Float16 => values.iter().flat_map(|value| half::f16::from_f32(*value).to_ne_bytes()).collect(),
        Number::Bfloat16 => values.iter().flat_map(|value| half::bf16::from_f32(*value).to_ne_bytes()).collect(),
    }
}
