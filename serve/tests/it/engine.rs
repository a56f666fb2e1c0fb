//! An engine that tests can hold, count and break. It reads the pictures' first pixel: its red is the class, and some
//! colours make it fail.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use detectd_engine::{
    Batch, BatchSize, DetectScratch, Detected, Detector, Device, Engine, EngineError, LoadOptions, Model, ModelSpec,
    Picture, Precision, Stage, Tensor,
};
use detectd_vision::{BoundingBox, DetectOptions, Detection, Head, Preprocess};

/// Makes the engine panic.
pub const PANIC: [u8; 3] = [255, 0, 255];
/// Makes the engine fail.
pub const FAIL: [u8; 3] = [255, 255, 0];
/// Classes: red is below this.
pub const CLASSES: usize = 4;

/// What a test sees of its engines and does to them.
#[derive(Default)]
pub struct Control {
    held: Mutex<bool>,
    changed: Condvar,
    executions: Mutex<Vec<usize>>,
    classes: Mutex<Vec<u8>>,
    opened: Mutex<usize>,
    broken: Mutex<bool>,
}

impl Control {
    /// Executions wait until the guard is dropped, be it by a test that fails.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Hold {
        *self.held.lock().unwrap() = true;
        Hold(Arc::clone(self))
    }

    /// The red of every picture run, in order.
    pub fn classes(&self) -> Vec<u8> {
        self.classes.lock().unwrap().clone()
    }

    /// No engine can be opened from now on.
    pub fn break_opening(&self) {
        *self.broken.lock().unwrap() = true;
    }

    /// How many times an engine was opened.
    pub fn opened(&self) -> usize {
        *self.opened.lock().unwrap()
    }

    /// The sizes of the executions begun since the last call, those of the warm-up included.
    pub fn take_executions(&self) -> Vec<usize> {
        std::mem::take(&mut self.executions.lock().unwrap())
    }

    /// The number of executions begun since the last [`Control::take_executions`].
    pub fn execution_count(&self) -> usize {
        self.executions.lock().unwrap().len()
    }

    /// The loader to register with the daemon.
    pub fn loader(
        self: &Arc<Self>,
    ) -> impl Fn(&LoadOptions) -> Result<Arc<dyn Model>, EngineError> + Send + Sync + 'static {
        let control = Arc::clone(self);
        move |options| {
            let spec = ModelSpec {
                engine: "controlled".into(),
                inputs: Vec::new(),
                outputs: Vec::new(),
                precision: Precision::Fp32,
                device: Device::Cpu,
                batch: BatchSize::UpTo(options.max_batch),
                takes: Stage::Decoded,
                detector: Some(Detector {
                    family: None,
                    classes: CLASSES,
                    preprocess: Preprocess::yolov5(32, 32),
                    head: Head::EndToEnd,
                    image_input: 0,
                    auxiliary: Vec::new(),
                }),
            };
            Ok(Arc::new(ControlledModel { spec, control: Arc::clone(&control) }))
        }
    }
}

/// Holds every execution back.
pub struct Hold(Arc<Control>);

impl Drop for Hold {
    fn drop(&mut self) {
        *self.0.held.lock().unwrap() = false;
        self.0.changed.notify_all();
    }
}

struct ControlledModel {
    spec: ModelSpec,
    control: Arc<Control>,
}

impl Model for ControlledModel {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn open(&self) -> Result<Box<dyn Engine>, EngineError> {
        if *self.control.broken.lock().unwrap() {
            return Err(EngineError::Backend("the test wants no more engines".into()));
        }
        *self.control.opened.lock().unwrap() += 1;
        Ok(Box::new(ControlledEngine { spec: self.spec.clone(), control: Arc::clone(&self.control) }))
    }
}

struct ControlledEngine {
    spec: ModelSpec,
    control: Arc<Control>,
}

impl Engine for ControlledEngine {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn infer(&mut self, _: &Batch) -> Result<Vec<Tensor>, EngineError> {
        Err(EngineError::Backend("takes pictures only".into()))
    }

    fn detect(
        &mut self,
        pictures: &[Picture],
        options: &[DetectOptions],
        _: &mut DetectScratch,
    ) -> Result<Detected, EngineError> {
        self.control.executions.lock().unwrap().push(pictures.len());
        let held = self.control.held.lock().unwrap();
        drop(self.control.changed.wait_while(held, |held| *held).unwrap());
        let mut detections = Vec::new();
        for (picture, options) in pictures.iter().zip(options) {
            let Picture::Decoded(image) = picture else { panic!("asked for decoded pictures") };
            let rgb = [image.pixels()[0], image.pixels()[1], image.pixels()[2]];
            self.control.classes.lock().unwrap().push(rgb[0]);
            assert!(rgb != PANIC, "a picture that makes the engine panic");
            if rgb == FAIL {
                return Err(EngineError::Backend("a picture that makes the engine fail".into()));
            }
            let bbox = BoundingBox::new(0.0, 0.0, image.width() as f32, image.height() as f32);
            let class_id = u32::from(rgb[0]).min(CLASSES as u32 - 1);
            let found = Detection { class_id, score: f32::from(rgb[1]) / 255.0, bbox };
            let kept = found.score >= options.score_threshold && options.allows(class_id);
            detections.push(if kept { vec![found] } else { Vec::new() });
        }
        Ok(Detected { detections, compute: Duration::from_micros(10), ..Detected::default() })
    }
}
