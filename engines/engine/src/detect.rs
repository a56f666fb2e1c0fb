//! Pictures in, boxes out, for every engine that has no way of its own: one execution, then decoding and NMS on the CPU.

use std::time::{Duration, Instant};

use detectd_vision::{DetectOptions, Detection, Letterbox, NmsScratch, OutputData, OutputView};

use crate::{Batch, Detector, Engine, EngineError, ModelSpec, Picture, Stage, Tensor, TensorData};

/// The answer for a batch of pictures, and where the time went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detected {
    /// For each picture its detections, best first.
    pub detections: Vec<Vec<Detection>>,
    /// Preparing the batch's tensors.
    pub assemble: Duration,
    /// The network.
    pub compute: Duration,
    /// From outputs to boxes.
    pub postprocess: Duration,
}

/// Buffers that one instance keeps from batch to batch.
#[derive(Default)]
pub struct DetectScratch {
    batch: Batch,
    nms: NmsScratch,
}

/// The default [`Engine::detect`], by way of [`Engine::infer`].
///
/// # Errors
/// As there.
pub fn detect_by_infer<E: Engine + ?Sized>(
    engine: &mut E,
    pictures: &[Picture],
    options: &[DetectOptions],
    scratch: &mut DetectScratch,
) -> Result<Detected, EngineError> {
    if pictures.is_empty() {
        return Ok(Detected::default());
    }
    let start = Instant::now();
    check_pictures(engine.spec(), pictures, options)?;
    let letterboxes = assemble(engine.spec(), pictures, &mut scratch.batch)?;
    let assembled = Instant::now();
    let outputs = engine.infer(&scratch.batch)?;
    let computed = Instant::now();
    let detections = boxes_on_cpu(engine.spec(), &outputs, &letterboxes, options, scratch)?;
    Ok(Detected {
        detections,
        assemble: assembled - start,
        compute: computed - assembled,
        postprocess: computed.elapsed(),
    })
}

/// The second half of the default [`Engine::detect`], for engines that do the first elsewhere: from a batch's outputs to
/// the boxes of each picture, given where it lies in its input.
///
/// # Errors
/// [`EngineError::Backend`]: outputs that do not have the head's layout, or other classes than the model has labels.
pub fn boxes_on_cpu(
    spec: &ModelSpec,
    outputs: &[Tensor],
    letterboxes: &[Letterbox],
    options: &[DetectOptions],
    scratch: &mut DetectScratch,
) -> Result<Vec<Vec<Detection>>, EngineError> {
    let detector = detector(spec)?;
    let views = views(spec, outputs)?;
    // A graph that leaves the dimension open is found out here, at the latest by the warm-up.
    if let Some(classes) = detector.head.class_count(&views)
        && classes != detector.classes
    {
        let labels = detector.classes;
        return Err(EngineError::Backend(format!("the outputs have {classes} classes, but the model has {labels}")));
    }
    let pictures = letterboxes.iter().zip(options).enumerate().map(|(index, (letterbox, options))| {
        let found = detector.head.detect(&views, index, letterbox, options, &mut scratch.nms);
        found.map_err(|error| EngineError::Backend(error.to_string()))
    });
    pictures.collect()
}

fn detector(spec: &ModelSpec) -> Result<&Detector, EngineError> {
    spec.detector.as_ref().ok_or_else(|| EngineError::Shape("the model is no detector: it takes tensors only".into()))
}

/// Whether these pictures may be one batch, prepared as far as the model takes them, with options for each.
///
/// # Errors
/// [`EngineError::Shape`] that says what was expected and what came.
pub fn check_pictures(spec: &ModelSpec, pictures: &[Picture], options: &[DetectOptions]) -> Result<(), EngineError> {
    let detector = detector(spec)?;
    if pictures.len() > spec.batch.max() {
        return Err(EngineError::Shape(format!(
            "{} pictures in one batch, the model takes at most {}",
            pictures.len(),
            spec.batch.max()
        )));
    }
    if pictures.len() != options.len() {
        return Err(EngineError::Shape(format!("{} pictures, but options for {}", pictures.len(), options.len())));
    }
    let expected = detector.preprocess.input_len();
    for picture in pictures {
        match picture {
            other if other.stage() != spec.takes => {
                let (stage, takes) = (other.stage(), spec.takes);
                return Err(EngineError::Shape(format!("a picture is {stage:?}, expected {takes:?}")));
            }
            Picture::Letterboxed { input, .. } if input.len() != expected => {
                return Err(EngineError::Shape(format!("an input of {} values, expected {expected}", input.len())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Fills `batch` with the pictures' inputs, in the buffers that it has from last time.
fn assemble(spec: &ModelSpec, pictures: &[Picture], batch: &mut Batch) -> Result<Vec<Letterbox>, EngineError> {
    let detector = detector(spec)?;
    let letterboxed = pictures.iter().map(|picture| match picture {
        Picture::Letterboxed { input, letterbox } => Ok((input, *letterbox)),
        other => {
            let stage = other.stage();
            Err(EngineError::Shape(format!("a picture is {stage:?}, expected {:?}", Stage::Letterboxed)))
        }
    });
    let letterboxed = letterboxed.collect::<Result<Vec<_>, _>>()?;
    let executed = spec.batch.executed(pictures.len());
    let (width, height) = (detector.preprocess.width, detector.preprocess.height);
    let mut buffers: Vec<Vec<f32>> = batch
        .inputs
        .drain(..)
        .map(|tensor| match tensor.into_data() {
            TensorData::Fp32(buffer) => buffer,
            _ => Vec::new(),
        })
        .collect();
    buffers.resize_with(spec.inputs.len(), Vec::new);

    for (index, mut buffer) in buffers.into_iter().enumerate() {
        buffer.clear();
        let auxiliary = detector.auxiliary.iter().find(|(input, _)| *input == index).map(|(_, auxiliary)| *auxiliary);
        for (input, letterbox) in &letterboxed {
            match auxiliary {
                None => buffer.extend_from_slice(input),
                Some(auxiliary) => buffer.extend(auxiliary.values(letterbox)),
            }
        }
        let shape = match auxiliary {
            None => vec![executed, 3, height as usize, width as usize],
            Some(_) => vec![executed, 2],
        };
        // A fixed batch is filled up; ones, because a scale factor of 0 would be divided by.
        let filling = if auxiliary.is_some() { 1.0 } else { 0.0 };
        buffer.resize(shape.iter().product(), filling);
        batch.inputs.push(Tensor::new(shape, TensorData::Fp32(buffer))?);
    }
    Ok(letterboxed.into_iter().map(|(_, letterbox)| letterbox).collect())
}

fn views<'a>(spec: &'a ModelSpec, outputs: &'a [Tensor]) -> Result<Vec<OutputView<'a>>, EngineError> {
    if outputs.len() != spec.outputs.len() {
        return Err(EngineError::Backend(format!("{} outputs, expected {}", outputs.len(), spec.outputs.len())));
    }
    spec.outputs
        .iter()
        .zip(outputs)
        .map(|(spec, output)| {
            let data = match output.data() {
                TensorData::Fp32(data) => OutputData::F32(data),
                TensorData::Int32(data) => OutputData::I32(data),
                TensorData::Int64(data) => OutputData::I64(data),
                other => {
                    return Err(EngineError::Backend(format!(
                        "output {} is {}, which no head is made of",
                        spec.name,
                        other.data_type()
                    )));
                }
            };
            Ok(OutputView { name: &spec.name, shape: output.shape(), data })
        })
        .collect()
}
