//! What an engine is run with before it takes requests.

use std::time::Instant;

use detectd_engine::{
    Batch, BatchSize, DetectScratch, Detector, Engine, EngineError, ModelSpec, Picture, Stage, Tensor, TensorData,
};
use detectd_vision::{DetectOptions, Image, Letterbox};
use tracing::debug;

use super::Payload;
use super::execution::Payloads;

/// Runs `engine` once with `size` rows.
///
/// # Errors
/// The execution fails.
pub fn warm_up(engine: &mut dyn Engine, size: usize) -> Result<(), EngineError> {
    let Some(payloads) = work(engine.spec(), size) else { return Ok(()) };
    let started = Instant::now();
    payloads.run(0..payloads.len(), engine, &mut DetectScratch::default())?;
    debug!(engine = engine.spec().engine, size, elapsed = ?started.elapsed(), "warm-up");
    Ok(())
}

/// Work of `size` rows. `None` for a model that the first request must warm: one that decodes pictures by itself, as
/// there is no file that every engine would take, and one that leaves dimensions beside the batch open.
fn work(spec: &ModelSpec, size: usize) -> Option<Payloads> {
    let mut payloads = Payloads::default();
    match &spec.detector {
        Some(detector) => {
            let picture = picture(spec.takes, detector)?;
            for _ in 0..size {
                payloads.push(Payload::Picture { picture: picture.clone(), options: DetectOptions::default() });
            }
        }
        None => payloads.push(Payload::Tensors { inputs: zeros(spec, size)?, rows: size }),
    }
    Some(payloads)
}

fn picture(stage: Stage, detector: &Detector) -> Option<Picture> {
    let (width, height) = (detector.preprocess.width, detector.preprocess.height);
    match stage {
        Stage::Letterboxed => {
            let letterbox = Letterbox::new((width, height), &detector.preprocess);
            Some(Picture::Letterboxed { input: vec![0.0; detector.preprocess.input_len()], letterbox })
        }
        Stage::Decoded => Some(Picture::Decoded(Image::filled(width, height, [114; 3]))),
        Stage::Encoded => None,
    }
}

fn zeros(spec: &ModelSpec, size: usize) -> Option<Batch> {
    let tensor = |input| {
        let item: Vec<usize> = spec.dims_of_item(input).iter().copied().collect::<Option<_>>()?;
        let rows = (spec.batch != BatchSize::Absent).then_some(size);
        let shape: Vec<usize> = rows.into_iter().chain(item).collect();
        let len = shape.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim))?;
        Tensor::new(shape, TensorData::zeros(input.data_type, len)).ok()
    };
    Some(Batch { inputs: spec.inputs.iter().map(tensor).collect::<Option<_>>()? })
}
