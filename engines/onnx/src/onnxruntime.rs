//! ONNX Runtime on the CPU. Its library is no part of the program: it is loaded when it is first needed.
//!
//! Each instance has a session of its own, with its own threads. The weights are not shared between sessions: ONNX
//! Runtime lays out those of convolutions anew for each of them.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use detectd_engine::{
    Batch, DataType, Engine, EngineError, LoadOptions, Model, ModelSpec, Tensor, TensorData, TensorSpec,
};
use ort::environment::Environment;
use ort::session::builder::SessionBuilder;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, TensorRef};
use prost::bytes::Bytes;

use crate::file::ModelFile;
use crate::graph;

/// The environment variable that names the library.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// Where `setup-onnxruntime.sh` puts the library, in the folder that it is called for.
const INSTALLED: &str = ".onnxruntime/libonnxruntime.so";

/// The one environment of the process.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// Loads the library from `path`. Without this call, the first [`load`] looks for it where [`LIBRARY_VARIABLE`]
/// says, or in `.onnxruntime/` in the working directory and beside the program. Once it is loaded, another call has
/// no effect: a process has one.
///
/// # Errors
/// [`EngineError::Load`] that says where the library was looked for, or that it is too old.
pub fn load_library(path: &Path) -> Result<(), EngineError> {
    environment(&[path.to_path_buf()]).map(drop)
}

fn environment(candidates: &[PathBuf]) -> Result<Environment, EngineError> {
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = &*environment {
        return Ok(environment.clone());
    }
    let Some(path) = candidates.iter().find(|path| path.is_file()) else {
        let looked_for: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
        return Err(EngineError::Load(format!(
            "the library of ONNX Runtime is missing: looked for {}; run `make onnxruntime`, or name it in \
             {LIBRARY_VARIABLE}",
            looked_for.join(" and ")
        )));
    };
    let failure = |error: String| EngineError::Load(format!("ONNX Runtime in {}: {error}", path.display()));
    let builder = ort::init_from(path).map_err(|error| failure(error.to_string()))?;
    let made =
        builder.with_name("detectd").with_telemetry(false).build().map_err(|error| failure(error.to_string()))?;
    Ok(environment.insert(made).clone())
}

fn default_candidates() -> Vec<PathBuf> {
    if let Some(path) = env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty()) {
        return vec![path.into()];
    }
    let beside = env::current_exe().ok().and_then(|program| Some(program.parent()?.to_path_buf()));
    [env::current_dir().ok(), beside].into_iter().flatten().map(|folder| folder.join(INSTALLED)).collect()
}

/// Loads an ONNX file for the CPU.
///
/// # Errors
/// [`EngineError::Load`]: the library is missing; a file that is missing, damaged or no ONNX; an operator that ONNX
/// Runtime lacks; another device than the CPU; a precision that the file does not have; a detector that does not fit.
pub fn load(options: &LoadOptions) -> Result<Arc<dyn Model>, EngineError> {
    let environment = environment(&default_candidates())?;
    let file = ModelFile::read(&options.path)?;
    let spec = graph::spec("onnxruntime", file.graph(), options)?;
    let external = file.external.into_iter().map(|(name, bytes)| (name, Arc::from(bytes))).collect();
    let shared = Shared { environment, spec, bytes: file.bytes, external, threads: options.threads };
    // What ONNX Runtime refuses is to be known now; the first instance gets this session.
    let first = shared.session().map_err(|error| EngineError::Load(error.to_string()))?;
    Ok(Arc::new(Runtime { shared: Arc::new(shared), first: Mutex::new(Some(first)) }))
}

struct Shared {
    environment: Environment,
    spec: ModelSpec,
    bytes: Bytes,
    external: Vec<(String, Arc<[u8]>)>,
    threads: usize,
}

impl Shared {
    fn session(&self) -> ort::Result<Session> {
        let mut builder = SessionBuilder::new(&self.environment)?
            .with_execution_providers([ort::ep::CPU::default().build()])?
            .with_intra_threads(self.threads)?
            // Waiting threads that spin take the cores from decoding and from the other instances.
            .with_intra_op_spinning(false)?;
        for (name, bytes) in &self.external {
            builder = builder.with_external_initializer_file_in_memory(name, Arc::clone(bytes))?;
        }
        builder.commit_from_memory(&self.bytes)
    }
}

struct Runtime {
    shared: Arc<Shared>,
    first: Mutex<Option<Session>>,
}

impl Model for Runtime {
    fn spec(&self) -> &ModelSpec {
        &self.shared.spec
    }

    fn open(&self) -> Result<Box<dyn Engine>, EngineError> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let session = match first {
            Some(session) => session,
            None => self.shared.session().map_err(|error| EngineError::Backend(error.to_string()))?,
        };
        Ok(Box::new(Instance { shared: Arc::clone(&self.shared), session }))
    }

    fn resized(&self, max_batch: usize, threads: usize) -> Option<Arc<dyn Model>> {
        let Shared { environment, spec, bytes, external, .. } = &*self.shared;
        let spec = spec.with_max_batch(max_batch)?;
        let (environment, bytes, external) = (environment.clone(), bytes.clone(), external.clone());
        let shared = Shared { environment, spec, bytes, external, threads };
        Some(Arc::new(Self { shared: Arc::new(shared), first: Mutex::new(None) }))
    }
}

/// One execution context.
struct Instance {
    shared: Arc<Shared>,
    session: Session,
}

impl Engine for Instance {
    fn spec(&self) -> &ModelSpec {
        &self.shared.spec
    }

    fn infer(&mut self, batch: &Batch) -> Result<Vec<Tensor>, EngineError> {
        let spec = &self.shared.spec;
        spec.accept(batch)?;
        let failure = |error: ort::Error| failure(spec, &error);
        let mut values = Vec::with_capacity(batch.inputs.len());
        for (spec, tensor) in spec.inputs.iter().zip(&batch.inputs) {
            values.push((spec.name.as_str(), value(tensor).map_err(failure)?));
        }
        let mut outputs = self.session.run(values).map_err(failure)?;
        let mut tensors = Vec::with_capacity(spec.outputs.len());
        for output in &spec.outputs {
            let value = outputs
                .remove(&output.name)
                .ok_or_else(|| EngineError::Backend(format!("output {} did not come", output.name)))?;
            tensors.push(tensor(output, &value)?);
        }
        Ok(tensors)
    }
}

fn failure(spec: &ModelSpec, error: &ort::Error) -> EngineError {
    let message = error.to_string();
    // Where the graph leaves dimensions open beside the batch, an operator fails because of the caller's shapes.
    let open = spec.inputs.iter().any(|input| spec.dims_of_item(input).contains(&None));
    if message.contains("Failed to allocate memory") {
        EngineError::OutOfMemory(message)
    } else if open {
        EngineError::Shape(format!("the model cannot be executed with inputs of these shapes: {message}"))
    } else {
        EngineError::Backend(message)
    }
}

/// An input that borrows the caller's values.
fn value(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>> {
    let shape = tensor.shape();
    Ok(match tensor.data() {
        TensorData::Fp32(data) => TensorRef::from_array_view((shape, &data[..]))?.into(),
        TensorData::Int32(data) => TensorRef::from_array_view((shape, &data[..]))?.into(),
        TensorData::Int64(data) => TensorRef::from_array_view((shape, &data[..]))?.into(),
        TensorData::Uint8(data) => TensorRef::from_array_view((shape, &data[..]))?.into(),
        TensorData::Int8(data) => TensorRef::from_array_view((shape, &data[..]))?.into(),
    })
}

fn tensor(spec: &TensorSpec, value: &DynValue) -> Result<Tensor, EngineError> {
    match spec.data_type {
        DataType::Fp32 => extract(spec, value, TensorData::Fp32),
        DataType::Int32 => extract(spec, value, TensorData::Int32),
        DataType::Int64 => extract(spec, value, TensorData::Int64),
        DataType::Uint8 => extract(spec, value, TensorData::Uint8),
        DataType::Int8 => extract(spec, value, TensorData::Int8),
    }
}

fn extract<T: ort::value::PrimitiveTensorElementType + Copy>(
    spec: &TensorSpec,
    value: &DynValue,
    wrap: impl FnOnce(Vec<T>) -> TensorData,
) -> Result<Tensor, EngineError> {
    let backend = |error: &dyn std::fmt::Display| EngineError::Backend(format!("output {}: {error}", spec.name));
    let (shape, data) = value.try_extract_tensor::<T>().map_err(|error| backend(&error))?;
    let shape =
        shape.iter().map(|&dim| usize::try_from(dim)).collect::<Result<_, _>>().map_err(|error| backend(&error))?;
    Tensor::new(shape, wrap(data.to_vec()))
}
