//! The networks as ONNX files.

use std::fs;
use std::io;
use std::path::Path;

use detectd_engine::DataType;
use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType as OnnxType, Dimension, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};

use crate::network::{Network, Operation, Port};

/// Writes `network` with the standard operators of opset 13; a batch that is left open is a named dimension.
///
/// # Errors
/// The file cannot be written.
pub fn write(network: &Network, batch: Option<usize>, path: &Path) -> io::Result<()> {
    let mut graph = GraphProto::default();
    for step in &network.steps {
        add(&mut graph, &step.operation, &step.inputs, step.output);
    }
    graph.input = network.inputs.iter().map(|port| value(port, batch)).collect();
    graph.output = network.outputs.iter().map(|port| value(port, batch)).collect();
    let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(13) };
    let model =
        ModelProto { ir_version: Some(8), graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() };
    fs::write(path, model.write_buf().map_err(io::Error::other)?)
}

/// Adds the nodes and constants of one operation.
fn add(graph: &mut GraphProto, operation: &Operation, inputs: &[&str], output: &str) {
    let inner = |suffix: &str| format!("{output}.{suffix}");
    let (weight_name, bias_name) = (inner("weight"), inner("bias"));
    match operation {
        Operation::Convolution { weight, bias, kernel, stride, padding } => {
            let inputs_of_kernel = weight.len() / (bias.len() * kernel * kernel);
            floats(graph, &weight_name, &[bias.len(), inputs_of_kernel, *kernel, *kernel], weight);
            floats(graph, &bias_name, &[bias.len()], bias);
            let attributes = vec![
                integers("kernel_shape", &[*kernel; 2]),
                integers("strides", &[*stride; 2]),
                integers("pads", &[*padding; 4]),
            ];
            node(graph, "Conv", &[inputs[0], &weight_name, &bias_name], output, attributes);
        }
        Operation::Linear { weight, bias } => {
            floats(graph, &weight_name, &[bias.len(), weight.len() / bias.len()], weight);
            floats(graph, &bias_name, &[bias.len()], bias);
            let transpose = AttributeProto {
                name: Some("transB".into()),
                i: Some(1),
                r#type: Some(AttributeType::INT),
                ..AttributeProto::default()
            };
            node(graph, "Gemm", &[inputs[0], &weight_name, &bias_name], output, vec![transpose]);
        }
        Operation::Silu => {
            node(graph, "Sigmoid", inputs, &inner("sigmoid"), Vec::new());
            node(graph, "Mul", &[inputs[0], &inner("sigmoid")], output, Vec::new());
        }
        Operation::Sigmoid => node(graph, "Sigmoid", inputs, output, Vec::new()),
        Operation::MaxPool => {
            let attributes = vec![integers("kernel_shape", &[2; 2]), integers("strides", &[2; 2])];
            node(graph, "MaxPool", inputs, output, attributes);
        }
        Operation::Affine { scale, offset, columns } => {
            let dims = if *columns { vec![scale.len()] } else { vec![scale.len(), 1] };
            floats(graph, &weight_name, &dims, scale);
            floats(graph, &bias_name, &dims, offset);
            node(graph, "Mul", &[inputs[0], &weight_name], &inner("scaled"), Vec::new());
            node(graph, "Add", &[&inner("scaled"), &bias_name], output, Vec::new());
        }
        Operation::Add => node(graph, "Add", inputs, output, Vec::new()),
        Operation::Concatenate => {
            let axis = AttributeProto {
                name: Some("axis".into()),
                i: Some(1),
                r#type: Some(AttributeType::INT),
                ..AttributeProto::default()
            };
            node(graph, "Concat", inputs, output, vec![axis]);
        }
        Operation::Reshape { dims } => {
            // 0 keeps the batch as it is.
            let shape: Vec<i64> = std::iter::once(0).chain(dims.iter().map(|&dim| dim as i64)).collect();
            let data = shape.iter().flat_map(|dim| dim.to_le_bytes()).collect();
            tensor(graph, &inner("shape"), &[shape.len()], OnnxType::INT64, data);
            node(graph, "Reshape", &[inputs[0], &inner("shape")], output, Vec::new());
        }
    }
}

fn node(graph: &mut GraphProto, kind: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) {
    graph.node.push(NodeProto {
        name: Some(format!("node.{output}")),
        op_type: Some(kind.into()),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        attribute,
        ..NodeProto::default()
    });
}

fn integers(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        ints: values.iter().map(|&value| value as i64).collect(),
        r#type: Some(AttributeType::INTS),
        ..AttributeProto::default()
    }
}

fn floats(graph: &mut GraphProto, name: &str, dims: &[usize], values: &[f32]) {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(graph, name, dims, OnnxType::FLOAT, data);
}

fn tensor(graph: &mut GraphProto, name: &str, dims: &[usize], data_type: OnnxType, data: Vec<u8>) {
    graph.initializer.push(TensorProto {
        name: Some(name.into()),
        dims: dims.iter().map(|&dim| dim as i64).collect(),
        data_type: Some(data_type),
        raw_data: Some(data.into()),
        ..TensorProto::default()
    });
}

fn value(port: &Port, batch: Option<usize>) -> ValueInfoProto {
    let data_type = match port.data_type {
        DataType::Fp32 => OnnxType::FLOAT,
        DataType::Int32 => OnnxType::INT32,
        DataType::Int64 => OnnxType::INT64,
        DataType::Uint8 => OnnxType::UINT8,
        DataType::Int8 => OnnxType::INT8,
    };
    let size = |size: usize| Dimension { dim_value: Some(size as i64), ..Dimension::default() };
    let open = Dimension { dim_param: Some("batch".into()), ..Dimension::default() };
    let dim = std::iter::once(batch.map_or(open, size)).chain(port.dims.iter().map(|&dim| size(dim))).collect();
    let tensor_type = TypeProtoTensor { elem_type: Some(data_type), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(port.name.into()),
        r#type: Some(TypeProto { tensor_type: Some(tensor_type), ..TypeProto::default() }),
    }
}
