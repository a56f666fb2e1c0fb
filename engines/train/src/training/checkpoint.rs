//! Files of a run: the whole state to resume from, and the weights to use.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use detectd_libtorch::network::{Network, Plan, Weights, load_weights, read_safetensors, write_safetensors};
use serde::{Deserialize, Serialize};

use super::optimiser::{Ema, Sgd};
use super::settings::Settings;

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs finished.
    pub epochs: usize,
    /// Updates of the weights.
    pub updates: u64,
    /// The best fitness so far and its epoch, from 1.
    pub best: Option<(f64, usize)>,
    /// Seconds spent, over all parts of the run.
    pub seconds: f64,
}

/// Writes everything that resuming needs.
pub fn write(
    path: &Path,
    settings: &Settings,
    progress: &Progress,
    weights: &Weights,
    ema: &Ema,
    sgd: &Sgd,
) -> Result<()> {
    let mut tensors = Weights::new();
    for (prefix, part) in [("weights", weights), ("ema", &ema.weights), ("momentum", &sgd.momentum)] {
        tensors.extend(part.iter().map(|(name, tensor)| (format!("{prefix}/{name}"), tensor.shallow_clone())));
    }
    let metadata = BTreeMap::from([
        ("settings".to_owned(), serde_json::to_string(settings)?),
        ("progress".to_owned(), serde_json::to_string(progress)?),
    ]);
    Ok(write_safetensors(path, &tensors, metadata)?)
}

/// Puts a written state back. The settings must be those it was written with.
pub fn resume(path: &Path, settings: &Settings, weights: &Weights, ema: &mut Ema, sgd: &mut Sgd) -> Result<Progress> {
    let (tensors, metadata) = read_safetensors(path)?;
    let text = |key: &str| metadata.get(key).with_context(|| format!("{} holds no {key}", path.display()));
    let written: Settings = serde_json::from_str(text("settings")?)?;
    if written != *settings {
        bail!("{} was written by a run with other settings: {written:?}, now {settings:?}", path.display());
    }
    let progress: Progress = serde_json::from_str(text("progress")?)?;
    let part = |prefix: &str| -> Weights {
        let named = tensors.iter().filter_map(|(name, tensor)| {
            let (part, name) = name.split_once('/')?;
            (part == prefix).then(|| (name.to_owned(), tensor.shallow_clone()))
        });
        named.collect()
    };
    for (prefix, target) in [("weights", weights), ("ema", &ema.weights)] {
        let report = load_weights(target, &part(prefix))?;
        let wrong: Vec<&String> = report.missing.iter().chain(&report.mismatched).collect();
        ensure!(wrong.is_empty(), "{}: {prefix} does not fit the network: {wrong:?}", path.display());
    }
    sgd.momentum = part("momentum");
    ema.updates = progress.updates;
    Ok(progress)
}

/// A trained network with what is known about it.
#[derive(Debug)]
pub struct TrainedModel {
    /// The network, with the averaged weights.
    pub network: Network,
    /// The run it comes from.
    pub settings: Settings,
    /// How far the run had come.
    pub progress: Progress,
}

impl TrainedModel {
    /// Writes averaged weights for use.
    pub fn write(path: &Path, settings: &Settings, progress: &Progress, ema: &Ema) -> Result<()> {
        let metadata = BTreeMap::from([
            ("settings".to_owned(), serde_json::to_string(settings)?),
            ("progress".to_owned(), serde_json::to_string(progress)?),
        ]);
        Ok(write_safetensors(path, &ema.weights, metadata)?)
    }

    /// Reads a file that [`Self::write`] has written.
    pub fn read(path: &Path) -> Result<Self> {
        let (weights, metadata) = read_safetensors(path)?;
        let text = |key: &str| metadata.get(key).with_context(|| format!("{} holds no {key}", path.display()));
        let settings: Settings = serde_json::from_str(text("settings")?)?;
        let progress = serde_json::from_str(text("progress")?)?;
        let network = Network::with_weights(Plan::new(&settings.model()?)?, weights)?;
        Ok(Self { network, settings, progress })
    }
}
