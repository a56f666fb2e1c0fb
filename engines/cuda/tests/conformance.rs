//! The suite that every engine passes, on an engine whose network runs on the CPU and all else in the kernels: pictures
//! in, boxes out, as on a device.

use std::sync::Arc;

use detectd_conformance::{Suite, onnx};
use detectd_cuda::layout::Number;
use detectd_cuda::{DeviceDetector, DeviceOutput, InputLayout, Launching, Network};
use detectd_cuda_emulation::Emulation;
use detectd_engine::{
    Batch, DetectScratch, Detected, Detector, Device, Engine, EngineError, LoadOptions, Model, ModelSpec, Picture,
    Stage, Tensor, TensorData,
};
use detectd_vision::{DetectOptions, Letterbox};

/// A model of the embedded engine that takes decoded pictures.
struct Emulated {
    model: Arc<dyn Model>,
    spec: ModelSpec,
    launching: Launching,
}

impl Model for Emulated {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn open(&self) -> Result<Box<dyn Engine>, EngineError> {
        let network = OnCpu { engine: self.model.open()?, spec: self.spec.clone(), input: Vec::new(), executed: 0 };
        let device = match self.spec.detector {
            Some(_) => {
                let (copies, queue) = (Emulation::new(3), Emulation::new(5));
                Some(DeviceDetector::new(copies, queue, &self.spec, self.spec.batch.max(), self.launching)?)
            }
            None => None,
        };
        Ok(Box::new(Instance { network, device }))
    }
}

struct Instance {
    network: OnCpu,
    device: Option<DeviceDetector<Emulation>>,
}

impl Engine for Instance {
    fn spec(&self) -> &ModelSpec {
        &self.network.spec
    }

    fn infer(&mut self, batch: &Batch) -> Result<Vec<Tensor>, EngineError> {
        self.network.engine.infer(batch)
    }

    fn detect(
        &mut self,
        pictures: &[Picture],
        options: &[DetectOptions],
        scratch: &mut DetectScratch,
    ) -> Result<Detected, EngineError> {
        let Some(device) = &mut self.device else {
            return Err(EngineError::Shape("the model is no detector: it takes tensors only".into()));
        };
        // SAFETY: the network's input and outputs are vectors, which are the emulated device's memory as any.
        #[expect(unsafe_code)]
        unsafe {
            device.detect(&mut self.network, pictures, options, scratch)
        }
    }
}

/// The network, with its input and outputs in the host's memory.
struct OnCpu {
    engine: Box<dyn Engine>,
    spec: ModelSpec,
    input: Vec<f32>,
    executed: usize,
}

impl OnCpu {
    fn detector(&self) -> &Detector {
        self.spec.detector.as_ref().expect("only detectors are run so")
    }
}

impl Network for OnCpu {
    type Outputs = Vec<Tensor>;

    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn input(&mut self, executed: usize) -> Result<InputLayout, EngineError> {
        self.executed = executed;
        let length = executed * self.detector().preprocess.input_len();
        // Another place every time: nothing may remember the last one.
        self.input = vec![0.0; length];
        let address = self.input.as_mut_ptr() as u64;
        Ok(InputLayout { address, number: Number::Float32, interleaved: false, bytes: length * 4 })
    }

    fn run(&mut self, letterboxes: &[Letterbox]) -> Result<Vec<Tensor>, EngineError> {
        let detector = self.detector();
        let (width, height) = (detector.preprocess.width as usize, detector.preprocess.height as usize);
        let inputs = (0..self.spec.inputs.len()).map(|index| {
            match detector.auxiliary.iter().find(|(input, _)| *input == index) {
                None => Tensor::new(vec![self.executed, 3, height, width], TensorData::Fp32(self.input.clone())),
                Some((_, auxiliary)) => {
                    let mut values: Vec<f32> = letterboxes.iter().flat_map(|one| auxiliary.values(one)).collect();
                    values.resize(2 * self.executed, 1.0);
                    Tensor::new(vec![self.executed, 2], TensorData::Fp32(values))
                }
            }
        });
        let batch = Batch { inputs: inputs.collect::<Result<_, _>>()? };
        self.engine.infer(&batch)
    }

    fn on_device<'a>(&'a self, outputs: &'a Vec<Tensor>) -> Result<Option<Vec<DeviceOutput<'a>>>, EngineError> {
        let described = self.spec.outputs.iter().zip(outputs).map(|(spec, tensor)| match tensor.data() {
            TensorData::Fp32(values) => {
                let (name, shape, address) = (&*spec.name, tensor.shape(), values.as_ptr() as u64);
                Some(DeviceOutput { name, shape, address, number: Number::Float32 })
            }
            _ => None,
        });
        Ok(described.collect())
    }

    fn on_host(&self, outputs: &Vec<Tensor>) -> Result<Vec<Tensor>, EngineError> {
        Ok(outputs.clone())
    }
}

fn conforms(launching: Launching) {
    if !detectd_cuda_emulation::AVAILABLE {
        println!("SKIPPED: there was no C++ compiler to compile the kernels with");
        return;
    }
    let load = |options: &LoadOptions| -> Result<Arc<dyn Model>, EngineError> {
        let model = detectd_onnx::load(options)?;
        let spec = ModelSpec { takes: Stage::Decoded, ..model.spec().clone() };
        Ok(Arc::new(Emulated { model, spec, launching }))
    };
    let write: &detectd_conformance::Write<'_> = &onnx::write;
    Suite { engine: "onnx", load: &load, write, extension: "onnx", device: Device::Cpu, tolerance: 1e-4 }.run();
}

#[test]
fn an_engine_with_the_kernels_around_it_conforms() {
    conforms(Launching::Plainly);
}

#[test]
fn an_engine_with_recorded_kernels_around_it_conforms() {
    conforms(Launching::AsGraph);
}
