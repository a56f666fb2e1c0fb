//! The pictures of a run: scenes drawn once and kept, changed anew each time they are shown.

use anyhow::Result;
use rand_chacha::ChaCha8Rng;

use super::batches::Source;
use super::settings::Settings;
use crate::augment::{Augmentation, training_sample};
use crate::sample::Sample;

/// Scenes with augmentation.
#[derive(Debug)]
pub struct AugmentedScenes {
    samples: Vec<Sample>,
    input: u32,
    augmentation: Augmentation,
    mosaic_epochs: usize,
}

impl AugmentedScenes {
    /// Draws the training scenes of a run.
    pub fn draw(settings: &Settings) -> Result<Self> {
        Ok(Self {
            samples: settings.train.draw(Some(settings.input), settings.threads)?,
            input: settings.input,
            augmentation: settings.augmentation,
            mosaic_epochs: settings.epochs.saturating_sub(settings.close_mosaic),
        })
    }
}

impl Source for AugmentedScenes {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn sample(&self, index: usize, epoch: usize, random: &mut ChaCha8Rng) -> Sample {
        let mut augmentation = self.augmentation;
        if epoch >= self.mosaic_epochs {
            augmentation.mosaic = 0.0;
        }
        training_sample(&self.samples, index, self.input, &augmentation, random)
    }
}
