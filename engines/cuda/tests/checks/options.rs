//! Options of every kind.

use detectd_vision::{DetectOptions, GreedyNms, MatrixKernel, MatrixNms, Nms, SoftKernel, SoftNms};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// Options of chance, the ends of every range among them.
pub fn random(random: &mut ChaCha8Rng, classes: usize) -> DetectOptions {
    let nms = match random.random_range(0..6) {
        0..3 => Nms::Matrix(MatrixNms {
            kernel: if random.random() { MatrixKernel::Linear } else { MatrixKernel::Gaussian },
            sigma: *[0.1, 2.0, 8.0].choose(random).expect("one"),
            post_threshold: *[0.0, 0.01, 0.05, 0.2, 1.0].choose(random).expect("one"),
            top_k: top_k(random),
            normalized: random.random(),
        }),
        3..5 => Nms::Greedy(GreedyNms {
            iou_threshold: *[0.0, 0.3, 0.45, 0.8, 1.0].choose(random).expect("one"),
            top_k: top_k(random),
            eta: *[1.0, 1.0, 0.7, 0.95].choose(random).expect("one"),
        }),
        _ => Nms::Soft(SoftNms { kernel: SoftKernel::Gaussian { sigma: 0.5 }, minimum_score: 0.05 }),
    };
    let allowed = (0..classes as u32).filter(|_| random.random_bool(0.6)).collect();
    DetectOptions {
        score_threshold: *[0.0, 0.001, 0.05, 0.05, 0.1, 0.25, 0.5, 0.99, 1.0].choose(random).expect("one"),
        nms,
        max_detections: *[1, 5, 20, 300, 1_000_000].choose(random).expect("one"),
        classes: random.random_bool(0.3).then_some(allowed),
        class_agnostic: random.random_bool(0.3),
        multi_label: random.random_bool(0.4),
    }
}

fn top_k(random: &mut ChaCha8Rng) -> Option<usize> {
    *[None, None, Some(1), Some(7), Some(100)].choose(random).expect("one")
}
