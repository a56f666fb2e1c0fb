//! The embedded engine: `rten`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::available_parallelism;

use detectd_engine::{
    Batch, DataType, Engine, EngineError, LoadOptions, Model, ModelSpec, Tensor, TensorData, TensorSpec,
};
use rten::{ModelOptions, NodeId, RunErrorKind, RunOptions, ThreadPool, Value, ValueOrView, ValueView};
use rten_tensor::Layout;

use crate::file::ModelFile;
use crate::{graph, operators};

/// Loads an ONNX file for the CPU.
///
/// # Errors
/// [`EngineError::Load`]: a file that is missing, damaged or no ONNX; operators that the engine lacks, all of them
/// by name; another device than the CPU; a precision that the file does not have; a detector that does not fit.
pub fn load(options: &LoadOptions) -> Result<Arc<dyn Model>, EngineError> {
    let file = ModelFile::read(&options.path)?;
    let spec = graph::spec("onnx", file.graph(), options)?;
    let model = Arc::new(build(file)?);
    let nodes = |specs: &[TensorSpec]| -> Result<Vec<NodeId>, EngineError> {
        let node = |spec: &TensorSpec| model.node_id(&spec.name).map_err(|error| EngineError::Load(error.to_string()));
        specs.iter().map(node).collect()
    };
    let (inputs, outputs) = (nodes(&spec.inputs)?, nodes(&spec.outputs)?);
    Ok(Arc::new(Embedded(Arc::new(Shared { spec, model, inputs, outputs, threads: options.threads }))))
}

fn build(file: ModelFile) -> Result<rten::Model, EngineError> {
    let ModelFile { bytes, model, external } = file;
    if model.graph.as_ref().is_some_and(operators::any_wrong) {
        return Err(lacking(&operators::unsupported(&model)));
    }
    let mut options = ModelOptions::with_all_ops();
    options.prepack_weights(true);
    for (name, bytes) in external {
        options.external_data(&name, bytes);
    }
    parse(&options, bytes.into()).map_err(|error| {
        let unsupported = operators::unsupported(&model);
        if unsupported.is_empty() { EngineError::Load(error) } else { lacking(&unsupported) }
    })
}

fn lacking(operators: &str) -> EngineError {
    EngineError::Load(format!("the onnx engine lacks operators that the model needs: {operators}"))
}

/// Parses a file. A parser of untrusted files may have a panic left in it, which must not end the daemon.
pub fn parse(options: &ModelOptions, bytes: Vec<u8>) -> Result<rten::Model, String> {
    match catch_unwind(AssertUnwindSafe(|| options.load(bytes))) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the loader panicked: the graph is damaged".to_owned()),
    }
}

struct Shared {
    spec: ModelSpec,
    model: Arc<rten::Model>,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
    threads: usize,
}

struct Embedded(Arc<Shared>);

impl Model for Embedded {
    fn spec(&self) -> &ModelSpec {
        &self.0.spec
    }

    fn open(&self) -> Result<Box<dyn Engine>, EngineError> {
        let threads = match self.0.threads {
            0 => available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let pool = Arc::new(ThreadPool::with_num_threads(threads));
        Ok(Box::new(Instance {
            shared: Arc::clone(&self.0),
            options: RunOptions::default().with_thread_pool(Some(pool)),
        }))
    }

    fn resized(&self, max_batch: usize, threads: usize) -> Option<Arc<dyn Model>> {
        let Shared { spec, model, inputs, outputs, .. } = &*self.0;
        let (inputs, outputs) = (inputs.clone(), outputs.clone());
        let spec = spec.with_max_batch(max_batch)?;
        Some(Arc::new(Self(Arc::new(Shared { spec, model: Arc::clone(model), inputs, outputs, threads }))))
    }
}

/// One execution context: its own threads, the weights shared.
struct Instance {
    shared: Arc<Shared>,
    options: RunOptions,
}

impl Engine for Instance {
    fn spec(&self) -> &ModelSpec {
        &self.shared.spec
    }

    fn infer(&mut self, batch: &Batch) -> Result<Vec<Tensor>, EngineError> {
        let Shared { spec, model, inputs, outputs, .. } = &*self.shared;
        spec.accept(batch)?;
        let values = spec.inputs.iter().zip(&batch.inputs).zip(inputs);
        let values = values
            .map(|((spec, tensor), &node)| Ok((node, value(spec, tensor)?)))
            .collect::<Result<Vec<_>, EngineError>>()?;
        let results = model.run(values, outputs, Some(self.options.clone())).map_err(|error| self.failure(&error))?;
        spec.outputs.iter().zip(results).map(|(spec, value)| tensor(spec, value)).collect()
    }
}

impl Instance {
    /// Where the graph leaves dimensions open beside the batch, an operator fails because of the caller's shapes.
    fn failure(&self, error: &rten::RunError) -> EngineError {
        let spec = &self.shared.spec;
        let open = spec.inputs.iter().any(|input| spec.dims_of_item(input).contains(&None));
        match error.kind() {
            RunErrorKind::InvalidInput => EngineError::Shape(error.to_string()),
            RunErrorKind::OperatorError if open => {
                EngineError::Shape(format!("the model cannot be executed with inputs of these shapes: {error}"))
            }
            _ => EngineError::Backend(error.to_string()),
        }
    }
}

/// An input for rten, without a copy unless it is INT64, which rten keeps in 32 bits.
fn value<'a>(spec: &TensorSpec, tensor: &'a Tensor) -> Result<ValueOrView<'a>, EngineError> {
    let shape = tensor.shape();
    let view = match tensor.data() {
        TensorData::Fp32(data) => ValueView::from_shape(shape, data).map_err(mismatch)?.into(),
        TensorData::Int32(data) => ValueView::from_shape(shape, data).map_err(mismatch)?.into(),
        TensorData::Uint8(data) => ValueView::from_shape(shape, data).map_err(mismatch)?.into(),
        TensorData::Int8(data) => ValueView::from_shape(shape, data).map_err(mismatch)?.into(),
        TensorData::Int64(data) => {
            let narrow = |&value: &i64| {
                i32::try_from(value).map_err(|_| {
                    EngineError::Shape(format!("input {}: {value} does not fit the engine's 32 bits", spec.name))
                })
            };
            let data = data.iter().map(narrow).collect::<Result<Vec<_>, _>>()?;
            Value::from_shape(shape, data).map_err(mismatch)?.into()
        }
    };
    Ok(view)
}

fn mismatch(error: impl std::fmt::Display) -> EngineError {
    EngineError::Backend(format!("a tensor holds another number of values than its shape: {error}"))
}

/// An output, in the type that the graph declares.
fn tensor(spec: &TensorSpec, value: Value) -> Result<Tensor, EngineError> {
    let shape = value.shape().to_vec();
    let data = match (spec.data_type, value) {
        (DataType::Fp32, Value::FloatTensor(tensor)) => TensorData::Fp32(tensor.into_data()),
        (DataType::Int32, Value::Int32Tensor(tensor)) => TensorData::Int32(tensor.into_data()),
        (DataType::Int64, Value::Int32Tensor(tensor)) => {
            TensorData::Int64(tensor.into_data().into_iter().map(i64::from).collect())
        }
        (DataType::Uint8, Value::UInt8Tensor(tensor)) => TensorData::Uint8(tensor.into_data()),
        (DataType::Int8, Value::Int8Tensor(tensor)) => TensorData::Int8(tensor.into_data()),
        (expected, other) => {
            return Err(EngineError::Backend(format!(
                "output {} is declared as {expected}, but came as {}",
                spec.name,
                other.dtype()
            )));
        }
    };
    Tensor::new(shape, data)
}
