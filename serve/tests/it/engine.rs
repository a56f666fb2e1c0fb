//! An engine that tests can hold, count and break. It reads the pictures' first pixel: its red is the class, and some
//! colours make it fail.

use std::path::Path;
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
    loaded: Mutex<usize>,
    opened: Mutex<usize>,
    broken: Mutex<bool>,
    room: Mutex<Option<usize>>,
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

    /// How many times a model was loaded.
    pub fn loaded(&self) -> usize {
        *self.loaded.lock().unwrap()
    }

    /// Executions of more pictures than this have no memory from now on.
    pub fn leave_room_for(&self, pictures: usize) {
        *self.room.lock().unwrap() = Some(pictures);
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
            let behaviour = Behaviour::read(&options.path);
            behaviour.load()?;
            *control.loaded.lock().unwrap() += 1;
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
            Ok(Arc::new(ControlledModel { spec, behaviour, control: Arc::clone(&control) }))
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

/// What the model's file asks for, a word and a number a line: `load_fails`, `load_panics`, `load_takes 300`,
/// `warm_up_fails`, `takes 5` (milliseconds an execution), `fails 3` (every third execution), `moves_boxes`.
#[derive(Clone, Debug, Default)]
struct Behaviour(String);

impl Behaviour {
    fn read(path: &Path) -> Self {
        Self(std::fs::read_to_string(path).unwrap_or_default())
    }

    fn asks(&self, word: &str) -> Option<u64> {
        let line = self.0.lines().find(|line| line.split(' ').next() == Some(word))?;
        Some(line.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or(1))
    }

    fn load(&self) -> Result<(), EngineError> {
        if let Some(milliseconds) = self.asks("load_takes") {
            std::thread::sleep(Duration::from_millis(milliseconds));
        }
        assert!(self.asks("load_panics").is_none(), "the file wants the loader to panic");
        match self.asks("load_fails") {
            Some(_) => Err(EngineError::Load("the file wants the loader to fail".into())),
            None => Ok(()),
        }
    }
}

struct ControlledModel {
    spec: ModelSpec,
    behaviour: Behaviour,
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
        Ok(Box::new(ControlledEngine {
            spec: self.spec.clone(),
            behaviour: self.behaviour.clone(),
            executions: 0,
            control: Arc::clone(&self.control),
        }))
    }

    fn resized(&self, max_batch: usize, _: usize) -> Option<Arc<dyn Model>> {
        let (behaviour, control) = (self.behaviour.clone(), Arc::clone(&self.control));
        Some(Arc::new(Self { spec: self.spec.with_max_batch(max_batch)?, behaviour, control }))
    }
}

struct ControlledEngine {
    spec: ModelSpec,
    behaviour: Behaviour,
    executions: u64,
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
        if let Some(milliseconds) = self.behaviour.asks("takes") {
            std::thread::sleep(Duration::from_millis(milliseconds));
        }
        self.executions += 1;
        if self.control.room.lock().unwrap().is_some_and(|room| pictures.len() > room) {
            return Err(EngineError::OutOfMemory(format!("no room for {} pictures", pictures.len())));
        }
        if self.behaviour.asks("warm_up_fails").is_some() {
            return Err(EngineError::Backend("the file wants executions to fail".into()));
        }
        // The warm-up's executions are the first ones.
        if self
            .behaviour
            .asks("fails")
            .is_some_and(|every| self.executions > 8 && self.executions.is_multiple_of(every))
        {
            return Err(EngineError::Backend("the file wants some executions to fail".into()));
        }
        let mut detections = Vec::new();
        for (picture, options) in pictures.iter().zip(options) {
            let Picture::Decoded(image) = picture else { panic!("asked for decoded pictures") };
            let rgb = [image.pixels()[0], image.pixels()[1], image.pixels()[2]];
            self.control.classes.lock().unwrap().push(rgb[0]);
            assert!(rgb != PANIC, "a picture that makes the engine panic");
            if rgb == FAIL {
                return Err(EngineError::Backend("a picture that makes the engine fail".into()));
            }
            let shift = if self.behaviour.asks("moves_boxes").is_some() { image.width() as f32 } else { 0.0 };
            let bbox = BoundingBox::new(shift, 0.0, shift + image.width() as f32, image.height() as f32);
            let class_id = u32::from(rgb[0]).min(CLASSES as u32 - 1);
            let found = Detection { class_id, score: f32::from(rgb[1]) / 255.0, bbox };
            let kept = found.score >= options.score_threshold && options.allows(class_id);
            detections.push(if kept { vec![found] } else { Vec::new() });
        }
        Ok(Detected { detections, compute: Duration::from_micros(10), ..Detected::default() })
    }
}
