//! Measuring a network on scenes that it has not been trained on.

use anyhow::Result;
use detectd_libtorch::network::{Network, Pass};
use detectd_vision::Image;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::batches::{assemble, tensor_of};
use super::loss::Loss;
use super::predict::Predictor;
use super::settings::Settings;
use crate::augment::{Augmentation, training_sample};
use crate::evaluation::{Evaluator, Metrics};
use crate::sample::Sample;
use crate::scenes::CLASSES;

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Validation {
    /// Mean box, objectness and class loss.
    pub loss: [f64; 3],
    /// Precision, recall and mean average precision.
    pub metrics: Metrics,
}

/// Measures losses and precision.
pub fn validate(network: &Network, loss: &Loss, settings: &Settings, samples: &[Sample]) -> Result<Validation> {
    let pass = Pass { training: false, precision: settings.precision.kind() };
    let side = settings.input;
    let mut sum = [0.0; 3];
    // Without augmentation a training sample is a letterboxed picture, and nothing is drawn from the generator.
    let mut unused = ChaCha8Rng::seed_from_u64(0);
    for chunk in samples.chunks(settings.batch) {
        let letterboxed =
            (0..chunk.len()).map(|index| training_sample(chunk, index, side, &Augmentation::NONE, &mut unused));
        let batch = assemble(letterboxed, side, side)?;
        let pictures = tensor_of(&batch.pixels, side, side)?;
        let levels = tch::no_grad(|| network.forward(&pictures, pass))?;
        let parts = loss.compute(&levels, &batch.targets)?.parts;
        for (sum, part) in sum.iter_mut().zip(parts) {
            *sum += part * chunk.len() as f64 / samples.len() as f64;
        }
    }
    let mut predictor = Predictor::new(network, side, settings.precision.kind());
    Ok(Validation { loss: sum, metrics: measure(&mut predictor, samples, settings.batch)? })
}

/// Precision, recall and mean average precision of a network's detections.
pub fn measure(predictor: &mut Predictor<'_>, samples: &[Sample], batch: usize) -> Result<Metrics> {
    let options = Predictor::evaluation_options();
    let mut evaluator = Evaluator::new(CLASSES.len());
    for chunk in samples.chunks(batch.max(1)) {
        let pictures: Vec<&Image> = chunk.iter().map(|sample| &sample.image).collect();
        for (found, sample) in predictor.detect(&pictures, &options)?.iter().zip(chunk) {
            evaluator.add(found, &sample.boxes);
        }
    }
    Ok(evaluator.finish())
}
