//! One picture that waits for an engine.

use std::time::{Duration, Instant};

use detectd_engine::Picture;
use detectd_vision::{DetectOptions, Detection};
use tokio::sync::oneshot;

use crate::error::Error;

/// Which work goes first when more waits than can be run. A higher one always goes before a lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// After everything else.
    Low,
    /// Where nothing is said.
    #[default]
    Normal,
    /// Before everything else.
    High,
}

impl Priority {
    /// Every priority, in the order in which work is taken.
    pub const ORDER: [Self; 3] = [Self::High, Self::Normal, Self::Low];
}

/// A picture, how to detect in it, and where the answer goes.
#[derive(Debug)]
pub struct Work {
    /// The picture, prepared as far as the model asks.
    pub picture: Picture,
    /// How to choose among the boxes.
    pub options: DetectOptions,
    /// After which the answer is of no use.
    pub deadline: Option<Instant>,
    /// Where the answer goes. It is closed when nobody waits for it any more.
    pub reply: oneshot::Sender<Result<Completed, Error>>,
}

impl Work {
    /// Nobody waits for the answer any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// The answer would come too late.
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// One picture's answer, and where the time went.
#[derive(Clone, Debug, PartialEq)]
pub struct Completed {
    /// Best first, in the picture's own pixels.
    pub detections: Vec<Detection>,
    /// From entering the queue to the execution's begin.
    pub queue: Duration,
    /// The network, for the whole batch.
    pub compute: Duration,
    /// From outputs to boxes, for the whole batch.
    pub postprocess: Duration,
    /// How many pictures the execution held.
    pub batch_size: usize,
}
