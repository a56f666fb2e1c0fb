//! Batches made ahead of the training, on a thread of their own.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use super::targets::Target;
use crate::sample::Sample;

/// Where training pictures come from.
pub trait Source: Sync {
    /// Number of pictures in an epoch.
    fn len(&self) -> usize;
    /// There are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Picture `index`, changed at random, in the network's input size.
    fn sample(&self, index: usize, epoch: usize, random: &mut ChaCha8Rng) -> Sample;
}

/// Pictures and their objects.
#[derive(Debug)]
pub struct Batch {
    /// The pictures' bytes, one after the other.
    pub pixels: Vec<u8>,
    /// Their objects.
    pub targets: Vec<Target>,
    /// Number of pictures.
    pub len: usize,
}

/// Batches waiting for the training: each holds its pixels only.
const AHEAD: usize = 4;

/// Starts making the batches of one epoch, in a random order that depends on `seed` and `epoch` alone. What does not
/// fill a batch is left out.
pub fn start<'scope, S: Source>(
    scope: &'scope Scope<'scope, '_>,
    source: &'scope S,
    [width, height]: [u32; 2],
    batch: usize,
    seed: u64,
    epoch: usize,
) -> Result<Receiver<Result<Batch>>> {
    ensure!(source.len() >= batch, "{} pictures do not fill a batch of {batch}", source.len());
    let (sender, receiver) = sync_channel(AHEAD);
    let work = move || {
        let mut order: Vec<usize> = (0..source.len()).collect();
        order.shuffle(&mut random(seed, epoch, 0));
        for indices in order.chunks_exact(batch) {
            let samples = indices.iter().map(|index| source.sample(*index, epoch, &mut random(seed, epoch, index + 1)));
            // The training has ended early when nobody takes the batch.
            if sender.send(assemble(samples, width, height)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("batches".into())
        .spawn_scoped(scope, work)
        .context("starting the batch thread")?;
    Ok(receiver)
}

/// An independent generator for each picture of each epoch, so that a resumed run sees what an uninterrupted one sees.
fn random(seed: u64, epoch: usize, stream: usize) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed.wrapping_add((epoch as u64) << 32));
    random.set_stream(stream as u64);
    random
}

/// Puts pictures of one size together.
pub fn assemble(samples: impl Iterator<Item = Sample>, width: u32, height: u32) -> Result<Batch> {
    let mut batch = Batch { pixels: Vec::new(), targets: Vec::new(), len: 0 };
    let (columns, rows) = (width as f32, height as f32);
    for sample in samples {
        let found = (sample.image.width(), sample.image.height());
        ensure!(found == (width, height), "a picture of {found:?}, expected {:?}", (width, height));
        batch.pixels.extend_from_slice(sample.image.pixels());
        batch.targets.extend(sample.boxes.iter().map(|labelled| {
            let bbox = &labelled.bbox;
            let centre = [(bbox.x1 + bbox.x2) / 2.0 / columns, (bbox.y1 + bbox.y2) / 2.0 / rows];
            let bbox = [centre[0], centre[1], bbox.width() / columns, bbox.height() / rows];
            Target { image: batch.len, class_id: labelled.class_id as usize, bbox }
        }));
        batch.len += 1;
    }
    Ok(batch)
}

/// Bytes as a tensor [N, 3, height, width] in `[0, 1]`, channels last in memory, which convolutions take fastest.
pub fn tensor_of(pixels: &[u8], width: u32, height: u32) -> Result<Tensor> {
    let bytes = Tensor::f_from_slice(pixels)?.f_view([-1, i64::from(height), i64::from(width), 3])?;
    Ok(bytes.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?)
}

#[cfg(test)]
mod tests {
    use detectd_vision::{BoundingBox, Image};
    use rand::Rng;

    use super::*;
    use crate::sample::LabelledBox;

    const SIDE: u32 = 32;

    /// Pictures that carry their number and something drawn from the generator.
    struct Numbered(usize);

    impl Source for Numbered {
        fn len(&self) -> usize {
            self.0
        }

        fn sample(&self, index: usize, _: usize, random: &mut ChaCha8Rng) -> Sample {
            let image = Image::filled(SIDE, SIDE, [index as u8, random.random(), random.random()]);
            let bbox = BoundingBox::new(8.0, 0.0, 24.0, 8.0);
            Sample { image, boxes: vec![LabelledBox { class_id: index as u32, bbox }] }
        }
    }

    fn epoch(source: &Numbered, batch: usize, number: usize) -> Vec<Batch> {
        std::thread::scope(|scope| {
            let receiver = start(scope, source, [SIDE; 2], batch, 7, number).expect("started");
            receiver.iter().map(|batch| batch.expect("a batch")).collect()
        })
    }

    #[test]
    fn an_epoch_shows_every_picture_once_with_its_labels() {
        let mut seen = [0; 7];
        let batches = epoch(&Numbered(7), 3, 0);
        assert_eq!(
            batches.iter().map(|batch| batch.len).collect::<Vec<_>>(),
            [3, 3],
            "what fills no batch is left out"
        );
        for batch in &batches {
            for (image, pixels) in batch.pixels.chunks_exact((SIDE * SIDE * 3) as usize).enumerate() {
                seen[pixels[0] as usize] += 1;
                let target = &batch.targets[image];
                assert_eq!((target.image, target.class_id), (image, pixels[0] as usize));
                assert_eq!(target.bbox, [0.5, 0.125, 0.5, 0.25]);
            }
        }
        assert!(seen.iter().all(|count| *count <= 1) && seen.iter().sum::<u32>() == 6);
    }

    #[test]
    fn epochs_differ_and_come_again_the_same() {
        let pixels = |number| epoch(&Numbered(6), 2, number).into_iter().map(|batch| batch.pixels).collect::<Vec<_>>();
        assert_eq!(pixels(1), pixels(1));
        assert_ne!(pixels(0), pixels(1));
    }

    #[test]
    fn leaving_an_epoch_early_ends_its_thread() {
        let source = Numbered(40);
        std::thread::scope(|scope| {
            let receiver = start(scope, &source, [SIDE; 2], 2, 7, 0).expect("started");
            assert!(receiver.recv().expect("a batch").is_ok());
            drop(receiver);
            // The scope waits for the thread; it would wait for ever if the thread did.
        });
    }

    #[test]
    fn too_few_pictures_are_refused() {
        let source = Numbered(3);
        let error = std::thread::scope(|scope| start(scope, &source, [SIDE; 2], 4, 7, 0).err()).expect("refused");
        assert!(error.to_string().contains("3 pictures"), "{error}");
    }
}
