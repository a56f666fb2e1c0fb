//! One execution: the work of a batch in the form that the engine takes, and its outputs for each caller.

use std::ops::Range;
use std::time::Instant;

use detectd_engine::{Batch, DetectScratch, Engine, EngineError, Picture};
use detectd_vision::DetectOptions;

use super::{Output, Payload};
use crate::metrics::ExecutionTimes;

/// The payloads of a batch.
#[derive(Default)]
pub struct Payloads {
    pictures: Vec<Picture>,
    options: Vec<DetectOptions>,
    tensors: Vec<Batch>,
    rows: Vec<usize>,
}

/// The outputs for some of a batch's payloads, and where the time went.
pub struct Executed {
    pub outputs: Vec<Output>,
    pub times: ExecutionTimes,
    /// How many rows were executed.
    pub rows: usize,
}

impl Payloads {
    /// Adds one of the same kind as those before it.
    pub fn push(&mut self, payload: Payload) {
        match payload {
            Payload::Picture { picture, options } => {
                self.pictures.push(picture);
                self.options.push(options);
            }
            Payload::Tensors { inputs, rows } => {
                self.tensors.push(inputs);
                self.rows.push(rows);
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pictures.len() + self.tensors.len()
    }

    /// Runs those in `range` in one execution; gives as many outputs.
    pub fn run(
        &self,
        range: Range<usize>,
        engine: &mut dyn Engine,
        scratch: &mut DetectScratch,
    ) -> Result<Executed, EngineError> {
        if self.tensors.is_empty() {
            detect(engine, &self.pictures[range.clone()], &self.options[range], scratch)
        } else {
            infer(engine, &self.tensors[range.clone()], &self.rows[range])
        }
    }

    /// The pictures, to use their buffers again.
    pub fn into_pictures(self) -> Vec<Picture> {
        self.pictures
    }
}

fn detect(
    engine: &mut dyn Engine,
    pictures: &[Picture],
    options: &[DetectOptions],
    scratch: &mut DetectScratch,
) -> Result<Executed, EngineError> {
    let detected = engine.detect(pictures, options, scratch)?;
    if detected.detections.len() != pictures.len() {
        let got = detected.detections.len();
        return Err(EngineError::Backend(format!("{got} answers for {} pictures", pictures.len())));
    }
    Ok(Executed {
        outputs: detected.detections.into_iter().map(Output::Detections).collect(),
        times: ExecutionTimes {
            assemble: detected.assemble,
            compute: detected.compute,
            postprocess: detected.postprocess,
        },
        rows: pictures.len(),
    })
}

/// Puts the callers' tensors together, runs them, and takes the outputs apart.
pub fn infer(engine: &mut dyn Engine, parts: &[Batch], rows: &[usize]) -> Result<Executed, EngineError> {
    let started = Instant::now();
    let total = rows.iter().sum();
    let executed = engine.spec().batch.executed(total);
    let together;
    let batch = match parts {
        [alone] if total == executed => alone,
        _ => {
            together = Batch::concatenate(parts, executed)?;
            &together
        }
    };
    let assembled = Instant::now();
    let outputs = engine.infer(batch)?;
    let computed = Instant::now();
    let outputs = engine.spec().split(outputs, rows, executed)?;
    Ok(Executed {
        outputs: outputs.into_iter().map(Output::Tensors).collect(),
        times: ExecutionTimes {
            assemble: assembled - started,
            compute: computed - assembled,
            postprocess: computed.elapsed(),
        },
        rows: total,
    })
}
