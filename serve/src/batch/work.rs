//! One request's part of an execution, while it waits for an engine.

use std::time::{Duration, Instant};

use detectd_engine::{Batch, DataType, Picture, Tensor};
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

/// What is to be run, and where the answer goes.
#[derive(Debug)]
pub struct Work {
    /// What is to be run.
    pub payload: Payload,
    /// After which the answer is of no use.
    pub deadline: Option<Instant>,
    /// Where the answer goes. It is closed when nobody waits for it any more.
    pub reply: oneshot::Sender<Result<Completed, Error>>,
}

/// What is to be run. The work of one model is all of one kind.
#[derive(Debug)]
pub enum Payload {
    /// For a detector.
    Picture {
        /// Prepared as far as the model asks.
        picture: Picture,
        /// How to choose among the boxes.
        options: DetectOptions,
    },
    /// For a tensor model.
    Tensors {
        /// The model's inputs, of `rows` rows.
        inputs: Batch,
        /// How much of an execution it takes.
        rows: usize,
    },
}

impl Payload {
    /// How much of an execution it takes: a picture is one row.
    #[must_use]
    pub fn rows(&self) -> usize {
        match self {
            Self::Picture { .. } => 1,
            Self::Tensors { rows, .. } => *rows,
        }
    }

    /// Whether one execution can run both: tensors must agree in type and in every dimension but the first.
    #[must_use]
    pub fn joins(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Picture { .. }, Self::Picture { .. }) => true,
            (Self::Tensors { inputs: own, .. }, Self::Tensors { inputs: others, .. }) => {
                own.inputs.iter().map(item).eq(others.inputs.iter().map(item))
            }
            _ => false,
        }
    }
}

/// What the rows of a tensor are.
fn item(tensor: &Tensor) -> (DataType, Option<&[usize]>) {
    (tensor.data().data_type(), tensor.shape().get(1..))
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

/// One request's answer, and where the time went.
#[derive(Clone, Debug, PartialEq)]
pub struct Completed {
    /// What came out.
    pub output: Output,
    /// From entering the queue to the execution's begin.
    pub queue: Duration,
    /// The network, for the whole batch.
    pub compute: Duration,
    /// From the network's outputs to those of each request, for the whole batch.
    pub postprocess: Duration,
    /// How many rows the execution held.
    pub batch_size: usize,
}

/// What came out.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Of a detector: best first, in the picture's own pixels.
    Detections(Vec<Detection>),
    /// Of a tensor model: its outputs.
    Tensors(Vec<Tensor>),
}
