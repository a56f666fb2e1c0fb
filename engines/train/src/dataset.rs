//! Rendered data sets, and the loader that turns them into batches.
//!
//! A data set is a range of scene numbers. Training scenes count up from 0 and held-out scenes from 2³²; as neither
//! range may be longer than 2³², no scene is ever in both.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context, ensure};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::augment::{Augmentation, training_sample};
use crate::sample::Sample;
use crate::scenes::render;

/// Batches each loader thread may have ready before it waits.
const READY_PER_THREAD: usize = 2;

/// Which of the two disjoint sets of scenes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What a model learns from.
    Training,
    /// What a model is judged by and never learns from.
    HeldOut,
}

impl Split {
    /// The scene numbers of the first `count` scenes. A `u32` cannot count beyond the range.
    #[must_use]
    pub fn seeds(self, count: u32) -> std::ops::Range<u64> {
        let first = match self {
            Self::Training => 0,
            Self::HeldOut => 1 << 32,
        };
        first..first + u64::from(count)
    }

    /// Renders the first `count` scenes, `size` x `size`, on `threads` threads. They stay in memory, 3 `size`² bytes
    /// each.
    ///
    /// # Errors
    /// If the scenes would need more memory than is free (where the system tells), or a thread cannot be started.
    pub fn render(self, count: u32, size: u32, threads: NonZeroUsize) -> anyhow::Result<Vec<Sample>> {
        let bytes = u64::from(count) * u64::from(size) * u64::from(size) * 3;
        if let Some(free) = free_memory() {
            ensure!(
                bytes + bytes / 10 < free,
                "{count} scenes of {size}x{size} need {} MiB and a tenth more, but only {} MiB are free: \
                 ask for fewer or smaller scenes",
                bytes >> 20,
                free >> 20
            );
        }
        let seeds: Vec<u64> = self.seeds(count).collect();
        let share = seeds.len().div_ceil(threads.get()).max(1);
        thread::scope(|scope| {
            let workers = seeds
                .chunks(share)
                .enumerate()
                .map(|(index, seeds)| {
                    let draw = move || seeds.iter().map(|seed| render(*seed, size, size)).collect::<Vec<_>>();
                    thread::Builder::new().name(format!("render-{index}")).spawn_scoped(scope, draw)
                })
                .collect::<Result<Vec<_>, _>>()
                .context("starting a rendering thread")?;
            let mut samples = Vec::with_capacity(seeds.len());
            for worker in workers {
                samples.extend(worker.join().map_err(|_| anyhow::anyhow!("a rendering thread panicked"))?);
            }
            Ok(samples)
        })
    }
}

/// Bytes of memory that can be had, where the kernel tells.
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// Pictures and labels for one training step.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Number of pictures.
    pub len: usize,
    /// Side of each picture.
    pub size: u32,
    /// Bytes in the order picture, row, column, RGB.
    pub pixels: Vec<u8>,
    /// One row per object: index of the picture in the batch, class, then the box's centre x, centre y, width and
    /// height as shares of the side.
    pub labels: Vec<[f32; 6]>,
}

impl Batch {
    /// Puts square samples of side `size` together.
    fn new(samples: impl ExactSizeIterator<Item = Sample>, size: u32) -> Self {
        let len = samples.len();
        let mut pixels = Vec::with_capacity(len * (size * size * 3) as usize);
        let mut labels = Vec::new();
        for (index, sample) in samples.enumerate() {
            pixels.extend_from_slice(sample.image.pixels());
            labels.extend(sample.boxes.iter().map(|labelled| {
                let (bbox, side) = (labelled.bbox, size as f32);
                [
                    index as f32,
                    labelled.class_id as f32,
                    (bbox.x1 + bbox.x2) / 2.0 / side,
                    (bbox.y1 + bbox.y2) / 2.0 / side,
                    bbox.width() / side,
                    bbox.height() / side,
                ]
            }));
        }
        Self { len, size, pixels, labels }
    }
}

/// Makes augmented, shuffled batches in the background.
#[derive(Clone, Debug)]
pub struct Loader {
    /// The samples to draw from.
    pub samples: Arc<[Sample]>,
    /// Side of the pictures in a batch.
    pub size: u32,
    /// Pictures in a batch; the last one of an epoch may have fewer.
    pub batch: NonZeroUsize,
    /// Number of background threads.
    pub threads: NonZeroUsize,
    /// With the epoch's number, decides order and augmentation entirely.
    pub seed: u64,
}

impl Loader {
    /// Number of batches in an epoch.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.samples.len().div_ceil(self.batch.get())
    }

    /// Starts to prepare epoch `number`, in which each sample comes first in exactly one picture. The batches depend
    /// on the loader's seed, the number and the augmentation alone, so training can be resumed at any epoch.
    ///
    /// # Errors
    /// If the augmentation is out of range or a thread cannot be started.
    pub fn epoch(&self, number: u64, augmentation: Augmentation) -> anyhow::Result<Epoch> {
        augmentation.validate()?;
        let mut order: Vec<usize> = (0..self.samples.len()).collect();
        order.shuffle(&mut self.generator(number, u64::MAX));
        let order: Arc<[usize]> = order.into();
        let mut epoch = Epoch { next: 0, batches: self.batches(), receivers: Vec::new(), workers: Vec::new() };
        let threads = self.threads.get().min(self.batches());
        for thread in 0..threads {
            let (sender, receiver) = sync_channel(READY_PER_THREAD);
            let (loader, order) = (self.clone(), Arc::clone(&order));
            let work = move || {
                for batch in (thread..loader.batches()).step_by(threads) {
                    // The consumer is gone when sending fails.
                    if sender.send(loader.make(number, batch, &order, &augmentation)).is_err() {
                        return;
                    }
                }
            };
            let worker = thread::Builder::new().name(format!("load-{thread}")).spawn(work);
            epoch.receivers.push(receiver);
            epoch.workers.push(worker.context("starting a loader thread")?);
        }
        Ok(epoch)
    }

    fn make(&self, epoch: u64, batch: usize, order: &[usize], augmentation: &Augmentation) -> Batch {
        let first = batch * self.batch.get();
        let chosen = &order[first..order.len().min(first + self.batch.get())];
        let samples = chosen.iter().enumerate().map(|(offset, index)| {
            let rng = &mut self.generator(epoch, (first + offset) as u64);
            training_sample(&self.samples, *index, self.size, augmentation, rng)
        });
        Batch::new(samples, self.size)
    }

    /// One generator for each place in each epoch, so that it does not matter which thread draws from it.
    fn generator(&self, epoch: u64, place: u64) -> ChaCha8Rng {
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed ^ epoch.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        generator.set_stream(place);
        generator
    }
}

/// The batches of one epoch, in order. Dropping it stops the threads.
#[derive(Debug)]
pub struct Epoch {
    next: usize,
    batches: usize,
    receivers: Vec<Receiver<Batch>>,
    workers: Vec<JoinHandle<()>>,
}

impl Iterator for Epoch {
    type Item = anyhow::Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.batches {
            return None;
        }
        let received = self.receivers[self.next % self.receivers.len()].recv();
        self.next = if received.is_ok() { self.next + 1 } else { self.batches };
        Some(received.context("a loader thread stopped before its last batch"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.batches - self.next, Some(self.batches - self.next))
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.receivers.clear();
        for worker in self.workers.drain(..) {
            // A panic in the worker was already reported by `next` as a missing batch.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenes::CLASSES;

    fn loader(samples: u32, batch: usize, threads: usize) -> Loader {
        let threads = NonZeroUsize::new(threads).unwrap();
        let samples = Split::Training.render(samples, 64, threads).unwrap().into();
        Loader { samples, size: 64, batch: NonZeroUsize::new(batch).unwrap(), threads, seed: 7 }
    }

    fn batches(loader: &Loader, number: u64) -> Vec<Batch> {
        loader.epoch(number, Augmentation::default()).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn splits_never_overlap() {
        assert_eq!(Split::Training.seeds(u32::MAX).end, (1 << 32) - 1);
        assert_eq!(Split::HeldOut.seeds(3), (1 << 32)..(1 << 32) + 3);
    }

    #[test]
    fn rendering_does_not_depend_on_the_number_of_threads() {
        let render = |threads| Split::HeldOut.render(5, 48, NonZeroUsize::new(threads).unwrap()).unwrap();
        let (one, three) = (render(1), render(3));
        assert_eq!(one.len(), 5);
        for (a, b) in one.iter().zip(&three) {
            assert_eq!((&a.image, &a.boxes), (&b.image, &b.boxes));
        }
    }

    #[test]
    fn a_data_set_that_cannot_fit_is_refused_with_both_sizes() {
        if free_memory().is_some() {
            let error = Split::Training.render(u32::MAX, 1280, NonZeroUsize::MIN).unwrap_err().to_string();
            assert!(error.contains("4294967295 scenes of 1280x1280") && error.contains("MiB are free"), "{error}");
        }
    }

    #[test]
    fn batches_are_the_same_for_any_number_of_threads() {
        assert_eq!(batches(&loader(11, 3, 1), 4), batches(&loader(11, 3, 4), 4));
    }

    #[test]
    fn epochs_differ_and_can_be_resumed() {
        let loader = loader(6, 2, 2);
        let second = batches(&loader, 1);
        assert_ne!(batches(&loader, 0), second);
        assert_eq!(batches(&loader, 1), second);
    }

    #[test]
    fn an_epoch_shows_every_sample_once_and_labels_match() {
        let loader = loader(7, 3, 2);
        let batches: Vec<_> = loader.epoch(0, Augmentation::NONE).unwrap().map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(|batch| batch.len).collect::<Vec<_>>(), [3, 3, 1]);
        let mut seen = [0; 7];
        for batch in &batches {
            for (index, pixels) in batch.pixels.chunks_exact(64 * 64 * 3).enumerate() {
                let of_sample = loader.samples.iter().position(|sample| sample.image.pixels() == pixels).unwrap();
                seen[of_sample] += 1;
                let labels: Vec<_> = batch.labels.iter().filter(|label| label[0] == index as f32).collect();
                let boxes = &loader.samples[of_sample].boxes;
                assert_eq!(labels.len(), boxes.len());
                for (label, labelled) in labels.iter().zip(boxes) {
                    assert_eq!(label[1], labelled.class_id as f32);
                    assert!((label[1] as usize) < CLASSES.len());
                    assert!(((label[2] - label[4] / 2.0) * 64.0 - labelled.bbox.x1).abs() < 1e-3);
                    assert!(((label[3] + label[5] / 2.0) * 64.0 - labelled.bbox.y2).abs() < 1e-3);
                }
            }
        }
        assert_eq!(seen, [1; 7]);
    }

    #[test]
    fn leaving_an_epoch_early_stops_its_threads() {
        let loader = loader(12, 1, 3);
        let mut epoch = loader.epoch(0, Augmentation::default()).unwrap();
        assert!(epoch.next().unwrap().is_ok());
        drop(epoch);
        assert_eq!(Arc::strong_count(&loader.samples), 1);
    }

    #[test]
    fn no_samples_no_batches_and_bad_values_are_refused() {
        let mut loader = loader(1, 1, 1);
        assert!(loader.epoch(0, Augmentation { scale: 7.0, ..Augmentation::NONE }).is_err());
        loader.samples = Arc::new([]);
        assert_eq!(batches(&loader, 0), []);
    }
}
