use tch::{Device, Kind, Tensor};

use super::weights::Weights;
use super::{NORM_EPSILON, Network, NetworkError};

impl Network {
    /// The same function with each batch normalisation folded into the convolution before it:
    /// W' = W * gamma / sqrt(var + eps), b' = beta - mean * gamma / sqrt(var + eps).
    pub fn folded(&self) -> Result<Self, NetworkError> {
        let weights = tch::no_grad(|| fold(self.weights()))?;
        Self::with_weights(self.plan().clone(), weights)
    }

    /// The same on `device`, with the weights kept in `kind` and the kernels laid out with their channels last, for
    /// inference in that precision alone.
    pub fn converted(&self, device: Device, kind: Kind) -> Result<Self, NetworkError> {
        let convert = |weight: &Tensor| {
            let weight = weight.f_detach()?.f_to_device(device)?.f_to_kind(kind)?;
            match weight.dim() {
                4 => weight.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2]),
                _ => Ok(weight),
            }
        };
        let weights = tch::no_grad(|| {
            self.weights().iter().map(|(name, weight)| Ok((name.clone(), convert(weight)?))).collect::<Result<_, _>>()
        });
        let weights = weights.map_err(|error: tch::TchError| NetworkError::Torch(error))?;
        Ok(Self::unprobed(self.plan().clone(), weights))
    }
}

fn fold(weights: &Weights) -> Result<Weights, NetworkError> {
    let mut folded: Weights = weights.iter().map(|(name, tensor)| (name.clone(), tensor.detach())).collect();
    for name in weights.keys() {
        let Some(prefix) = name.strip_suffix(".bn.weight") else { continue };
        // A normalisation without a convolution of its own stays (BottleneckCSP has one).
        let Some(kernel) = weights.get(&format!("{prefix}.conv.weight")) else { continue };
        let norm = |part: &str| {
            let name = format!("{prefix}.bn.{part}");
            weights.get(&name).ok_or_else(|| NetworkError::Weight { name, problem: "is missing".into() })
        };
        let (gamma, beta) = (norm("weight")?, norm("bias")?);
        let (mean, variance) = (norm("running_mean")?, norm("running_var")?);
        let factor: Tensor = gamma.f_div(&variance.f_add_scalar(NORM_EPSILON)?.f_sqrt()?)?;
        let kernel = kernel.f_mul(&factor.f_reshape([-1, 1, 1, 1])?)?;
        let bias = beta.f_sub(&mean.f_mul(&factor)?)?;
        for part in ["weight", "bias", "running_mean", "running_var"] {
            folded.remove(&format!("{prefix}.bn.{part}"));
        }
        folded.insert(format!("{prefix}.conv.weight"), kernel.detach());
        folded.insert(format!("{prefix}.conv.bias"), bias.detach());
    }
    Ok(folded)
}
