//! A plan's operations as ONNX nodes.

use anyhow::{Context, Result, bail};
use detectd_libtorch::network::{Activation, Convolution, ConvolutionKind, NORM_EPSILON, Operations, Weights};
use tch::{Kind, Tensor};

use super::messages::{Attribute, FLOAT, Graph, INT64, Node, TensorData};

/// Writes each operation as one or several nodes. Edges have the operation's name, constants their state name.
pub struct GraphWriter<'a> {
    /// What is written so far.
    pub graph: Graph,
    weights: &'a Weights,
}

impl<'a> GraphWriter<'a> {
    /// A writer for a network with folded `weights`.
    pub fn new(name: &str, weights: &'a Weights) -> Self {
        Self { graph: Graph { name: name.into(), ..Graph::default() }, weights }
    }

    /// Adds a node with one output, which gets the node's name.
    pub fn node(&mut self, name: &str, op_type: &str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        self.graph.node.push(Node {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: op_type.to_owned(),
            attribute: attributes,
        });
        name.to_owned()
    }

    /// Adds a constant of floats.
    pub fn floats(&mut self, name: &str, dims: &[i64], values: &[f32]) -> String {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.graph.initializer.push(TensorData { dims: dims.to_vec(), data_type: FLOAT, name: name.into(), raw_data });
        name.to_owned()
    }

    /// Adds a constant list of whole numbers.
    pub fn ints(&mut self, name: &str, values: &[i64]) -> String {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let dims = vec![values.len() as i64];
        self.graph.initializer.push(TensorData { dims, data_type: INT64, name: name.into(), raw_data });
        name.to_owned()
    }

    /// Adds a weight under its state name.
    fn weight(&mut self, name: &str) -> Result<String> {
        let weight = self.weights.get(name).with_context(|| format!("the network has no weight `{name}`"))?;
        let flat: Tensor = weight.detach().f_to_kind(Kind::Float)?.f_contiguous()?.f_reshape([-1])?;
        Ok(self.floats(name, &weight.size(), &Vec::<f32>::try_from(flat)?))
    }

    /// Adds an activation after `x`.
    fn activate(&mut self, name: &str, activation: Activation, x: &str) -> String {
        match activation {
            Activation::Silu => {
                let gate = self.node(&format!("{name}.sigmoid"), "Sigmoid", &[x], vec![]);
                self.node(&format!("{name}.silu"), "Mul", &[x, &gate], vec![])
            }
            Activation::LeakyRelu => {
                self.node(&format!("{name}.leaky_relu"), "LeakyRelu", &[x], vec![Attribute::float("alpha", 0.1)])
            }
        }
    }
}

impl Operations for GraphWriter<'_> {
    type Value = String;
    type Error = anyhow::Error;

    fn convolution(&mut self, name: &str, conv: &Convolution, x: &String) -> Result<String> {
        let prefix = match conv.kind {
            ConvolutionKind::Normalised(_) => format!("{name}.conv"),
            ConvolutionKind::Plain { .. } => name.to_owned(),
        };
        if self.weights.contains_key(&format!("{name}.bn.weight")) {
            bail!("{name} still has its batch normalisation; fold the network before exporting it");
        }
        let mut inputs = vec![x.clone(), self.weight(&format!("{prefix}.weight"))?];
        if conv.kind != (ConvolutionKind::Plain { bias: false }) {
            inputs.push(self.weight(&format!("{prefix}.bias"))?);
        }
        let [kernel, stride, padding] = [conv.kernel, conv.stride, conv.padding].map(|number| number as i64);
        let attributes = vec![
            Attribute::ints("dilations", &[1, 1]),
            Attribute::int("group", 1),
            Attribute::ints("kernel_shape", &[kernel; 2]),
            Attribute::ints("pads", &[padding; 4]),
            Attribute::ints("strides", &[stride; 2]),
        ];
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let y = self.node(&format!("{prefix}.out"), "Conv", &inputs, attributes);
        Ok(match conv.kind {
            ConvolutionKind::Normalised(activation) => self.activate(name, activation, &y),
            ConvolutionKind::Plain { .. } => y,
        })
    }

    fn normalise(&mut self, name: &str, _: usize, activation: Activation, x: &String) -> Result<String> {
        let mut inputs = vec![x.clone()];
        for part in ["weight", "bias", "running_mean", "running_var"] {
            inputs.push(self.weight(&format!("{name}.{part}"))?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let epsilon = Attribute::float("epsilon", NORM_EPSILON as f32);
        let y = self.node(&format!("{name}.out"), "BatchNormalization", &inputs, vec![epsilon]);
        Ok(self.activate(name, activation, &y))
    }

    fn add(&mut self, name: &str, a: &String, b: &String) -> Result<String> {
        Ok(self.node(name, "Add", &[a, b], vec![]))
    }

    fn concat(&mut self, name: &str, parts: &[String]) -> Result<String> {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        Ok(self.node(name, "Concat", &parts, vec![Attribute::int("axis", 1)]))
    }

    fn max_pool(&mut self, name: &str, kernel: usize, x: &String) -> Result<String> {
        let attributes = vec![
            Attribute::ints("kernel_shape", &[kernel as i64; 2]),
            Attribute::ints("pads", &[kernel as i64 / 2; 4]),
            Attribute::ints("strides", &[1, 1]),
        ];
        Ok(self.node(name, "MaxPool", &[x], attributes))
    }

    fn upsample(&mut self, name: &str, scale: usize, x: &String) -> Result<String> {
        let scales = self.floats(&format!("{name}.scales"), &[4], &[1.0, 1.0, scale as f32, scale as f32]);
        let attributes = vec![
            Attribute::string("coordinate_transformation_mode", "asymmetric"),
            Attribute::string("mode", "nearest"),
            Attribute::string("nearest_mode", "floor"),
        ];
        Ok(self.node(name, "Resize", &[x, "", &scales], attributes))
    }

    fn slices(&mut self, name: &str, x: &String) -> Result<String> {
        let ends = self.ints(&format!("{name}.ends"), &[i64::MAX; 2]);
        let axes = self.ints(&format!("{name}.axes"), &[2, 3]);
        let steps = self.ints(&format!("{name}.steps"), &[2, 2]);
        let mut parts = Vec::new();
        for (index, start) in [[0, 0], [1, 0], [0, 1], [1, 1]].iter().enumerate() {
            let starts = self.ints(&format!("{name}.{index}.starts"), start);
            parts.push(self.node(&format!("{name}.{index}"), "Slice", &[x, &starts, &ends, &axes, &steps], vec![]));
        }
        self.concat(name, &parts)
    }
}
