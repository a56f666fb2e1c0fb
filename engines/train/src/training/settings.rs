//! What a run consists of, as a yaml file says it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use detectd_libtorch::network::{Architecture, ModelYaml, Scale};
use serde::{Deserialize, Serialize};
use tch::Kind;

use super::loss::LossSettings;
use super::schedule::Schedule;
use crate::augment::Augmentation;
use crate::dataset::Scenes;
use crate::scenes::CLASSES;

/// Everything that decides about a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Name of the model.
    pub name: String,
    /// Release whose architecture is built: `v5` or `v6`.
    pub architecture: Architecture,
    /// Its size: `n`, `s`, `m`, `l` or `x`.
    pub size: Scale,
    /// Width and height of the network's input, a multiple of 32.
    pub input: u32,
    /// Decides the fresh weights, the order of the pictures and every augmentation.
    pub seed: u64,
    /// The scenes to train on.
    pub train: Scenes,
    /// The scenes that choose the best epoch.
    pub validation: Scenes,
    /// Passes over the training scenes.
    pub epochs: usize,
    /// Pictures per forward pass.
    pub batch: usize,
    /// Pictures per update of the weights, after warm-up.
    pub nominal_batch: usize,
    /// The last so many epochs see whole pictures, without mosaics.
    pub close_mosaic: usize,
    /// `f32` or `bf16`: what convolutions compute in. Weights are always kept as f32.
    pub precision: Precision,
    /// Threads: each computes its part of every batch.
    pub threads: usize,
    /// Learning rate and momentum.
    pub schedule: Schedule,
    /// L2 factor on kernels, for `nominal_batch` pictures.
    pub weight_decay: f64,
    /// Gradients with a larger common norm are scaled down to it. Absent: never.
    pub max_norm: Option<f64>,
    /// The running average of the weights.
    pub ema: EmaSettings,
    /// Weights of the loss's parts.
    pub loss: LossSettings,
    /// How pictures are changed each time they are shown.
    pub augmentation: Augmentation,
}

/// The running average's pace.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmaSettings {
    /// Decay after a long time.
    pub decay: f64,
    /// Updates after which it has come to 63 % of it.
    pub time_constant: f64,
}

/// What convolutions compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 16-bit brain floats, faster where the processor has them.
    Bf16,
}

impl Precision {
    /// libtorch's name of it.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

impl Settings {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let settings: Self = serde_norway::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        settings.check().with_context(|| format!("in {}", path.display()))?;
        Ok(settings)
    }

    /// The model file that the settings name.
    pub fn model(&self) -> Result<ModelYaml> {
        Ok(ModelYaml::released(self.architecture, self.size, CLASSES.len())?)
    }

    /// Batches per update of the weights, after warm-up.
    #[must_use]
    pub fn accumulate(&self) -> usize {
        ((self.nominal_batch as f64 / self.batch as f64).round_ties_even() as usize).max(1)
    }

    /// Refuses what cannot be run.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.input >= 64 && self.input <= 4096 && self.input.is_multiple_of(32),
            "input must be a multiple of 32 between 64 and 4096, not {}",
            self.input
        );
        ensure!((1..=1024).contains(&self.batch), "batch must be between 1 and 1024, not {}", self.batch);
        ensure!(self.nominal_batch >= 1, "nominal_batch must be at least 1");
        ensure!((1..=256).contains(&self.threads), "threads must be between 1 and 256, not {}", self.threads);
        ensure!(self.epochs >= 1, "epochs must be at least 1");
        ensure!(self.train.count >= self.batch, "train.count must be at least one batch ({})", self.batch);
        self.train.check().context("in train")?;
        self.validation.check().context("in validation")?;
        let ranges = [self.train.seeds(), self.validation.seeds()];
        let overlap = ranges[0].start < ranges[1].end && ranges[1].start < ranges[0].end;
        ensure!(!overlap, "train and validation share scenes: {ranges:?}");
        ensure!(self.ema.decay > 0.0 && self.ema.decay < 1.0, "ema.decay must be in (0, 1), not {}", self.ema.decay);
        ensure!(self.ema.time_constant > 0.0, "ema.time_constant must be positive, not {}", self.ema.time_constant);
        self.augmentation.validate()?;
        ensure!(self.loss.anchor_t > 1.0, "loss.anchor_t must be above 1, not {}", self.loss.anchor_t);
        Ok(())
    }
}
