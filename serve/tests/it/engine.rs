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
    held: Mutex<Held>,
    changed: Condvar,
    executions: Mutex<Vec<usize>>,
    classes: Mutex<Vec<u8>>,
    loaded: Mutex<usize>,
    opened: Mutex<usize>,
    broken: Mutex<bool>,
    room: Mutex<Option<usize>>,
    alive: Mutex<usize>,
}

/// What waits for the test.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    executions: bool,
    waiting_executions: bool,
    loads: bool,
}

impl Control {
    /// Executions wait until the guard is dropped, be it by a test that fails.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.hold_back(|held| &mut held.executions)
    }

    /// The same for those of the models whose file says `waits`.
    #[must_use]
    pub fn hold_waiting(self: &Arc<Self>) -> Hold {
        self.hold_back(|held| &mut held.waiting_executions)
    }

    /// The same for the loading of models whose file says `load_waits`.
    #[must_use]
    pub fn hold_loads(self: &Arc<Self>) -> Hold {
        self.hold_back(|held| &mut held.loads)
    }

    fn hold_back(self: &Arc<Self>, what: fn(&mut Held) -> &mut bool) -> Hold {
        *what(&mut self.held.lock().unwrap()) = true;
        Hold { control: Arc::clone(self), what }
    }

    fn wait_while(&self, held: impl Fn(&Held) -> bool) {
        let state = self.held.lock().unwrap();
        drop(self.changed.wait_while(state, |state| held(state)).unwrap());
    }

    /// Loaded models whose memory is not free again.
    pub fn alive(&self) -> usize {
        *self.alive.lock().unwrap()
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
            if behaviour.asks("load_waits").is_some() {
                control.wait_while(|held| held.loads);
            }
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
            Ok(Arc::new(ControlledModel::new(spec, behaviour, &control)))
        }
    }
}

/// Holds something back.
pub struct Hold {
    control: Arc<Control>,
    what: fn(&mut Held) -> &mut bool,
}

impl Drop for Hold {
    fn drop(&mut self) {
        *(self.what)(&mut self.control.held.lock().unwrap()) = false;
        self.control.changed.notify_all();
    }
}

/// What the model's file asks for, a word and a number a line: `load_fails`, `load_panics`, `load_waits` (for the test),
/// `warm_up_fails`, `takes 5` (milliseconds an execution), `fails 3` (every third execution), `fails_at 2` (pictures with
/// so much red), `moves_boxes`, `waits` (executions do, for the test).
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

impl ControlledModel {
    fn new(spec: ModelSpec, behaviour: Behaviour, control: &Arc<Control>) -> Self {
        *control.alive.lock().unwrap() += 1;
        Self { spec, behaviour, control: Arc::clone(control) }
    }
}

impl Drop for ControlledModel {
    fn drop(&mut self) {
        *self.control.alive.lock().unwrap() -= 1;
    }
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
        let spec = self.spec.with_max_batch(max_batch)?;
        Some(Arc::new(Self::new(spec, self.behaviour.clone(), &self.control)))
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
        let waits = self.behaviour.asks("waits").is_some();
        self.control.wait_while(|held| held.executions || (waits && held.waiting_executions));
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
            if rgb == FAIL || self.behaviour.asks("fails_at") == Some(rgb[0].into()) {
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
