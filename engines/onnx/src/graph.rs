//! What a graph declares of its inputs and outputs.

use detectd_engine::{BatchSize, DataType, Detector, Device, EngineError, LoadOptions, ModelSpec, Stage, TensorSpec};

use crate::precision;
use crate::proto::{self, data_type};

/// The spec of a file that is run by `engine` on the CPU.
///
/// # Errors
/// [`EngineError::Load`]: another device, a precision that the file does not have, inputs or outputs that cannot be
/// served, a detector that does not fit.
pub fn spec(engine: &str, graph: &proto::Graph, options: &LoadOptions) -> Result<ModelSpec, EngineError> {
    if options.device != Device::Cpu {
        return Err(EngineError::Load(format!("the {engine} engine runs on the cpu, not on {}", options.device)));
    }
    if !(options.inputs.is_empty() && options.outputs.is_empty()) {
        return Err(EngineError::Load(
            "an ONNX file declares its tensors: leave `inputs` and `outputs` out of the manifest".into(),
        ));
    }
    precision::check(graph, options.precision)?;
    let (inputs, outputs) = (inputs(graph)?, outputs(graph)?);
    let detector = options.detector.as_ref().map(|wanted| Detector::resolve(wanted, &inputs, &outputs)).transpose()?;
    Ok(ModelSpec {
        engine: engine.into(),
        precision: precision::executed(graph),
        device: Device::Cpu,
        batch: batch(&inputs, options)?,
        takes: Stage::Letterboxed,
        detector,
        inputs,
        outputs,
    })
}

/// The inputs that a caller gives: those without a value of their own.
fn inputs(graph: &proto::Graph) -> Result<Vec<TensorSpec>, EngineError> {
    let given = |value: &&proto::ValueInfo| graph.initializer.iter().all(|tensor| tensor.name != value.name);
    let inputs = graph.input.iter().filter(given).map(|value| tensor("input", value)).collect::<Result<Vec<_>, _>>()?;
    match inputs.iter().find(|input| input.dims.contains(&Some(0))) {
        Some(input) => Err(EngineError::Load(format!("input {} can hold nothing: {input}", input.name))),
        None => Ok(inputs),
    }
}

/// The outputs.
fn outputs(graph: &proto::Graph) -> Result<Vec<TensorSpec>, EngineError> {
    if graph.output.is_empty() {
        return Err(EngineError::Load("the graph has no output".into()));
    }
    graph.output.iter().map(|value| tensor("output", value)).collect()
}

/// The batch is the first dimension of each input: fixed in all, or open in all. A model that is no detector may have
/// none.
fn batch(inputs: &[TensorSpec], options: &LoadOptions) -> Result<BatchSize, EngineError> {
    const WITHOUT: &str = "a tensor model without a batch says `max_batch_size = 0` in the manifest";
    let Some(first) = inputs.first() else {
        return Err(EngineError::Load("the graph has no input".into()));
    };
    if options.max_batch == 0 {
        return match &options.detector {
            None => Ok(BatchSize::Absent),
            Some(_) => Err(EngineError::Load("the largest batch of a detector must be at least 1, not 0".into())),
        };
    }
    for input in inputs {
        if input.dims.is_empty() {
            return Err(EngineError::Load(format!("input {} is a scalar: it has no batch; {WITHOUT}", input.name)));
        }
        if input.dims[0] != first.dims[0] {
            return Err(EngineError::Load(format!(
                "the first dimension of each input is the batch, but {}: {first} and {}: {input} differ in it; \
                 {WITHOUT}",
                first.name, input.name
            )));
        }
    }
    Ok(first.dims[0].map_or(BatchSize::UpTo(options.max_batch), BatchSize::Fixed))
}

fn tensor(kind: &str, value: &proto::ValueInfo) -> Result<TensorSpec, EngineError> {
    let name = &value.name;
    let Some(tensor) = value.r#type.as_ref().and_then(|value| value.tensor_type.as_ref()) else {
        return Err(EngineError::Load(format!("{kind} {name} is no tensor")));
    };
    let data_type = match tensor.elem_type {
        data_type::FLOAT => DataType::Fp32,
        data_type::INT32 => DataType::Int32,
        data_type::INT64 => DataType::Int64,
        data_type::UINT8 => DataType::Uint8,
        data_type::INT8 => DataType::Int8,
        other => {
            return Err(EngineError::Load(format!(
                "{kind} {name} is {}; inputs and outputs can be FLOAT, INT32, INT64, UINT8 and INT8: export the model \
                 with such",
                data_type::name(other)
            )));
        }
    };
    let Some(shape) = &tensor.shape else {
        return Err(EngineError::Load(format!("{kind} {name} has no shape; export the model with its shapes")));
    };
    // Exporters write an open dimension as a name, as nothing at all, or as -1.
    let dims = shape.dim.iter().map(|dim| dim.dim_value.and_then(|size| usize::try_from(size).ok())).collect();
    Ok(TensorSpec { name: name.clone(), data_type, dims })
}
