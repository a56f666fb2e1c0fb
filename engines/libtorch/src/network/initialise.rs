use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use super::operations::{Activation, Convolution, ConvolutionKind, Operations};
use super::weights::{Weights, is_trainable};
use super::{NetworkError, Plan};

static GENERATOR: Mutex<()> = Mutex::new(());

/// Fresh weights for a plan: the same for the same seed.
pub(super) fn weights(plan: &Plan, seed: i64) -> Result<Weights, NetworkError> {
    let mut weights = {
        // All threads share libtorch's generator.
        let _alone = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
        tch::manual_seed(seed);
        let mut initialise = Initialise { weights: Weights::new() };
        plan.run(&mut initialise, &())?;
        initialise.weights
    };

    let detect = &plan.detect;
    let index = plan.layers.len() - 1;
    for (level, stride) in detect.strides.iter().enumerate() {
        if let Some(bias) = weights.get(&format!("model.{index}.m.{level}.bias")) {
            add_priors(bias, detect.outputs_per_anchor(), *stride, detect.classes)?;
        }
    }
    if !detect.anchors.is_empty() {
        weights.insert(format!("model.{index}.anchors"), anchors_in_cells(plan)?);
    }
    for (name, tensor) in &mut weights {
        if is_trainable(name) {
            *tensor = tensor.f_set_requires_grad(true)?;
        }
    }
    Ok(weights)
}

/// Box priors as the state holds them: [level, anchor, 2], in units of the level's stride.
fn anchors_in_cells(plan: &Plan) -> Result<Tensor, NetworkError> {
    let detect = &plan.detect;
    let values: Vec<f32> = detect
        .anchors
        .iter()
        .zip(&detect.strides)
        .flat_map(|(level, stride)| {
            let stride = *stride as f64;
            level.iter().flat_map(move |(width, height)| [(width / stride) as f32, (height / stride) as f32])
        })
        .collect();
    let anchors = i64::try_from(detect.anchors_per_level).unwrap_or(0);
    Ok(Tensor::f_from_slice(&values)?.f_reshape([-1, anchors, 2])?)
}

/// Lets a fresh network expect about 8 objects in a picture of 640x640, each class 0.6 of them at most.
fn add_priors(bias: &Tensor, outputs: usize, stride: usize, classes: usize) -> Result<(), NetworkError> {
    let (stride, classes) = (stride as f64, classes as f64);
    let objectness = (8.0 / (640.0 / stride).powi(2)).ln();
    let class = (0.6 / (classes - 0.99999)).ln();
    let per_anchor = bias.f_view([-1, i64::try_from(outputs).unwrap_or(1)])?;
    let _objectness = per_anchor.f_slice(1, 4, 5, 1)?.f_add_scalar_(objectness)?;
    let _classes = per_anchor.f_slice(1, 5, None, 1)?.f_add_scalar_(class)?;
    Ok(())
}

/// Makes the weights of each operation, in the order of computation.
struct Initialise {
    weights: Weights,
}

impl Initialise {
    fn uniform(&mut self, name: String, shape: &[usize], bound: f64) -> Result<(), NetworkError> {
        let shape: Vec<i64> = shape.iter().map(|side| i64::try_from(*side).unwrap_or(i64::MAX)).collect();
        let tensor = Tensor::f_empty(&shape, (Kind::Float, Device::Cpu))?.f_uniform_(-bound, bound)?;
        self.weights.insert(name, tensor);
        Ok(())
    }

    fn norm(&mut self, name: &str, channels: usize) -> Result<(), NetworkError> {
        let channels = [i64::try_from(channels).unwrap_or(i64::MAX)];
        let options = (Kind::Float, Device::Cpu);
        self.weights.insert(format!("{name}.weight"), Tensor::f_ones(channels, options)?);
        self.weights.insert(format!("{name}.bias"), Tensor::f_zeros(channels, options)?);
        self.weights.insert(format!("{name}.running_mean"), Tensor::f_zeros(channels, options)?);
        self.weights.insert(format!("{name}.running_var"), Tensor::f_ones(channels, options)?);
        Ok(())
    }
}

impl Operations for Initialise {
    type Value = ();
    type Error = NetworkError;

    fn convolution(&mut self, name: &str, conv: &Convolution, (): &()) -> Result<(), NetworkError> {
        // Uniform within 1 / sqrt(fan in), as PyTorch initialises its convolutions.
        let bound = 1.0 / ((conv.input * conv.kernel * conv.kernel) as f64).sqrt();
        let shape = [conv.output, conv.input, conv.kernel, conv.kernel];
        match conv.kind {
            ConvolutionKind::Normalised(_) => {
                self.uniform(format!("{name}.conv.weight"), &shape, bound)?;
                self.norm(&format!("{name}.bn"), conv.output)
            }
            ConvolutionKind::Plain { bias } => {
                self.uniform(format!("{name}.weight"), &shape, bound)?;
                if bias { self.uniform(format!("{name}.bias"), &shape[..1], bound) } else { Ok(()) }
            }
        }
    }

    fn normalise(&mut self, name: &str, channels: usize, _: Activation, (): &()) -> Result<(), NetworkError> {
        self.norm(name, channels)
    }

    fn add(&mut self, _: &str, (): &(), (): &()) -> Result<(), NetworkError> {
        Ok(())
    }

    fn concat(&mut self, _: &str, _: &[()]) -> Result<(), NetworkError> {
        Ok(())
    }

    fn max_pool(&mut self, _: &str, _: usize, (): &()) -> Result<(), NetworkError> {
        Ok(())
    }

    fn upsample(&mut self, _: &str, _: usize, (): &()) -> Result<(), NetworkError> {
        Ok(())
    }

    fn slices(&mut self, _: &str, (): &()) -> Result<(), NetworkError> {
        Ok(())
    }
}
