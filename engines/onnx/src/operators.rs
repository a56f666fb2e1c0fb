//! Naming every operator that the embedded engine lacks, not only the first.

use std::collections::BTreeMap;
use std::fmt::Write;

use prost::Message;
use rten::ModelOptions;

use crate::embedded::parse;
use crate::proto;

/// Node names that are written out for one operator.
const NAMES: usize = 8;

/// The operators of `model` that cannot be loaded, with the nodes that need them; empty if there are none.
///
/// Each node is loaded alone, as a graph of its own, so that the engine itself says what it can do.
pub fn unsupported(model: &proto::Model) -> String {
    let mut failures = BTreeMap::new();
    if let Some(graph) = &model.graph {
        collect(model, graph, &mut failures);
    }
    let mut text = String::new();
    for ((operator, reason), nodes) in &failures {
        let separator = if text.is_empty() { "" } else { "; " };
        let names = nodes[..nodes.len().min(NAMES)].join(", ");
        let more = if nodes.len() > NAMES { format!(" and {} more", nodes.len() - NAMES) } else { String::new() };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{operator} at {names}{more}: {reason}");
    }
    text
}

/// Whether a graph has operators that the engine would execute, but not as ONNX defines them.
pub fn any_wrong(graph: &proto::Graph) -> bool {
    graph.node.iter().any(|node| {
        let mut inner = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
        wrong(&node.op_type).is_some() || inner.any(any_wrong)
    })
}

fn wrong(operator: &str) -> Option<&'static str> {
    // Version 0.27 of rten divides by the area of the box around both instead of their union, lets pictures of one
    // batch suppress each other, and looks at a box's best class only.
    (operator == "NonMaxSuppression").then_some(
        "it is not computed as ONNX defines it: export the model without NMS, which detectd does itself, or run it with \
         onnxruntime",
    )
}

type Failures = BTreeMap<(String, String), Vec<String>>;

fn collect(model: &proto::Model, graph: &proto::Graph, failures: &mut Failures) {
    for node in graph.node.iter().filter(|node| node.op_type != "Constant") {
        let known = failures.values().map(Vec::len).sum::<usize>();
        for inner in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
            collect(model, inner, failures);
        }
        if failures.values().map(Vec::len).sum::<usize>() > known {
            continue; // The node fails because of what is inside it.
        }
        if let Some(reason) = load_alone(model, node) {
            let operator = match node.domain.as_str() {
                "" | "ai.onnx" => node.op_type.clone(),
                domain => format!("{domain}.{}", node.op_type),
            };
            let output = node.output.first().map(String::as_str).unwrap_or_default();
            let name = if node.name.is_empty() { output } else { &node.name };
            failures.entry((operator, reason)).or_default().push(name.to_owned());
        }
    }
}

/// Why a node cannot be loaded.
fn load_alone(model: &proto::Model, node: &proto::Node) -> Option<String> {
    if let Some(reason) = wrong(&node.op_type) {
        return Some(reason.to_owned());
    }
    let node = proto::Node { name: String::new(), ..node.clone() };
    let graph = proto::Graph { node: vec![node], ..proto::Graph::default() };
    let alone =
        proto::Model { ir_version: model.ir_version, graph: Some(graph), opset_import: model.opset_import.clone() };
    let mut options = ModelOptions::with_all_ops();
    options.enable_optimization(false);
    parse(&options, alone.encode_to_vec()).err()
}
