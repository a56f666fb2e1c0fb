//! The pictures of a run: scenes rendered once and kept, changed anew each time they are shown.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};
use detectd_vision::{BoundingBox, Image};
use fast_image_resize as fir;
use indicatif::{ProgressBar, ProgressStyle};
use rand_chacha::ChaCha8Rng;

use super::batches::Source;
use super::settings::{Scenes, Settings};
use crate::augment::{Augmentation, training_sample};
use crate::sample::Sample;
use crate::scenes::render;

/// Draws all scenes of a range on `threads` threads. Those whose longer side is above `longest` are scaled down to it.
pub fn draw(scenes: &Scenes, longest: Option<u32>, threads: usize) -> Result<Vec<Sample>> {
    let bar = ProgressBar::new(scenes.count as u64)
        .with_style(ProgressStyle::with_template("drawing scenes {wide_bar} {pos}/{len}, {eta} left")?);
    let next = AtomicUsize::new(0);
    let drawn = Mutex::new(Vec::with_capacity(scenes.count));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= scenes.count {
                        return;
                    }
                    let [width, height] = scenes.sizes[index % scenes.sizes.len()];
                    let sample = render(scenes.first + index as u64, width, height);
                    let sample = longest.map_or_else(|| sample.clone(), |longest| shrink(&sample, longest));
                    bar.inc(1);
                    if let Ok(mut drawn) = drawn.lock() {
                        drawn.push((index, sample));
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut drawn = drawn.into_inner().map_err(|_| anyhow!("a drawing thread has panicked"))?;
    drawn.sort_by_key(|(index, _)| *index);
    Ok(drawn.into_iter().map(|(_, sample)| sample).collect())
}

/// Scales a sample down, bilinearly, until its longer side is `longest`.
fn shrink(sample: &Sample, longest: u32) -> Sample {
    let (width, height) = (sample.image.width(), sample.image.height());
    let longer = width.max(height);
    if longer <= longest {
        return sample.clone();
    }
    let side = |side: u32| (f64::from(side) * f64::from(longest) / f64::from(longer)).round().max(1.0) as u32;
    let (new_width, new_height) = (side(width), side(height));
    let mut image = Image::filled(new_width, new_height, [0; 3]);
    let view = fir::images::ImageRef::new(width, height, sample.image.pixels(), fir::PixelType::U8x3);
    let into = fir::images::Image::from_slice_u8(new_width, new_height, image.pixels_mut(), fir::PixelType::U8x3);
    let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear));
    let (Ok(view), Ok(mut into)) = (view, into) else { unreachable!("an Image's buffer has the size of its sides") };
    if fir::Resizer::new().resize(&view, &mut into, &options).is_err() {
        unreachable!("both sides have the same pixel type");
    }
    let (x, y) = (new_width as f32 / width as f32, new_height as f32 / height as f32);
    let scaled = |bbox: BoundingBox| BoundingBox::new(bbox.x1 * x, bbox.y1 * y, bbox.x2 * x, bbox.y2 * y);
    let mut boxes = sample.boxes.clone();
    boxes.iter_mut().for_each(|labelled| labelled.bbox = scaled(labelled.bbox));
    Sample { image, boxes }
}

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
            samples: draw(&settings.train, Some(settings.input), settings.threads)?,
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
