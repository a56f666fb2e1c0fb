//! Learning rate, momentum and warm-up over a run.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate falls from epoch to epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// In a straight line.
    Linear,
    /// Along half a cosine wave.
    #[default]
    Cosine,
}

/// The schedule of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// Learning rate of the first epoch after warm-up.
    pub lr0: f64,
    /// Share of `lr0` that the last epoch comes down to.
    pub lrf: f64,
    /// How it falls.
    pub decay: Decay,
    /// Momentum after warm-up.
    pub momentum: f64,
    /// Length of the warm-up in epochs.
    pub warmup_epochs: f64,
    /// The warm-up is at least so many iterations long.
    pub warmup_min_iterations: usize,
    /// Momentum at the start of the warm-up.
    pub warmup_momentum: f64,
    /// Learning rate of the biases at the start of the warm-up; everything else starts at 0.
    pub warmup_bias_lr: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            lr0: 0.01,
            lrf: 0.01,
            decay: Decay::Cosine,
            momentum: 0.937,
            warmup_epochs: 3.0,
            warmup_min_iterations: 100,
            warmup_momentum: 0.8,
            warmup_bias_lr: 0.1,
        }
    }
}

/// What one iteration is computed with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate of weights and normalisations.
    pub learning_rate: f64,
    /// Learning rate of biases.
    pub bias_learning_rate: f64,
    /// Momentum of all.
    pub momentum: f64,
    /// After so many batches the gradients are applied.
    pub accumulate: usize,
}

impl Schedule {
    /// The factor on `lr0` in epoch `epoch` (from 0) of `epochs`.
    #[must_use]
    pub fn factor(&self, epoch: f64, epochs: f64) -> f64 {
        match self.decay {
            Decay::Linear => (1.0 - epoch / epochs) * (1.0 - self.lrf) + self.lrf,
            Decay::Cosine => (1.0 - (PI * epoch / epochs).cos()) / 2.0 * (self.lrf - 1.0) + 1.0,
        }
    }

    /// Length of the warm-up in iterations.
    #[must_use]
    pub fn warmup_iterations(&self, batches_per_epoch: usize) -> usize {
        let iterations = (self.warmup_epochs * batches_per_epoch as f64).round_ties_even() as usize;
        iterations.max(self.warmup_min_iterations)
    }

    /// The rates of batch `batch` of epoch `epoch`, both from 0. `accumulate` is the number of batches per update after
    /// warm-up.
    #[must_use]
    pub fn rates(&self, epoch: usize, epochs: usize, batch: usize, batches: usize, accumulate: usize) -> Rates {
        let learning_rate = self.lr0 * self.factor(epoch as f64, epochs as f64);
        let iteration = epoch * batches + batch;
        let warmup = self.warmup_iterations(batches);
        if iteration > warmup || warmup == 0 {
            return Rates { learning_rate, bias_learning_rate: learning_rate, momentum: self.momentum, accumulate };
        }
        let between = |from: f64, to: f64| from + (to - from) * iteration as f64 / warmup as f64;
        Rates {
            learning_rate: between(0.0, learning_rate),
            bias_learning_rate: between(self.warmup_bias_lr, learning_rate),
            momentum: between(self.warmup_momentum, self.momentum),
            accumulate: (between(1.0, accumulate as f64).round_ties_even() as usize).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    }

    #[test]
    fn both_decays_pass_their_known_points() {
        let linear = Schedule { decay: Decay::Linear, ..Schedule::default() };
        close(linear.factor(0.0, 300.0), 1.0);
        close(linear.factor(150.0, 300.0), 0.505);
        close(linear.factor(299.0, 300.0), 0.0133);
        let cosine = Schedule::default();
        close(cosine.factor(75.0, 300.0), 0.855_018);
        close(cosine.factor(300.0, 300.0), 0.01);
    }

    #[test]
    fn warm_up_is_linear_and_ends_on_the_schedule() {
        let schedule = Schedule { decay: Decay::Linear, ..Schedule::default() };
        assert_eq!(schedule.warmup_iterations(100), 300);
        assert_eq!(schedule.warmup_iterations(10), 100);
        let start = schedule.rates(0, 300, 0, 100, 4);
        close(start.learning_rate, 0.0);
        close(start.bias_learning_rate, 0.1);
        close(start.momentum, 0.8);
        assert_eq!(start.accumulate, 1);
        let middle = schedule.rates(1, 300, 50, 100, 4);
        let target = 0.01 * schedule.factor(1.0, 300.0);
        close(middle.learning_rate, target / 2.0);
        close(middle.bias_learning_rate, f64::midpoint(0.1, target));
        close(middle.momentum, f64::midpoint(0.8, 0.937));
        assert_eq!(middle.accumulate, 2, "2.5 rounds to even");
        let end = schedule.rates(3, 300, 0, 100, 4);
        close(end.learning_rate, 0.01 * schedule.factor(3.0, 300.0));
        assert_eq!((end.momentum, end.accumulate), (0.937, 4));
        assert_eq!(schedule.rates(3, 300, 1, 100, 4), Rates { bias_learning_rate: end.learning_rate, ..end });
    }
}
