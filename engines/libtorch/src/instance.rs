//! A loaded model and its instances. The weights are shared; an instance owns nothing but its thread's settings.

use std::sync::Arc;
use std::thread::available_parallelism;

use detectd_engine::{
    Batch, BatchSize, DetectScratch, Detected, Engine, EngineError, Model, ModelSpec, Picture, Stage, Tensor,
    detect_by_infer,
};
use detectd_vision::DetectOptions;
use tch::{Device, Kind};

use crate::on_device::OnDevice;
use crate::stream::Stream;
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

impl Loaded {
    /// To open instances of. Around a detector on a GPU, the device prepares the pictures and makes the boxes.
    pub fn shared(mut self, device: detectd_engine::Device) -> Result<Arc<dyn Model>, EngineError> {
        let kernels = match device {
            detectd_engine::Device::Cuda(ordinal) if self.spec.detector.is_some() => {
                self.spec.takes = Stage::Decoded;
                Some(detectd_cuda::Device::open(ordinal)?)
            }
            _ => None,
        };
        Ok(Arc::new(Shared { loaded: Arc::new(self), kernels }))
    }
}

/// A model to open instances of.
struct Shared {
    loaded: Arc<Loaded>,
    /// The device with the kernels around a detector.
    kernels: Option<Arc<detectd_cuda::Device>>,
}

impl Model for Shared {
    fn spec(&self) -> &ModelSpec {
        &self.loaded.spec
    }

    fn open(&self) -> Result<Box<dyn Engine>, EngineError> {
        use_threads(self.loaded.threads);
        let stream = match self.loaded.device {
            Device::Cuda(ordinal) => Some(Stream::new(ordinal)?),
            _ => None,
        };
        let on_device = match (&self.kernels, &stream) {
            (Some(kernels), Some(stream)) => Some(OnDevice::new(kernels, stream, &self.loaded)?),
            _ => None,
        };
        Ok(Box::new(Instance { on_device, stream, loaded: Arc::clone(&self.loaded) }))
    }

    fn resized(&self, max_batch: usize, threads: usize) -> Option<Arc<dyn Model>> {
        // A module that was to run single rows was never tried with two, so it may be fixed to one.
        if self.loaded.spec.batch == BatchSize::UpTo(1) && max_batch > 1 {
            return None;
        }
        let spec = self.loaded.spec.with_max_batch(max_batch)?;
        let loaded = Arc::new(Loaded { spec, threads, ..Loaded::clone(&self.loaded) });
        Some(Arc::new(Self { loaded, kernels: self.kernels.clone() }))
    }
}

struct Instance {
    /// Ends before the stream that it works in.
    on_device: Option<OnDevice>,
    stream: Option<Stream>,
    loaded: Arc<Loaded>,
}

impl Engine for Instance {
    fn spec(&self) -> &ModelSpec {
        &self.loaded.spec
    }

    fn infer(&mut self, batch: &Batch) -> Result<Vec<Tensor>, EngineError> {
        let Loaded { spec, compute, served, device, float, .. } = &*self.loaded;
        spec.accept(batch)?;
        self.stream.as_ref().map_or(Ok(()), Stream::make_current)?;
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

    fn detect(
        &mut self,
        pictures: &[Picture],
        options: &[DetectOptions],
        scratch: &mut DetectScratch,
    ) -> Result<Detected, EngineError> {
        let (Some(on_device), Some(stream)) = (&mut self.on_device, &self.stream) else {
            return detect_by_infer(self, pictures, options, scratch);
        };
        stream.make_current()?;
        on_device.detect(pictures, options, scratch)
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
