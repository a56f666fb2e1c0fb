//! A training run, told once: batches, loss, update, validation, checkpoint.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use detectd_libtorch::network::{Cost, LoadReport, Network, load_weights, read_safetensors};
use indicatif::{ProgressBar, ProgressStyle};

use super::batches::{self, Batch, Source};
use super::checkpoint::{self, Progress, TrainedModel};
use super::history::{EpochResult, History};
use super::loss::Loss;
use super::optimiser::{Ema, Sgd};
use super::replicas::Replicas;
use super::settings::Settings;
use super::validation::{Validation, validate};
use crate::sample::Sample;

/// A finished run.
#[derive(Debug)]
pub struct Trained {
    /// Weights of the best epoch.
    pub best: PathBuf,
    /// What was reached, and how long it took.
    pub progress: Progress,
    /// Every epoch's figures.
    pub history: Vec<EpochResult>,
}

/// How a run begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start<'a> {
    /// Go on from the run folder's last checkpoint, if there is one.
    pub resume: bool,
    /// Begin with the weights of this file, as far as names and shapes agree.
    pub weights: Option<&'a Path>,
}

/// Trains a network on `source`, writes checkpoints and figures into `folder`, and measures each epoch on `validation`.
pub fn train<S: Source>(
    settings: &Settings,
    source: &S,
    validation: &[Sample],
    folder: &Path,
    start: Start<'_>,
) -> Result<Trained> {
    settings.check()?;
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let network = Network::new(&settings.model()?, i64::try_from(settings.seed)?)?;
    let side = settings.input as usize;
    let cost = Cost::of(network.plan(), side, side)?;
    println!(
        "{}: {} parameters, {:.2} GFLOPs at {side}x{side}; {} pictures an epoch",
        settings.name,
        cost.parameters,
        cost.gflops(),
        source.len()
    );
    if let Some(path) = start.weights {
        let report = load_weights(network.weights(), &read_safetensors(path)?.0)?;
        println!("{}", describe(path, &report));
    }
    let loss = Loss::new(network.plan().detect.clone(), &settings.loss, side, side)?;
    let last = folder.join("last.safetensors");
    let mut ema = Ema::new(network.weights(), settings.ema.decay, settings.ema.time_constant);
    let mut sgd = Sgd::new(scaled_weight_decay(settings), settings.max_norm);
    let mut progress = Progress::default();
    let mut history = History::open(&folder.join("results.csv"))?;
    if last.is_file() {
        ensure!(start.resume, "{} holds a run already: resume it, or choose another folder", folder.display());
        progress = checkpoint::resume(&last, settings, network.weights(), &mut ema, &mut sgd)?;
        println!("going on after epoch {} of {}", progress.epochs, settings.epochs);
    }
    history.keep(progress.epochs)?;
    // The copies are taken last, with the weights and statistics that the run goes on with.
    let replicas = Replicas::start(&network, settings)?;
    let best = folder.join("best.safetensors");
    let mut run = Run { settings, network, replicas, loss, sgd, ema, progress, last, best };
    while run.progress.epochs < settings.epochs {
        let result = run.epoch(source, validation)?;
        println!("{result}");
        history.add(result)?;
    }
    Ok(Trained { best: run.best, progress: run.progress, history: history.into_results() })
}

/// What changes during a run.
struct Run<'a> {
    settings: &'a Settings,
    network: Network,
    replicas: Replicas,
    loss: Loss,
    sgd: Sgd,
    ema: Ema,
    progress: Progress,
    last: PathBuf,
    best: PathBuf,
}

impl Run<'_> {
    /// One pass over the pictures, one validation, one checkpoint.
    fn epoch<S: Source>(&mut self, source: &S, validation: &[Sample]) -> Result<EpochResult> {
        let settings = self.settings;
        let started = Instant::now();
        let epoch = self.progress.epochs;
        let batches = source.len() / settings.batch;
        let bar = ProgressBar::new(batches as u64).with_style(ProgressStyle::with_template(
            "epoch {prefix} {wide_bar} {pos}/{len} batches, {eta} left, {msg}",
        )?);
        bar.set_prefix(format!("{}/{}", epoch + 1, settings.epochs));
        let mut sum = [0.0; 3];
        std::thread::scope(|scope| {
            let size = [settings.input; 2];
            let made = batches::start(scope, source, size, settings.batch, settings.seed, epoch)?;
            let mut gathered = 0;
            for number in 0..batches {
                let batch = made.recv().context("the batch thread has ended")??;
                gathered += 1;
                let parts = self.batch(&batch, epoch, number, batches, &mut gathered)?;
                for (sum, part) in sum.iter_mut().zip(parts) {
                    *sum += part / batches as f64;
                }
                bar.inc(1);
                bar.set_message(format!("loss {:.4}", parts.iter().sum::<f64>()));
            }
            anyhow::Ok(())
        })?;
        bar.finish_and_clear();
        let trained = started.elapsed().as_secs_f64();
        let averaged = Network::with_weights(
            self.network.plan().clone(),
            self.ema.weights.iter().map(|(name, weight)| (name.clone(), weight.shallow_clone())).collect(),
        )?;
        let measured = validate(&averaged, &self.loss, settings, validation)?;
        self.progress.epochs += 1;
        self.progress.updates = self.ema.updates;
        self.progress.seconds += started.elapsed().as_secs_f64();
        self.save(&measured)?;
        let last_batch = batches.saturating_sub(1);
        let rates = settings.schedule.rates(epoch, settings.epochs, last_batch, batches, settings.accumulate());
        Ok(EpochResult {
            epoch: epoch + 1,
            train_loss: sum,
            validation_loss: measured.loss,
            precision: measured.metrics.precision,
            recall: measured.metrics.recall,
            map50: measured.metrics.map50,
            map50_95: measured.metrics.map50_95,
            learning_rate: rates.learning_rate,
            seconds: started.elapsed().as_secs_f64(),
            pictures_per_second: (batches * settings.batch) as f64 / trained,
        })
    }

    /// Forward, backward, and an update when enough batches are gathered. Returns the loss's parts.
    fn batch(
        &mut self,
        batch: &Batch,
        epoch: usize,
        number: usize,
        batches: usize,
        gathered: &mut usize,
    ) -> Result<[f64; 3]> {
        let settings = self.settings;
        let rates = settings.schedule.rates(epoch, settings.epochs, number, batches, settings.accumulate());
        let parts = self
            .replicas
            .gradients(&self.network, &self.loss, settings, batch)
            .with_context(|| format!("epoch {}, batch {number}", epoch + 1))?;
        // The last batch of an epoch always updates: a checkpoint holds no half-gathered gradients.
        if *gathered >= rates.accumulate || number + 1 == batches {
            self.sgd.step(self.network.weights(), &rates)?;
            self.replicas.synchronise(&self.network)?;
            self.ema.update(self.network.weights())?;
            *gathered = 0;
        }
        Ok(parts)
    }

    fn save(&mut self, measured: &Validation) -> Result<()> {
        let fitness = measured.metrics.fitness();
        if self.progress.best.is_none_or(|(best, _)| fitness > best) {
            self.progress.best = Some((fitness, self.progress.epochs));
            TrainedModel::write(&self.best, self.settings, &self.progress, &self.ema)?;
        }
        checkpoint::write(&self.last, self.settings, &self.progress, self.network.weights(), &self.ema, &self.sgd)
    }
}

/// Weight decay is stated for `nominal_batch` pictures per update.
fn scaled_weight_decay(settings: &Settings) -> f64 {
    settings.weight_decay * (settings.batch * settings.accumulate()) as f64 / settings.nominal_batch as f64
}

fn describe(path: &Path, report: &LoadReport) -> String {
    let list = |title: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!("\n  {title}: {}", names.join(", ")),
    };
    format!(
        "{}: {} tensors loaded, {} missing, {} of another shape, {} unexpected{}{}",
        path.display(),
        report.loaded.len(),
        report.missing.len(),
        report.mismatched.len(),
        report.unexpected.len(),
        list("kept as they were, missing", &report.missing),
        list("kept as they were, of another shape", &report.mismatched)
    )
}
