//! A tensor engine that tests can hold, count and break: it adds one to each value. The first value of each row, its
//! mark, says how the row is treated.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex};

use detectd_engine::{
    Batch, BatchSize, DataType, Device, Engine, EngineError, LoadOptions, Model, ModelSpec, Precision, Stage, Tensor,
    TensorData, TensorSpec,
};

/// The mark of a row that makes the engine fail.
pub const FAIL: u8 = 251;
/// The mark of a row that makes the engine panic.
pub const PANIC: u8 = 252;
/// The mark of a row that makes the engine lose a row of its output.
pub const LOSE: u8 = 253;

/// What a test sees of its engines and does to them.
#[derive(Default)]
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    held: BTreeSet<u8>,
    begun: Vec<Vec<u8>>,
    ended: usize,
}

impl Control {
    /// Executions with a row of this mark wait until the guard is dropped, be it by a test that fails.
    #[must_use]
    pub fn hold(self: &Arc<Self>, mark: u8) -> Hold {
        self.state.lock().unwrap().held.insert(mark);
        Hold { control: Arc::clone(self), mark }
    }

    /// The marks of each execution's rows, in the order in which the executions began.
    pub fn executions(&self) -> Vec<Vec<u8>> {
        self.state.lock().unwrap().begun.clone()
    }

    /// How many executions have ended.
    pub fn ended(&self) -> usize {
        self.state.lock().unwrap().ended
    }

    /// The loader of a model with one input `x` and one output `y` of `dims`, whose first dimension is the batch
    /// unless the manifest says that there is none.
    pub fn loader(
        self: &Arc<Self>,
        dims: &[Option<usize>],
    ) -> impl Fn(&LoadOptions) -> Result<Arc<dyn Model>, EngineError> + Send + Sync + 'static {
        let (control, dims) = (Arc::clone(self), dims.to_vec());
        move |options| {
            let tensor = |name: &str| TensorSpec { name: name.into(), data_type: DataType::Fp32, dims: dims.clone() };
            let batch = match (options.max_batch, dims[0]) {
                (0, _) => BatchSize::Absent,
                (max, None) => BatchSize::UpTo(max),
                (_, Some(size)) => BatchSize::Fixed(size),
            };
            let spec = ModelSpec {
                engine: "adder".into(),
                inputs: vec![tensor("x")],
                outputs: vec![tensor("y")],
                precision: Precision::Fp32,
                device: Device::Cpu,
                batch,
                takes: Stage::Letterboxed,
                detector: None,
            };
            Ok(Arc::new(Adder { spec, control: Arc::clone(&control) }))
        }
    }
}

/// Holds the executions with one mark back.
pub struct Hold {
    control: Arc<Control>,
    mark: u8,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.control.state.lock().unwrap().held.remove(&self.mark);
        self.control.changed.notify_all();
    }
}

#[derive(Clone)]
struct Adder {
    spec: ModelSpec,
    control: Arc<Control>,
}

impl Model for Adder {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn open(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(self.clone()))
    }
}

impl Engine for Adder {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn infer(&mut self, batch: &Batch) -> Result<Vec<Tensor>, EngineError> {
        self.spec.accept(batch)?;
        let x = &batch.inputs[0];
        let TensorData::Fp32(values) = x.data() else { panic!("the spec has floats") };
        let rows = if self.spec.batch == BatchSize::Absent { 1 } else { x.shape()[0] };
        let marks: Vec<u8> = values.chunks(values.len() / rows).map(|row| row[0] as u8).collect();

        let mut state = self.control.state.lock().unwrap();
        state.begun.push(marks.clone());
        let held = |state: &mut State| marks.iter().any(|mark| state.held.contains(mark));
        drop(self.control.changed.wait_while(state, held).unwrap());
        assert!(!marks.contains(&PANIC), "a row that makes the engine panic");
        if marks.contains(&FAIL) {
            return Err(EngineError::Backend("a row that makes the engine fail".into()));
        }
        self.control.state.lock().unwrap().ended += 1;
        let lost = usize::from(marks.contains(&LOSE));
        let shape = [&[x.shape()[0] - lost], &x.shape()[1..]].concat();
        let len = shape.iter().product();
        Ok(vec![Tensor::new(shape, TensorData::Fp32(values[..len].iter().map(|value| value + 1.0).collect()))?])
    }
}
