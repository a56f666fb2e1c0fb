//! Training of YOLOv5 networks on the CPU: everything that a run needs is in its [`Settings`].

mod batches;
mod checkpoint;
mod data;
mod history;
mod loss;
mod optimiser;
mod predict;
mod replicas;
mod run;
mod schedule;
mod settings;
mod targets;
#[cfg(test)]
mod tests;
mod validation;

pub use batches::{Batch, Source, tensor_of};
pub use checkpoint::{Progress, TrainedModel};
pub use data::AugmentedScenes;
pub use history::EpochResult;
pub use loss::{Loss, LossSettings, LossValue};
pub use optimiser::{Ema, Group, Sgd};
pub use predict::Predictor;
pub use run::{Start, Trained, train};
pub use schedule::{Decay, Rates, Schedule};
pub use settings::{EmaSettings, Precision, Settings};
pub use targets::{Matches, Target, matches};
pub use validation::{Validation, measure, validate};
