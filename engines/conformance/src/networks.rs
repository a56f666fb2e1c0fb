//! The networks of the suite.

use detectd_engine::{DataType, DetectorOptions};
use detectd_vision::{Head, Preprocess};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::network::{Network, Operation, Port, Step};

/// Classes of [`detector`] and [`auxiliary`].
pub const CLASSES: usize = 3;

/// A picture of 32x32 to 64 rows of YOLOv8's layout: convolutions, a residual sum, pooling.
pub fn detector() -> Network {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let rows = 4 + CLASSES;
    let mut scale = vec![1.0; rows];
    scale[..4].copy_from_slice(&[32.0, 32.0, 20.0, 20.0]);
    Network {
        name: "detector",
        inputs: vec![float("images", &[3, 32, 32])],
        steps: vec![
            step(convolution(&mut random, 3, 8, [3, 2, 1]), &["images"], "stem"),
            step(Operation::Silu, &["stem"], "stem_silu"),
            step(Operation::MaxPool, &["stem_silu"], "pooled"),
            step(convolution(&mut random, 8, 8, [3, 1, 1]), &["pooled"], "block"),
            step(Operation::Silu, &["block"], "block_silu"),
            step(Operation::Add, &["pooled", "block_silu"], "sum"),
            step(convolution(&mut random, 8, rows, [1, 1, 0]), &["sum"], "head"),
            step(Operation::Sigmoid, &["head"], "probabilities"),
            step(Operation::Reshape { dims: vec![rows, 64] }, &["probabilities"], "flat"),
            step(Operation::Affine { scale, offset: vec![0.0; rows], columns: false }, &["flat"], "output0"),
        ],
        outputs: vec![float("output0", &[rows, 64])],
    }
}

/// What a manifest says of [`detector`].
pub fn detector_options() -> DetectorOptions {
    DetectorOptions {
        classes: CLASSES,
        preprocess: Some(Preprocess::yolov5(32, 32)),
        head: Some(Head::Yolov8),
        ..DetectorOptions::default()
    }
}

/// A picture of 16x16 with `im_shape` and `scale_factor` beside it, to corners and scores of 6 boxes, all of which
/// depend on all three.
pub fn auxiliary() -> Network {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    // The picture's 64 features are small beside heights of 16 and factors of 0.1 to 2.
    let mut linear = |outputs: usize| {
        let mut weight = uniform(&mut random, outputs * 68, 0.6);
        for row in weight.chunks_exact_mut(68) {
            row[64..66].iter_mut().for_each(|weight| *weight *= 0.05);
        }
        Operation::Linear { weight, bias: uniform(&mut random, outputs, 1.0) }
    };
    let (boxes, scores) = (linear(24), linear(6 * CLASSES));
    Network {
        name: "auxiliary",
        inputs: vec![float("im_shape", &[2]), float("image", &[3, 16, 16]), float("scale_factor", &[2])],
        steps: vec![
            step(convolution(&mut random, 3, 4, [3, 4, 1]), &["image"], "stem"),
            step(Operation::Silu, &["stem"], "stem_silu"),
            step(Operation::Reshape { dims: vec![64] }, &["stem_silu"], "flat"),
            step(Operation::Concatenate, &["flat", "im_shape", "scale_factor"], "features"),
            step(boxes, &["features"], "corners"),
            step(Operation::Sigmoid, &["corners"], "corners_sigmoid"),
            step(Operation::Reshape { dims: vec![6, 4] }, &["corners_sigmoid"], "corners_rows"),
            // The first corner in the upper left quarter, the second in the lower right one.
            step(
                Operation::Affine { scale: vec![8.0; 4], offset: vec![0.0, 0.0, 8.0, 8.0], columns: true },
                &["corners_rows"],
                "boxes",
            ),
            step(scores, &["features"], "logits"),
            step(Operation::Sigmoid, &["logits"], "scores_flat"),
            step(Operation::Reshape { dims: vec![6, CLASSES] }, &["scores_flat"], "scores"),
        ],
        outputs: vec![float("boxes", &[6, 4]), float("scores", &[6, CLASSES])],
    }
}

/// What a manifest says of [`auxiliary`].
pub fn auxiliary_options() -> DetectorOptions {
    DetectorOptions {
        classes: CLASSES,
        preprocess: Some(Preprocess::ppyolo(16, 16)),
        head: Some(Head::BoxesScores),
        ..DetectorOptions::default()
    }
}

/// Every element type: each input comes out in another shape.
pub fn typed() -> Network {
    let ports = [
        ("a", "aa", DataType::Int64),
        ("b", "bb", DataType::Uint8),
        ("c", "cc", DataType::Int32),
        ("d", "dd", DataType::Int8),
        ("e", "ee", DataType::Fp32),
    ];
    let port = |name, data_type, dims: &[usize]| Port { name, data_type, dims: dims.to_vec() };
    let reshape = || Operation::Reshape { dims: vec![3, 2] };
    Network {
        name: "typed",
        inputs: ports.iter().map(|&(input, _, data_type)| port(input, data_type, &[6])).collect(),
        steps: ports.iter().map(|&(input, output, _)| step(reshape(), &[input], output)).collect(),
        outputs: ports.iter().map(|&(_, output, data_type)| port(output, data_type, &[3, 2])).collect(),
    }
}

fn float(name: &'static str, dims: &[usize]) -> Port {
    Port { name, data_type: DataType::Fp32, dims: dims.to_vec() }
}

fn step(operation: Operation, inputs: &[&'static str], output: &'static str) -> Step {
    Step { operation, inputs: inputs.to_vec(), output }
}

/// Weights large enough that rows differ in score and place.
fn convolution(
    random: &mut ChaCha8Rng,
    inputs: usize,
    outputs: usize,
    [kernel, stride, padding]: [usize; 3],
) -> Operation {
    let fan_in = inputs * kernel * kernel;
    let bound = 4.0 / (fan_in as f32).sqrt();
    let (weight, bias) = (uniform(random, outputs * fan_in, bound), uniform(random, outputs, 0.5));
    Operation::Convolution { weight, bias, kernel, stride, padding }
}

fn uniform(random: &mut ChaCha8Rng, len: usize, bound: f32) -> Vec<f32> {
    (0..len).map(|_| random.random_range(-bound..bound)).collect()
}
