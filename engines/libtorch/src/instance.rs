//! A loaded model and its instances. The weights are shared; an instance owns nothing but its thread's settings.

use std::sync::Arc;
use std::thread::available_parallelism;

use detectd_engine::{Batch, BatchSize, Engine, EngineError, Model, ModelSpec, Tensor};
use tch::{Device, Kind};

use crate::tensors;

/// What can be computed with: a TorchScript module, or a network.
pub trait Compute: Send + Sync {
    /// The outputs, flat. Called by several threads at once.
    fn compute(&self, inputs: &[tch::Tensor]) -> Result<Vec<Output>, EngineError>;
}

/// One tensor of an outcome.
pub struct Output {
    /// The key that it has in a dictionary.
    pub key: Option<String>,
    /// Its values.
    pub tensor: tch::Tensor,
}

/// A model with everything that is settled when it is loaded.
#[derive(Clone)]
pub struct Loaded {
    /// What it says of itself.
    pub spec: ModelSpec,
    /// What computes.
    pub compute: Arc<dyn Compute>,
    /// Which of its outputs are served, in the order of the spec.
    pub served: Vec<usize>,
    /// Where it runs.
    pub device: Device,
    /// What floats it takes.
    pub float: Kind,
    /// Threads of each instance; 0: one for each core.
    pub threads: usize,
}

/// Lets libtorch compute with so many threads what the calling thread asks of it.
pub fn use_threads(threads: usize) {
    let threads = if threads == 0 { available_parallelism().map_or(1, usize::from) } else { threads };
    // With OpenMP, which libtorch is built with, the number is the calling thread's own.
    tch::set_num_threads(i32::try_from(threads).unwrap_or(1));
}

/// A model to open instances of.
pub struct Shared(pub Arc<Loaded>);

impl Model for Shared {
    fn spec(&self) -> &ModelSpec {
        &self.0.spec
    }

    fn open(&self) -> Result<Box<dyn Engine>, EngineError> {
        use_threads(self.0.threads);
        Ok(Box::new(Instance(Arc::clone(&self.0))))
    }

    fn resized(&self, max_batch: usize, threads: usize) -> Option<Arc<dyn Model>> {
        // A module that was to run single rows was never tried with two, so it may be fixed to one.
        if self.0.spec.batch == BatchSize::UpTo(1) && max_batch > 1 {
            return None;
        }
        let spec = self.0.spec.with_max_batch(max_batch)?;
        Some(Arc::new(Self(Arc::new(Loaded { spec, threads, ..Loaded::clone(&self.0) }))))
    }
}

struct Instance(Arc<Loaded>);

impl Engine for Instance {
    fn spec(&self) -> &ModelSpec {
        &self.0.spec
    }

    fn infer(&mut self, batch: &Batch) -> Result<Vec<Tensor>, EngineError> {
        let Loaded { spec, compute, served, device, float, .. } = &*self.0;
        spec.accept(batch)?;
        let inputs = batch.inputs.iter().map(|tensor| tensors::to_torch(tensor, *device, *float));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let outputs = compute.compute(&inputs).map_err(|error| self.blame(error))?;
        spec.outputs
            .iter()
            .zip(served)
            .map(|(spec, &index)| {
                let output = outputs.get(index).ok_or_else(|| {
                    EngineError::Backend(format!("output {} did not come: there are {}", spec.name, outputs.len()))
                })?;
                let tensor = tensors::from_torch(&spec.name, &output.tensor)?;
                let came = tensor.data().data_type();
                if came == spec.data_type {
                    return Ok(tensor);
                }
                Err(EngineError::Backend(format!("output {} came as {came}, expected {}", spec.name, spec.data_type)))
            })
            .collect()
    }
}

impl Instance {
    /// Where the model leaves dimensions open beside the batch, an operator fails because of the caller's shapes.
    fn blame(&self, error: EngineError) -> EngineError {
        let spec = self.spec();
        let open = spec.inputs.iter().any(|input| spec.dims_of_item(input).contains(&None));
        match error {
            EngineError::Backend(message) if open => {
                EngineError::Shape(format!("the model cannot be executed with inputs of these shapes: {message}"))
            }
            other => other,
        }
    }
}
