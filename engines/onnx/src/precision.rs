//! The numerics of a file, and whether they are those that were asked for.

use std::collections::{HashMap, HashSet};

use detectd_engine::{EngineError, Precision};

use crate::proto::{self, data_type};

/// The numerics that the heavy operators of `graph` are executed in.
///
/// On a CPU half floats are a way to keep weights, not to compute: both engines widen them to 32 bits.
pub fn executed(graph: &proto::Graph) -> Precision {
    match stored(graph) {
        Precision::Int8 => Precision::Int8,
        _ => Precision::Fp32,
    }
}

/// Checks the manifest's wish against the file.
///
/// # Errors
/// [`EngineError::Load`] that names both.
pub fn check(graph: &proto::Graph, wanted: Option<Precision>) -> Result<(), EngineError> {
    let (stored, executed) = (stored(graph), executed(graph));
    match wanted {
        None => Ok(()),
        Some(wanted) if wanted == executed => Ok(()),
        Some(wanted) if wanted == stored => Err(EngineError::Load(format!(
            "the file holds {stored} weights, which are computed in {executed} on a CPU: ask for {executed}, or for \
             no precision"
        ))),
        Some(wanted) => Err(EngineError::Load(format!(
            "precision {wanted} was asked for, the file is {stored}; an ONNX file is run in the precision that it was \
             exported in"
        ))),
    }
}

/// How the weights of convolutions and products are kept: quantised if any is.
fn stored(graph: &proto::Graph) -> Precision {
    let types: HashMap<&str, i32> =
        graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor.data_type)).collect();
    let dequantized: HashSet<&str> = graph
        .node
        .iter()
        .filter(|node| node.op_type == "DequantizeLinear")
        .flat_map(|node| node.output.iter().map(String::as_str))
        .collect();
    let mut precision = Precision::Fp32;
    for node in &graph.node {
        let weight = match node.op_type.as_str() {
            "QLinearConv" | "QLinearMatMul" | "ConvInteger" | "MatMulInteger" => return Precision::Int8,
            "Conv" | "ConvTranspose" | "Gemm" | "MatMul" => node.input.get(1).map(String::as_str).unwrap_or_default(),
            _ => continue,
        };
        if dequantized.contains(weight) {
            return Precision::Int8;
        }
        match types.get(weight) {
            Some(&data_type::FLOAT16) => precision = Precision::Fp16,
            Some(&data_type::BFLOAT16) => precision = Precision::Bf16,
            _ => {}
        }
    }
    precision
}
