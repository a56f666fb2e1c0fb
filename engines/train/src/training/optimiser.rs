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
