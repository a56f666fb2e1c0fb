use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::operations::{Activation, Convolution, ConvolutionKind, Operations};
use super::weights::Weights;
use super::{ModelYaml, NORM_EPSILON, NORM_MOMENTUM, NetworkError, Plan, initialise};

/// A network that computes: a plan and its weights.
#[derive(Debug)]
pub struct Network {
    plan: Plan,
    weights: Weights,
}

/// How a forward pass is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Batch normalisations use the batch's own statistics and update the running ones.
    pub training: bool,
    /// What convolutions compute in: `Float`, or `BFloat16` with weights kept in `Float`.
    pub precision: Kind,
}

impl Pass {
    /// f32 with the running statistics.
    pub const INFERENCE: Self = Self { training: false, precision: Kind::Float };
}

impl Network {
    /// A network with fresh random weights: the same for the same seed.
    pub fn new(model: &ModelYaml, seed: i64) -> Result<Self, NetworkError> {
        let plan = Plan::new(model)?;
        let weights = initialise::weights(&plan, seed)?;
        Ok(Self { plan, weights })
    }

    /// A network with weights that exist already; every one that the plan needs must be there in its shape.
    pub fn with_weights(plan: Plan, weights: Weights) -> Result<Self, NetworkError> {
        let network = Self { plan, weights };
        let side = network.plan.detect.strides.iter().max().copied().unwrap_or(32);
        let side = i64::try_from(side).unwrap_or(32);
        let probe = Tensor::f_zeros([1, 3, side, side], (Kind::Float, Device::Cpu))?;
        tch::no_grad(|| network.forward(&probe, Pass::INFERENCE))?;
        Ok(network)
    }

    /// A network with weights that are known to fit.
    pub(super) fn unprobed(plan: Plan, weights: Weights) -> Self {
        Self { plan, weights }
    }

    /// What it consists of.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its weights by state name.
    #[must_use]
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Computes the raw outputs, one tensor [N, anchors * (5 + classes), height / stride, width / stride] a level, for
    /// pictures [N, 3, height, width] as RGB in `[0, 1]`.
    pub fn forward(&self, pictures: &Tensor, pass: Pass) -> Result<Vec<Tensor>, NetworkError> {
        let pictures = Rc::new(pictures.f_to_kind(pass.precision)?);
        let levels = self.plan.run(&mut Forward { weights: &self.weights, pass }, &pictures)?;
        levels.iter().map(|level| Ok(level.f_to_kind(Kind::Float)?)).collect()
    }
}

/// Computes a plan's operations.
struct Forward<'a> {
    weights: &'a Weights,
    pass: Pass,
}

impl Forward<'_> {
    fn weight(&self, name: &str) -> Result<&Tensor, NetworkError> {
        self.weights
            .get(name)
            .ok_or_else(|| NetworkError::Weight { name: name.to_owned(), problem: "is missing".into() })
    }

    fn batch_norm(&self, name: &str, channels: usize, x: &Tensor) -> Result<Tensor, NetworkError> {
        let weight = |part: &str| {
            let name = format!("{name}.{part}");
            let weight = self.weight(&name)?;
            check_shape(&name, weight, &[channels]).map(|()| weight)
        };
        Ok(x.f_batch_norm(
            Some(weight("weight")?),
            Some(weight("bias")?),
            Some(weight("running_mean")?),
            Some(weight("running_var")?),
            self.pass.training,
            NORM_MOMENTUM,
            NORM_EPSILON,
            false,
        )?)
    }
}

impl Operations for Forward<'_> {
    type Value = Rc<Tensor>;
    type Error = NetworkError;

    fn convolution(&mut self, name: &str, conv: &Convolution, x: &Rc<Tensor>) -> Result<Rc<Tensor>, NetworkError> {
        let (prefix, activation) = match conv.kind {
            ConvolutionKind::Normalised(activation) => (format!("{name}.conv"), Some(activation)),
            ConvolutionKind::Plain { .. } => (name.to_owned(), None),
        };
        // A folded network has a bias where the normalisation was.
        let normalised = activation.is_some() && self.weights.contains_key(&format!("{name}.bn.weight"));
        let biased = !normalised && conv.kind != ConvolutionKind::Plain { bias: false };

        let weight_name = format!("{prefix}.weight");
        let weight = self.weight(&weight_name)?;
        check_shape(&weight_name, weight, &[conv.output, conv.input, conv.kernel, conv.kernel])?;
        let weight = weight.f_to_kind(self.pass.precision)?;
        let bias_name = format!("{prefix}.bias");
        let bias = if biased {
            let bias = self.weight(&bias_name)?;
            check_shape(&bias_name, bias, &[conv.output])?;
            Some(bias.f_to_kind(self.pass.precision)?)
        } else {
            None
        };
        let mut y = x.f_conv2d(&weight, bias.as_ref(), [size(conv.stride); 2], [size(conv.padding); 2], [1, 1], 1)?;
        if normalised {
            y = self.batch_norm(&format!("{name}.bn"), conv.output, &y)?;
        }
        activation.map_or_else(|| Ok(y.shallow_clone()), |activation| activate(activation, &y)).map(Rc::new)
    }

    fn normalise(
        &mut self,
        name: &str,
        channels: usize,
        activation: Activation,
        x: &Rc<Tensor>,
    ) -> Result<Rc<Tensor>, NetworkError> {
        activate(activation, &self.batch_norm(name, channels, x)?).map(Rc::new)
    }

    fn add(&mut self, _: &str, a: &Rc<Tensor>, b: &Rc<Tensor>) -> Result<Rc<Tensor>, NetworkError> {
        Ok(Rc::new(a.f_add(b)?))
    }

    fn concat(&mut self, _: &str, parts: &[Rc<Tensor>]) -> Result<Rc<Tensor>, NetworkError> {
        Ok(Rc::new(Tensor::f_cat(parts, 1)?))
    }

    fn max_pool(&mut self, _: &str, kernel: usize, x: &Rc<Tensor>) -> Result<Rc<Tensor>, NetworkError> {
        Ok(Rc::new(x.f_max_pool2d([size(kernel); 2], [1, 1], [size(kernel / 2); 2], [1, 1], false)?))
    }

    fn upsample(&mut self, _: &str, scale: usize, x: &Rc<Tensor>) -> Result<Rc<Tensor>, NetworkError> {
        let (_, _, height, width) = x.size4()?;
        Ok(Rc::new(x.f_upsample_nearest2d([height * size(scale), width * size(scale)], None, None)?))
    }

    fn slices(&mut self, _: &str, x: &Rc<Tensor>) -> Result<Rc<Tensor>, NetworkError> {
        let slice = |row, column| x.f_slice(2, row, None, 2)?.f_slice(3, column, None, 2);
        let parts = [slice(0, 0)?, slice(1, 0)?, slice(0, 1)?, slice(1, 1)?];
        Ok(Rc::new(Tensor::f_cat(&parts, 1)?))
    }
}

fn activate(activation: Activation, x: &Tensor) -> Result<Tensor, NetworkError> {
    Ok(match activation {
        Activation::Silu => x.f_silu()?,
        // libtorch's default slope of 0.01 cannot be changed through the binding.
        Activation::LeakyRelu => x.f_maximum(&x.f_mul_scalar(0.1)?)?,
    })
}

fn check_shape(name: &str, tensor: &Tensor, expected: &[usize]) -> Result<(), NetworkError> {
    let found = tensor.size();
    if found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| *found == size(*expected)) {
        return Ok(());
    }
    let problem = format!("has shape {found:?}, expected {expected:?}");
    Err(NetworkError::Weight { name: name.to_owned(), problem })
}

/// libtorch counts in i64; the plan has bounded every number.
fn size(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
