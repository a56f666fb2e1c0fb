//! Stochastic gradient descent with Nesterov momentum over three groups of parameters.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use detectd_libtorch::network::{Weights, is_trainable};
use tch::{Kind, Tensor};

use super::schedule::Rates;

/// How a parameter is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Scales of normalisations: no decay.
    Norm,
    /// Kernels: decay.
    Weight,
    /// Biases: no decay, own warm-up.
    Bias,
}

impl Group {
    /// The group of a parameter by its state name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        if name.ends_with(".bias") {
            Self::Bias
        } else if name.ends_with(".bn.weight") {
            Self::Norm
        } else {
            Self::Weight
        }
    }
}

/// The optimiser's state.
#[derive(Debug)]
pub struct Sgd {
    /// Momentum of each parameter, by state name; empty before the first step.
    pub momentum: Weights,
    weight_decay: f64,
    max_norm: Option<f64>,
}

impl Sgd {
    /// `weight_decay` is the coupled L2 factor on kernels; gradients whose common norm is above `max_norm` are scaled
    /// down to it.
    #[must_use]
    pub fn new(weight_decay: f64, max_norm: Option<f64>) -> Self {
        Self { momentum: BTreeMap::new(), weight_decay, max_norm }
    }

    /// Applies the gathered gradients once and clears them. Returns their common norm.
    pub fn step(&mut self, weights: &Weights, rates: &Rates) -> Result<f64> {
        tch::no_grad(|| self.step_without_gradient(weights, rates))
    }

    fn step_without_gradient(&mut self, weights: &Weights, rates: &Rates) -> Result<f64> {
        let trained: Vec<(&String, &Tensor, Tensor)> = weights
            .iter()
            .filter(|(name, _)| is_trainable(name))
            .map(|(name, weight)| (name, weight, weight.grad()))
            .filter(|(_, _, gradient)| gradient.defined())
            .collect();
        let norms: Result<Vec<Tensor>, _> = trained.iter().map(|(_, _, gradient)| gradient.f_norm()).collect();
        let norm = f64::try_from(Tensor::f_stack(&norms?, 0).context("no gradient to apply")?.f_norm()?)?;
        let scale = self.max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        for (name, weight, mut gradient) in trained {
            let group = Group::of(name);
            if scale < 1.0 {
                gradient = gradient.f_mul_scalar_(scale)?;
            }
            let step = if group == Group::Weight {
                gradient.f_add(&weight.f_mul_scalar(self.weight_decay)?)?
            } else {
                gradient.copy()
            };
            let momentum = match self.momentum.get_mut(name) {
                Some(momentum) => {
                    *momentum = momentum.f_mul_scalar_(rates.momentum)?.f_add_(&step)?;
                    &*momentum
                }
                None => &*self.momentum.entry(name.clone()).or_insert(step.copy()),
            };
            let step = step.f_add(&momentum.f_mul_scalar(rates.momentum)?)?;
            let rate = if group == Group::Bias { rates.bias_learning_rate } else { rates.learning_rate };
            let _updated = weight.shallow_clone().f_sub_(&step.f_mul_scalar(rate)?)?;
            let _cleared = gradient.f_zero_()?;
        }
        Ok(norm)
    }
}

/// A running average of the weights, which validation and export use.
#[derive(Debug)]
pub struct Ema {
    /// The averages, by state name; running statistics and priors are among them.
    pub weights: Weights,
    /// Updates so far.
    pub updates: u64,
    decay: f64,
    time_constant: f64,
}

impl Ema {
    /// Starts at `weights`. The decay after n updates is `decay * (1 - exp(-n / time_constant))`.
    #[must_use]
    pub fn new(weights: &Weights, decay: f64, time_constant: f64) -> Self {
        let weights = weights.iter().map(|(name, weight)| (name.clone(), weight.detach().copy())).collect();
        Self { weights, updates: 0, decay, time_constant }
    }

    /// The decay of update number `update`, from 1.
    #[must_use]
    pub fn decay(&self, update: u64) -> f64 {
        let age = update as f64 / self.time_constant;
        self.decay * (1.0 - (-age).exp())
    }

    /// Takes in the weights after an optimiser step.
    pub fn update(&mut self, weights: &Weights) -> Result<()> {
        self.updates += 1;
        let share = 1.0 - self.decay(self.updates);
        tch::no_grad(|| {
            for (name, average) in &mut self.weights {
                let weight = weights.get(name).with_context(|| format!("weight `{name}` has disappeared"))?;
                let difference = weight.f_to_kind(Kind::Float)?.f_sub(average)?;
                *average = average.f_add_(&difference.f_mul_scalar(share)?)?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(learning_rate: f64, bias_learning_rate: f64) -> Rates {
        Rates { learning_rate, bias_learning_rate, momentum: 0.9, accumulate: 1 }
    }

    /// One parameter of each group, all 1, each with the gradient 2.
    fn weights() -> Weights {
        let names = ["model.0.conv.weight", "model.0.bn.weight", "model.0.bn.bias"];
        let one = |name: &str| {
            let weight = Tensor::from_slice(&[1.0_f32]).set_requires_grad(true);
            (name.to_owned(), weight)
        };
        names.map(one).into()
    }

    fn give_gradient(weights: &Weights, factor: f64) {
        for weight in weights.values() {
            (weight * factor).sum(Kind::Float).backward();
        }
    }

    fn value(weights: &Weights, name: &str) -> f64 {
        weights[name].double_value(&[0])
    }

    #[test]
    fn each_group_is_updated_by_its_own_rule() {
        let (weights, mut sgd) = (weights(), Sgd::new(0.1, None));
        give_gradient(&weights, 2.0);
        let norm = sgd.step(&weights, &rates(0.01, 0.1)).expect("a step");
        assert!((norm - 12.0_f64.sqrt()).abs() < 1e-6);
        // Nesterov, first step: g + 0.9 g, where the kernel's g holds 0.1 of its weight.
        assert!((value(&weights, "model.0.conv.weight") - (1.0 - 0.01 * 1.9 * 2.1)).abs() < 1e-6);
        assert!((value(&weights, "model.0.bn.weight") - (1.0 - 0.01 * 1.9 * 2.0)).abs() < 1e-6);
        assert!((value(&weights, "model.0.bn.bias") - (1.0 - 0.1 * 1.9 * 2.0)).abs() < 1e-6);
        // Second step: the gradients were cleared, momentum = 0.9 * 2 + 3, step = 3 + 0.9 * momentum.
        give_gradient(&weights, 3.0);
        let before = value(&weights, "model.0.bn.weight");
        sgd.step(&weights, &rates(0.01, 0.1)).expect("a step");
        assert!((value(&weights, "model.0.bn.weight") - (before - 0.01 * (3.0 + 0.9 * 4.8))).abs() < 1e-6);
    }

    #[test]
    fn large_gradients_are_scaled_to_the_limit() {
        let (weights, mut sgd) = (weights(), Sgd::new(0.0, Some(3.0_f64.sqrt())));
        give_gradient(&weights, 2.0);
        sgd.step(&weights, &rates(0.01, 0.01)).expect("a step");
        assert!((value(&weights, "model.0.bn.weight") - (1.0 - 0.01 * 1.9 * 1.0)).abs() < 1e-6);
    }

    #[test]
    fn a_step_without_gradients_is_an_error() {
        assert!(Sgd::new(0.0, None).step(&weights(), &rates(0.01, 0.01)).is_err());
    }

    #[test]
    fn the_average_follows_the_reference_pace() {
        let ema = Ema::new(&weights(), 0.9999, 2000.0);
        assert!((ema.decay(1) - 4.998_250e-4).abs() < 1e-9);
        assert!((ema.decay(2000) - 0.632_057).abs() < 1e-6);
        let start = weights();
        let mut ema = Ema::new(&start, 0.9999, 2000.0);
        let moved: Weights = start.keys().map(|name| (name.clone(), Tensor::from_slice(&[3.0_f32]))).collect();
        ema.update(&moved).expect("an update");
        let decay = ema.decay(1);
        assert!((value(&ema.weights, "model.0.bn.bias") - (decay + 3.0 * (1.0 - decay))).abs() < 1e-6);
    }
}
