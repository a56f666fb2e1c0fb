use tch::Tensor;

use super::weights::Weights;
use super::{NORM_EPSILON, Network, NetworkError};

impl Network {
    /// The same function with each batch normalisation folded into the convolution before it:
    /// W' = W * gamma / sqrt(var + eps), b' = beta - mean * gamma / sqrt(var + eps).
    pub fn folded(&self) -> Result<Self, NetworkError> {
        let weights = tch::no_grad(|| fold(self.weights()))?;
        Self::with_weights(self.plan().clone(), weights)
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
