//! What a module takes and gives. TorchScript declares neither shapes nor types, so it is run on made-up inputs.

use detectd_engine::{BatchSize, DataType, EngineError, LoadOptions, Tensor, TensorData, TensorSpec};
use tch::{Device, Kind};

use crate::instance::{Compute, Output};
use crate::tensors;

/// Sides of square inputs to try where nobody says the size. One that both of the first two pass has no fixed size.
const SIDES: [u32; 16] = [640, 320, 416, 512, 608, 1280, 1024, 960, 768, 384, 256, 224, 160, 128, 96, 64];
/// Sizes to stand for a declared dimension that is open.
const OPEN_SIDES: [usize; 4] = [1, 32, 64, 96];
/// Fixed batches to try where one picture does not pass.
const BATCHES: [usize; 5] = [2, 4, 8, 16, 32];

/// A module on trial.
pub struct Trial<'a> {
    /// What computes.
    pub compute: &'a dyn Compute,
    /// Where it runs.
    pub device: Device,
    /// What floats it takes.
    pub float: Kind,
    /// What the manifest says.
    pub options: &'a LoadOptions,
    /// Whether what was found can be served, or why not.
    pub fits: &'a dyn Fn(&Found) -> Result<(), EngineError>,
}

/// What a module takes and gives.
#[derive(Clone)]
pub struct Found {
    /// The inputs, the batch first.
    pub inputs: Vec<TensorSpec>,
    /// All outputs, flat; a dimension that differs from run to run is open.
    pub outputs: Vec<TensorSpec>,
    /// The batch.
    pub batch: BatchSize,
}

impl Trial<'_> {
    /// Finds out. `names` are those of the module's arguments; `traced` is the size that its exporter has noted.
    pub fn find(&self, names: &[String], traced: Option<(u32, u32)>) -> Result<Found, EngineError> {
        let Some(detector) = &self.options.detector else { return self.declared(names) };
        if !self.options.inputs.is_empty() {
            return self.declared(names);
        }
        let stated = detector.preprocess.as_ref().map(|preprocess| (preprocess.width, preprocess.height));
        match detector.input_size.or(stated).or(traced) {
            Some(size) => self.of_size(names, size).map_err(|error| at(error, &format!("{}x{}", size.0, size.1))),
            None => self.by_trying_sizes(names),
        }
    }

    /// The manifest declares the inputs.
    fn declared(&self, names: &[String]) -> Result<Found, EngineError> {
        let inputs = &self.options.inputs;
        if inputs.len() != names.len() {
            let (declared, taken, list) = (inputs.len(), names.len(), names.join(", "));
            return Err(EngineError::Load(format!(
                "the module takes {taken} inputs ({list}), the manifest declares {declared}: TorchScript has neither \
                 types nor shapes, so state `inputs = [{{ name = \"…\", data_type = \"FP32\", dims = [-1, …] }}, …]`, \
                 with the batch as the first dimension, in the module's order"
            )));
        }
        if let Some(input) = inputs.iter().find(|input| input.dims.contains(&Some(0))) {
            return Err(EngineError::Load(format!("input {} can hold nothing: {input}", input.name)));
        }
        let open = inputs.iter().any(|input| self.item(input).contains(&None));
        let mut last = None;
        for &side in if open { &OPEN_SIDES[..] } else { &OPEN_SIDES[..1] } {
            match self.with_batch(inputs, side) {
                Ok(mut found) => {
                    if open {
                        // What depends on the open sides is not known.
                        found.outputs.iter_mut().for_each(|output| output.dims.fill(None));
                    }
                    return Ok(found);
                }
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| EngineError::Load("nothing was tried".into()));
        Err(if open { at(error, &format!("{OPEN_SIDES:?} for each open dimension")) } else { error })
    }

    fn by_trying_sizes(&self, names: &[String]) -> Result<Found, EngineError> {
        let attempt = |side: u32| {
            let found = self.with_batch(&pictures(names, Some((side, side))), side as usize)?;
            // Views with sides from the trace make something of any picture, but not the rows of a head.
            (self.fits)(&found).map(|()| found)
        };
        let mut failures = Vec::new();
        for side in SIDES {
            match attempt(side) {
                Ok(_) if side == SIDES[0] && attempt(SIDES[1]).is_ok() => {
                    return self.with_batch(&pictures(names, None), side as usize);
                }
                Ok(found) => return Ok(found),
                Err(EngineError::OutOfMemory(message)) => return Err(EngineError::OutOfMemory(message)),
                Err(error) => failures.push(format!("with {side}: {error}")),
            }
        }
        let tried: Vec<String> = SIDES.iter().map(ToString::to_string).collect();
        Err(EngineError::Load(format!(
            "the size of the input is not known: squares of {} pixels were tried, and none passes; state \
             `input_size = [width, height]` in the manifest. {}",
            tried.join(", "),
            failures.first().map_or("", String::as_str)
        )))
    }

    /// A detector that takes pictures of this size.
    fn of_size(&self, names: &[String], size: (u32, u32)) -> Result<Found, EngineError> {
        let inputs = pictures(names, Some(size));
        let first = match self.with_batch(&inputs, 1) {
            Ok(found) => return Ok(found),
            Err(EngineError::OutOfMemory(message)) => return Err(EngineError::OutOfMemory(message)),
            Err(error) => error,
        };
        // It may be fixed to a larger batch.
        for batch in [&[self.options.max_batch], &BATCHES[..]].concat() {
            let mut fixed = inputs.clone();
            fixed.iter_mut().for_each(|input| input.dims[0] = Some(batch));
            if let Ok(found) = self.with_batch(&fixed, 1) {
                return Ok(found);
            }
        }
        Err(first)
    }

    /// The inputs but for their batch, which is fixed by them or found to be open.
    fn with_batch(&self, inputs: &[TensorSpec], open: usize) -> Result<Found, EngineError> {
        let max = self.options.max_batch;
        if max == 0 {
            if self.options.detector.is_some() {
                return Err(EngineError::Load("the largest batch of a detector must be at least 1, not 0".into()));
            }
            let outputs = self.agree(inputs, 1, 1, open)?;
            return Ok(Found { inputs: inputs.to_vec(), outputs, batch: BatchSize::Absent });
        }
        let firsts: Vec<Option<usize>> = inputs.iter().map(|input| input.dims.first().copied().flatten()).collect();
        if inputs.iter().any(|input| input.dims.is_empty()) || firsts.iter().any(|first| *first != firsts[0]) {
            return Err(EngineError::Load(
                "the first dimension of each input is the batch, open in all or fixed in all; a tensor model without a \
                 batch says `max_batch_size = 0` in the manifest"
                    .into(),
            ));
        }
        if let Some(&Some(size)) = firsts.first() {
            let outputs = self.agree(inputs, size, size, open)?;
            return Ok(Found { inputs: inputs.to_vec(), outputs, batch: BatchSize::Fixed(size) });
        }
        let alone = self.agree(inputs, 1, 1, open)?;
        let pair = if max > 1 { self.agree(inputs, 1, 2, open).ok() } else { None };
        // With a batch of two, an output must have two rows; otherwise the module was traced for one picture.
        let follows = pair.filter(|outputs| {
            outputs
                .iter()
                .zip(&alone)
                .any(|(pair, alone)| alone.dims.first() == Some(&Some(1)) && pair.dims[0].is_none())
        });
        let (batch, first) = match &follows {
            Some(_) => (BatchSize::UpTo(max), None),
            None if max == 1 => (BatchSize::UpTo(1), None),
            None => (BatchSize::Fixed(1), Some(1)),
        };
        let mut inputs = inputs.to_vec();
        inputs.iter_mut().for_each(|input| input.dims[0] = first);
        let mut outputs = follows.unwrap_or(alone);
        if max == 1 {
            let open = |output: &mut TensorSpec| {
                if let Some(first) = output.dims.first_mut().filter(|first| **first == Some(1)) {
                    *first = None;
                }
            };
            outputs.iter_mut().for_each(open);
        }
        Ok(Found { inputs, outputs, batch })
    }

    /// Runs two batches with different values; what differs between their outputs is open.
    fn agree(
        &self,
        inputs: &[TensorSpec],
        first: usize,
        second: usize,
        open: usize,
    ) -> Result<Vec<TensorSpec>, EngineError> {
        let (one, other) = (self.run(inputs, first, open, 0.0)?, self.run(inputs, second, open, 0.3)?);
        if one.len() != other.len() {
            let (one, other) = (one.len(), other.len());
            return Err(EngineError::Load(format!("the module gives {one} outputs once and {other} another time")));
        }
        let agreed = one.into_iter().zip(other).map(|(one, other)| {
            let (dims, others) = (&one.dims, &other.dims);
            if one.data_type != other.data_type || dims.len() != others.len() {
                return Err(EngineError::Load(format!("output {} is {one} once and {other} another time", one.name)));
            }
            // None at all is an empty list, such as boxes that were not found.
            let dims =
                dims.iter().zip(others).map(|(one, other)| one.filter(|side| Some(*side) == *other && *side > 0));
            Ok(TensorSpec { dims: dims.collect(), ..one.clone() })
        });
        agreed.collect()
    }

    fn run(
        &self,
        inputs: &[TensorSpec],
        batch: usize,
        open: usize,
        shift: f32,
    ) -> Result<Vec<TensorSpec>, EngineError> {
        let inputs = inputs.iter().map(|input| {
            let items = self.item(input).iter().map(|dim| dim.unwrap_or(open));
            let batch = (items.len() < input.dims.len()).then_some(batch);
            let shape: Vec<usize> = batch.into_iter().chain(items).collect();
            let len = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
            let len = len.filter(|&len| len <= MOST_VALUES).ok_or_else(|| {
                EngineError::Load(format!("input {}: {shape:?} is more than {MOST_VALUES} values", input.name))
            })?;
            let data = match input.data_type {
                DataType::Fp32 => TensorData::Fp32(values(len, shift)),
                other => TensorData::zeros(other, len),
            };
            tensors::to_torch(&Tensor::new(shape, data)?, self.device, self.float)
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let outputs = self.compute.compute(&inputs).map_err(loading)?;
        if outputs.is_empty() {
            return Err(EngineError::Load("the module gives no tensor".into()));
        }
        name(&outputs)
    }

    /// The dimensions of an input beside the batch.
    fn item<'a>(&self, input: &'a TensorSpec) -> &'a [Option<usize>] {
        if self.options.max_batch == 0 { &input.dims } else { input.dims.get(1..).unwrap_or_default() }
    }
}

/// 1 GiB of floats: no input of a model comes near.
const MOST_VALUES: usize = 1 << 28;

/// Values between 0.25 and 0.75 that repeat late.
fn values(len: usize, shift: f32) -> Vec<f32> {
    let period: Vec<f32> = (0..4093).map(|index| 0.25 + 0.5 * (index as f32 * 0.618_034 + shift).fract()).collect();
    let mut values = Vec::with_capacity(len);
    while values.len() < len {
        values.extend_from_slice(&period[..period.len().min(len - values.len())]);
    }
    values
}

/// The inputs of a detector: pictures of a size, or of any, and what Paddle's networks have beside them.
fn pictures(names: &[String], size: Option<(u32, u32)>) -> Vec<TensorSpec> {
    let sides = size.map(|(width, height)| [Some(height as usize), Some(width as usize)]);
    let input = |name: &String| {
        let dims = match name.as_str() {
            "im_shape" | "scale_factor" => vec![None, Some(2)],
            _ => [[None, Some(3)], sides.unwrap_or_default()].concat(),
        };
        TensorSpec { name: name.clone(), data_type: DataType::Fp32, dims }
    };
    names.iter().map(input).collect()
}

/// Names the outputs: by their keys where they come in a dictionary and no two have the same, by their place otherwise.
fn name(outputs: &[Output]) -> Result<Vec<TensorSpec>, EngineError> {
    let named = outputs.iter().enumerate().map(|(index, output)| {
        let unique = |key: &&String| outputs.iter().filter(|other| other.key.as_ref() == Some(key)).count() == 1;
        let name = output.key.as_ref().filter(unique).cloned().unwrap_or_else(|| format!("output{index}"));
        let data_type = tensors::data_type(&name, &output.tensor).map_err(loading)?;
        Ok(TensorSpec { name, data_type, dims: tensors::dims(&output.tensor).into_iter().map(Some).collect() })
    });
    named.collect()
}

/// A failure of a trial is one of loading.
fn loading(error: EngineError) -> EngineError {
    match error {
        EngineError::Backend(message) | EngineError::Shape(message) => EngineError::Load(message),
        other => other,
    }
}

/// Says what was tried.
fn at(error: EngineError, tried: &str) -> EngineError {
    match error {
        EngineError::Load(message) => EngineError::Load(format!("the module refuses an input of {tried}: {message}")),
        other => other,
    }
}
