//! A detector on a GPU with everything around the network there, too: pictures go in, boxes come out.

use std::sync::Arc;

use detectd_cuda::layout::Number;
use detectd_cuda::{DeviceDetector, DeviceOutput, InputLayout, Launching, Network};
use detectd_engine::{DetectScratch, Detected, Detector, EngineError, ModelSpec, Picture, Tensor, TensorData};
use detectd_vision::{DetectOptions, Letterbox};
use tch::Kind;

use crate::error;
use crate::instance::Loaded;
use crate::script::ffi::{Failure, check, detectd_tensor_address};
use crate::stream::Stream;
use crate::tensors;

/// The kernels and the network of one instance, in one stream.
pub struct OnDevice {
    kernels: DeviceDetector<detectd_cuda::Stream>,
    network: Module,
}

impl OnDevice {
    /// For an instance that works in `stream`.
    pub fn new(device: &Arc<detectd_cuda::Device>, stream: &Stream, loaded: &Arc<Loaded>) -> Result<Self, EngineError> {
        let copies = detectd_cuda::Stream::new(device)?;
        // SAFETY: libtorch works in the primary context of the device, too, and keeps its streams for good.
        #[expect(unsafe_code)]
        let queue = unsafe { detectd_cuda::Stream::borrowed(device, stream.handle()) };
        let pictures = loaded.spec.batch.max();
        let kernels = DeviceDetector::new(copies, queue, &loaded.spec, pictures, Launching::AsGraph)?;
        Ok(Self { kernels, network: Module { loaded: Arc::clone(loaded), input: None, executed: 0 } })
    }

    /// Pictures in, boxes out. The stream is the calling thread's current one.
    pub fn detect(
        &mut self,
        pictures: &[Picture],
        options: &[DetectOptions],
        scratch: &mut DetectScratch,
    ) -> Result<Detected, EngineError> {
        // SAFETY: input and outputs are tensors on the device that live until the answer has come, and libtorch computes
        // in the queue's stream, which is current.
        #[expect(unsafe_code)]
        unsafe {
            self.kernels.detect(&mut self.network, pictures, options, scratch)
        }
    }
}

/// The network between.
struct Module {
    loaded: Arc<Loaded>,
    /// `[executed, H, W, 3]`, and so with its channels last when it is seen as `[executed, 3, H, W]`.
    input: Option<tch::Tensor>,
    executed: usize,
}

/// Outputs in rows without gaps, in the order of the spec.
struct Outputs {
    tensors: Vec<tch::Tensor>,
    shapes: Vec<Vec<usize>>,
}

impl Module {
    fn detector(&self) -> Result<&Detector, EngineError> {
        let detector = self.loaded.spec.detector.as_ref();
        detector.ok_or_else(|| EngineError::Shape("the model is no detector: it takes tensors only".into()))
    }
}

impl Network for Module {
    type Outputs = Outputs;

    fn spec(&self) -> &ModelSpec {
        &self.loaded.spec
    }

    fn input(&mut self, executed: usize) -> Result<InputLayout, EngineError> {
        let preprocess = &self.detector()?.preprocess;
        let (height, width) = (i64::from(preprocess.height), i64::from(preprocess.width));
        let values = executed * preprocess.input_len();
        let (kind, device) = (self.loaded.float, self.loaded.device);
        if self.input.is_none() || self.executed != executed {
            self.input = None;
            // What fills a fixed batch up is zero at first and an old picture later.
            let shape = [i64::try_from(executed).unwrap_or(i64::MAX), height, width, 3];
            self.input = Some(tch::Tensor::f_zeros(shape, (kind, device)).map_err(|error| failure(&error))?);
            self.executed = executed;
        }
        let number = number(kind).ok_or_else(|| EngineError::Backend(format!("an input of {kind:?}")))?;
        let address = self.input.as_ref().map_or(Ok(0), address)?;
        Ok(InputLayout { address, number, interleaved: true, bytes: values * number.bytes() })
    }

    fn run(&mut self, letterboxes: &[Letterbox]) -> Result<Outputs, EngineError> {
        let Loaded { spec, compute, served, device, float, .. } = &*self.loaded;
        let detector = self.detector()?;
        let picture = self.input.as_ref().ok_or_else(|| EngineError::Backend("there is no input".into()))?;
        let inputs =
            (0..spec.inputs.len()).map(|index| match detector.auxiliary.iter().find(|(input, _)| *input == index) {
                None => picture.f_permute([0, 3, 1, 2]).map_err(|error| failure(&error)),
                Some((_, auxiliary)) => {
                    let mut values: Vec<f32> = letterboxes.iter().flat_map(|one| auxiliary.values(one)).collect();
                    values.resize(2 * self.executed, 1.0);
                    let tensor = Tensor::new(vec![self.executed, 2], TensorData::Fp32(values))?;
                    tensors::to_torch(&tensor, *device, *float)
                }
            });
        let outputs = compute.compute(&inputs.collect::<Result<Vec<_>, _>>()?)?;
        let mut chosen = Vec::with_capacity(served.len());
        for (spec, &index) in spec.outputs.iter().zip(served) {
            let output = outputs.get(index).ok_or_else(|| {
                EngineError::Backend(format!("output {} did not come: there are {}", spec.name, outputs.len()))
            })?;
            chosen.push(output.tensor.f_contiguous().map_err(|error| failure(&error))?);
        }
        one_kind(&mut chosen)?;
        let shapes = chosen.iter().map(tensors::dims).collect();
        Ok(Outputs { tensors: chosen, shapes })
    }

    fn on_device<'a>(&'a self, outputs: &'a Outputs) -> Result<Option<Vec<DeviceOutput<'a>>>, EngineError> {
        let mut described = Vec::with_capacity(outputs.tensors.len());
        for ((spec, tensor), shape) in self.loaded.spec.outputs.iter().zip(&outputs.tensors).zip(&outputs.shapes) {
            let kind = tensor.f_kind().map_err(|error| failure(&error))?;
            let Some(number) = number(kind) else { return Ok(None) };
            described.push(DeviceOutput { name: &spec.name, shape, address: address(tensor)?, number });
        }
        Ok(Some(described))
    }

    fn on_host(&self, outputs: &Outputs) -> Result<Vec<Tensor>, EngineError> {
        let named = self.loaded.spec.outputs.iter().zip(&outputs.tensors);
        named.map(|(spec, tensor)| tensors::from_torch(&spec.name, tensor)).collect()
    }
}

/// Floats that differ in kind all become 32-bit ones, which the kernels read as one.
fn one_kind(tensors: &mut [tch::Tensor]) -> Result<(), EngineError> {
    let kinds = tensors.iter().map(|tensor| tensor.f_kind().map_err(|error| failure(&error)));
    let kinds = kinds.collect::<Result<Vec<_>, _>>()?;
    let double = kinds.contains(&Kind::Double);
    if !double && kinds.windows(2).all(|pair| pair[0] == pair[1]) {
        return Ok(());
    }
    for (tensor, kind) in tensors.iter_mut().zip(kinds) {
        if matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Double) {
            *tensor = tensor.f_to_kind(Kind::Float).map_err(|error| failure(&error))?;
        }
    }
    Ok(())
}

fn number(kind: Kind) -> Option<Number> {
    match kind {
        Kind::Float => Some(Number::Float32),
        Kind::Half => Some(Number::Float16),
        Kind::BFloat16 => Some(Number::Bfloat16),
        _ => None,
    }
}

fn address(tensor: &tch::Tensor) -> Result<u64, EngineError> {
    let mut address = 0;
    check(|error| {
        // SAFETY: the tensor lives for the call, and the pointers are valid for it.
        #[expect(unsafe_code)]
        unsafe {
            detectd_tensor_address(tensor.as_ptr().cast(), &raw mut address, error)
        }
    })
    .map_err(Failure::running)?;
    Ok(address)
}

fn failure(error: &tch::TchError) -> EngineError {
    error::failure(&error.to_string())
}
