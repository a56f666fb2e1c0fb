//! What an engine is run with before it takes requests.

use std::time::Instant;

use detectd_engine::{
    Batch, BatchSize, DetectScratch, Detector, Engine, EngineError, ModelSpec, Picture, Stage, Tensor, TensorData,
    detect_by_infer,
};
use detectd_vision::{DetectOptions, Image, Letterbox, Resizer};
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

/// Runs the network of a detector whose boxes are made here, and looks for NaN in its outputs: a box or a score that is
/// none passes every later step unseen. Infinities are left alone, some graphs fill up with them.
///
/// # Errors
/// The execution fails, or an output, which is named, has NaN in it.
pub fn refuse_nan(engine: &mut dyn Engine) -> Result<(), EngineError> {
    let spec = engine.spec();
    let Some(detector) = spec.detector.as_ref().filter(|_| spec.takes == Stage::Letterboxed) else { return Ok(()) };
    let picture = with_something_in_it(detector)?;
    let count = spec.batch.executed(1);
    let (pictures, options) = (vec![picture; count], vec![DetectOptions::default(); count]);
    detect_by_infer(&mut WithoutNan(engine), &pictures, &options, &mut DetectScratch::default()).map(drop)
}

/// Fails where an output has NaN in it.
struct WithoutNan<'a>(&'a mut dyn Engine);

impl Engine for WithoutNan<'_> {
    fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }

    fn infer(&mut self, batch: &Batch) -> Result<Vec<Tensor>, EngineError> {
        let outputs = self.0.infer(batch)?;
        for (spec, output) in self.0.spec().outputs.iter().zip(&outputs) {
            if let TensorData::Fp32(values) = output.data()
                && let Some(index) = values.iter().position(|value| value.is_nan())
            {
                let (name, shape) = (&spec.name, output.shape());
                return Err(EngineError::Backend(format!("output {name} {shape:?}: value {index} is NaN, no number")));
            }
        }
        Ok(outputs)
    }
}

/// A picture that is not of one colour: a graph may normalise each picture by its contrast.
fn with_something_in_it(detector: &Detector) -> Result<Picture, EngineError> {
    let preprocess = &detector.preprocess;
    let mut image = Image::filled(preprocess.width, preprocess.height, [0; 3]);
    let row = image.width() as usize * 3;
    for (index, value) in image.pixels_mut().iter_mut().enumerate() {
        *value = ((index / row) * 7 + (index % row) * 5) as u8;
    }
    let mut input = vec![0.0; preprocess.input_len()];
    let letterbox = preprocess.run(&image, &mut input, &mut Resizer::default());
    let letterbox = letterbox.map_err(|error| EngineError::Backend(error.to_string()))?;
    Ok(Picture::Letterboxed { input, letterbox })
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
