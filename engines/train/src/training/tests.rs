//! Whole runs, small ones.

use detectd_libtorch::network::{Architecture, Network, Scale, read_safetensors};
use detectd_vision::{BoundingBox, Image};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::augment::Augmentation;
use crate::dataset::Scenes;
use crate::sample::{LabelledBox, Sample};

const SIDE: u32 = 64;

/// One bright square each, at a place that depends on the generator.
struct Squares {
    /// Pictures from this epoch on have a size that the training refuses.
    broken_from: usize,
}

impl Source for Squares {
    fn len(&self) -> usize {
        8
    }

    fn sample(&self, _: usize, epoch: usize, random: &mut ChaCha8Rng) -> Sample {
        if epoch >= self.broken_from {
            return Sample { image: Image::filled(SIDE / 2, SIDE, [0; 3]), boxes: Vec::new() };
        }
        square(random)
    }
}

fn square(random: &mut ChaCha8Rng) -> Sample {
    let [x, y] = [0; 2].map(|_| random.random_range(0..SIDE - 24));
    let mut image = Image::filled(SIDE, SIDE, [30, 40, 50]);
    for row in y..y + 24 {
        let start = ((row * SIDE + x) * 3) as usize;
        image.pixels_mut()[start..start + 72].fill(220);
    }
    let [x, y] = [x, y].map(|v| v as f32);
    Sample { image, boxes: vec![LabelledBox { class_id: 1, bbox: BoundingBox::new(x, y, x + 24.0, y + 24.0) }] }
}

fn settings(epochs: usize) -> Settings {
    let scenes = |first| Scenes { first, count: 8, sizes: vec![[SIDE; 2]] };
    Settings {
        name: "squares".into(),
        architecture: Architecture::V6,
        size: Scale::N,
        input: SIDE,
        seed: 3,
        train: scenes(0),
        validation: scenes(100),
        epochs,
        batch: 4,
        nominal_batch: 8,
        close_mosaic: 0,
        precision: Precision::F32,
        threads: 2,
        schedule: Schedule { warmup_min_iterations: 2, warmup_epochs: 1.0, ..Schedule::default() },
        weight_decay: 5e-4,
        max_norm: Some(10.0),
        ema: EmaSettings { decay: 0.9, time_constant: 2.0 },
        loss: LossSettings::default(),
        augmentation: Augmentation::NONE,
    }
}

fn validation() -> Vec<Sample> {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    (0..4).map(|_| square(&mut random)).collect()
}

#[test]
fn a_resumed_run_ends_where_an_uninterrupted_one_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, parted) = (folder.path().join("whole"), folder.path().join("parted"));
    let (settings, validation) = (settings(3), validation());
    let good = Squares { broken_from: usize::MAX };
    let expected = train(&settings, &good, &validation, &whole, Start::default()).expect("a run");

    let broken = Squares { broken_from: 2 };
    let error = train(&settings, &broken, &validation, &parted, Start::default()).expect_err("a broken run");
    assert!(format!("{error:#}").contains("expected (64, 64)"), "{error:#}");
    let start = Start { resume: true, weights: None };
    let resumed = train(&settings, &good, &validation, &parted, start).expect("the rest of the run");

    let read = |folder: &std::path::Path| read_safetensors(&folder.join("last.safetensors")).expect("a checkpoint").0;
    let (a, b) = (read(&whole), read(&parted));
    assert!(a.keys().eq(b.keys()));
    for (name, tensor) in &a {
        let difference = (tensor - &b[name]).abs().max().double_value(&[]);
        assert!(difference < 1e-6, "{name} differs by {difference}");
    }
    assert_eq!(resumed.progress.updates, expected.progress.updates);
    assert_eq!(resumed.history.len(), 3);
    for (a, b) in resumed.history.iter().zip(&expected.history) {
        assert!(a.train_loss.iter().zip(b.train_loss).all(|(a, b)| (a - b).abs() < 1e-4), "{a} against {b}");
    }
}

#[test]
fn other_settings_do_not_resume() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = Squares { broken_from: usize::MAX };
    train(&settings(1), &good, &validation(), folder.path(), Start::default()).expect("a run");
    let start = Start { resume: true, weights: None };
    let error = train(&settings(2), &good, &validation(), folder.path(), start).expect_err("other settings");
    assert!(error.to_string().contains("other settings"), "{error}");
    let error = train(&settings(1), &good, &validation(), folder.path(), Start::default()).expect_err("a second run");
    assert!(error.to_string().contains("holds a run already"), "{error}");
    let model = TrainedModel::read(&folder.path().join("best.safetensors")).expect("trained weights");
    assert_eq!(model.settings, settings(1));
}

#[test]
fn training_lowers_the_loss_of_what_it_sees() {
    let folder = tempfile::tempdir().expect("a folder");
    let schedule = Schedule { lr0: 0.02, warmup_min_iterations: 4, warmup_epochs: 2.0, ..Schedule::default() };
    let settings = Settings { nominal_batch: 4, schedule, ..settings(30) };
    let good = Squares { broken_from: usize::MAX };
    let trained = train(&settings, &good, &validation(), folder.path(), Start::default()).expect("a run");
    let total = |result: &EpochResult| result.train_loss.iter().sum::<f64>();
    let (first, last) = (total(&trained.history[0]), total(&trained.history[29]));
    assert!(last < 0.8 * first, "{first} to {last}");
}

#[test]
fn parts_of_a_batch_add_up_to_its_gradient() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let samples: Vec<Sample> = (0..2).map(|_| square(&mut random)).collect();
    // Twice the same pair: each thread's part has the statistics of the whole.
    let pair = || samples.iter().chain(&samples).cloned();
    let gradient = |threads: usize| {
        let settings = Settings { threads, ..settings(1) };
        let network = Network::new(&settings.model().expect("a model"), 5).expect("a network");
        let replicas = replicas::Replicas::start(&network, &settings).expect("threads");
        let detect = network.plan().detect.clone();
        let loss = Loss::new(detect, &settings.loss, SIDE as usize, SIDE as usize).expect("a loss");
        let batch = batches::assemble(pair(), SIDE, SIDE).expect("a batch");
        let parts = replicas.gradients(&network, &loss, &settings, &batch).expect("gradients");
        (parts, ["model.0.conv.weight", "model.24.m.0.weight"].map(|name| network.weights()[name].grad().copy()))
    };
    let (one, two) = (gradient(1), gradient(2));
    assert!(one.0.iter().zip(two.0).all(|(a, b)| (a - b).abs() < 1e-5), "{:?} against {:?}", one.0, two.0);
    // Rounding grows on the way back through all layers.
    for (index, tolerance) in [(0, 1e-2), (1, 5e-3)] {
        let scale = one.1[index].abs().max().double_value(&[]);
        let difference = (&one.1[index] - &two.1[index]).abs().max().double_value(&[]);
        assert!(scale > 0.0 && difference < tolerance * scale, "{difference} at a scale of {scale}");
    }
}
