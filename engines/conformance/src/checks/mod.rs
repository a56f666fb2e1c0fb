//! The checks, one file for each promise of the traits.

mod detect;
mod files;
mod infer;
mod instances;
mod refusals;
mod spec;

use crate::Bench;

/// A check panics where the engine breaks its promise.
type Check = fn(&Bench<'_>);

/// All of them, by name, the simplest first.
pub const ALL: &[(&str, Check)] = &[
    ("the spec says what the file declares", spec::declares),
    ("a detector is resolved at load", spec::resolves_detectors),
    ("outputs at every batch size", infer::every_batch_size),
    ("a fixed batch", infer::fixed_batch),
    ("every element type", infer::every_data_type),
    ("tensors that do not fit", refusals::tensors),
    ("pictures that do not fit", refusals::pictures),
    ("files that cannot be loaded", files::unloadable),
    ("damaged files", files::damaged),
    ("detections at every batch size", detect::every_batch_size),
    ("detections with a fixed batch", detect::fixed_batch),
    ("detections with inputs beside the picture", detect::auxiliary_inputs),
    ("instances on several threads", instances::concurrent),
    ("the same answer every time", instances::repeatable),
    ("instances outlive the model", instances::outlive_the_model),
    ("other sizes with the same weights", instances::resized),
    ("opening and dropping keeps memory", instances::keep_memory),
];
