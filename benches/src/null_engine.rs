//! A model that does nothing: it takes encoded pictures as they come and finds no objects. What is left is the cost of
//! the daemon itself.

use std::sync::Arc;

use detectd_engine::{
    Batch, BatchSize, DetectScratch, Detected, Detector, Device, Engine, EngineError, LoadOptions, Model, ModelSpec,
    Picture, Precision, Stage, Tensor,
};
use detectd_vision::{DetectOptions, Head, Preprocess};

struct Null {
    spec: ModelSpec,
}

/// The loader to register with the daemon.
///
/// # Errors
/// None.
pub fn load(options: &LoadOptions) -> Result<Arc<dyn Model>, EngineError> {
    Ok(Arc::new(Null { spec: spec(options.max_batch) }))
}

fn spec(max_batch: usize) -> ModelSpec {
    ModelSpec {
        engine: "null".into(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        precision: Precision::Fp32,
        device: Device::Cpu,
        batch: BatchSize::UpTo(max_batch),
        takes: Stage::Encoded,
        detector: Some(Detector {
            family: None,
            classes: 1,
            preprocess: Preprocess::yolov5(32, 32),
            head: Head::EndToEnd,
            image_input: 0,
            auxiliary: Vec::new(),
        }),
    }
}

impl Model for Null {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn open(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(Self { spec: self.spec.clone() }))
    }
}

impl Engine for Null {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn infer(&mut self, _: &Batch) -> Result<Vec<Tensor>, EngineError> {
        Ok(Vec::new())
    }

    fn detect(
        &mut self,
        pictures: &[Picture],
        _: &[DetectOptions],
        _: &mut DetectScratch,
    ) -> Result<Detected, EngineError> {
        Ok(Detected { detections: vec![Vec::new(); pictures.len()], ..Detected::default() })
    }
}
