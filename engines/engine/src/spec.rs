//! What a model says of itself.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Batch, Detector, EngineError, Stage, TensorSpec};

/// What a loaded model takes, gives and needs.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The engine that runs it, such as `onnx`.
    pub engine: String,
    /// The inputs, in the order in which [`crate::Batch`] holds them.
    pub inputs: Vec<TensorSpec>,
    /// The outputs, in the order in which [`crate::Engine::infer`] gives them.
    pub outputs: Vec<TensorSpec>,
    /// The numerics of its heavy operators.
    pub precision: Precision,
    /// Where it runs.
    pub device: Device,
    /// How many pictures one execution takes.
    pub batch: BatchSize,
    /// How far a picture must be prepared for [`crate::Engine::detect`].
    pub takes: Stage,
    /// How tensors become boxes; `None` for a model that is no detector.
    pub detector: Option<Detector>,
}

impl ModelSpec {
    /// Whether these tensors may be executed; gives the size of their batch, which is 1 for a model without a batch.
    ///
    /// # Errors
    /// [`EngineError::Shape`] that names the tensor, what was expected and what came.
    pub fn accept(&self, batch: &Batch) -> Result<usize, EngineError> {
        let rows = self.rows(batch)?;
        match self.batch {
            BatchSize::Fixed(size) if rows != size => {
                Err(EngineError::Shape(format!("a batch of {rows}, the model is executed with {size}")))
            }
            _ => Ok(rows),
        }
    }

    /// Whether these tensors may be a part of an execution; gives the number of their rows. A fixed batch need not be
    /// full.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn rows(&self, batch: &Batch) -> Result<usize, EngineError> {
        if batch.inputs.len() != self.inputs.len() {
            return Err(EngineError::Shape(format!(
                "{} inputs, the model takes {}",
                batch.inputs.len(),
                self.inputs.len()
            )));
        }
        if self.batch == BatchSize::Absent {
            self.inputs.iter().zip(&batch.inputs).try_for_each(|(spec, tensor)| spec.accept(tensor))?;
            return Ok(1);
        }
        let mut size = None;
        for (spec, tensor) in self.inputs.iter().zip(&batch.inputs) {
            spec.accept_rows(tensor)?;
            let first = tensor.shape().first().copied().unwrap_or(0);
            let expected = *size.get_or_insert(first);
            if first != expected {
                return Err(EngineError::Shape(format!(
                    "input {}: a batch of {first}, but {} has {expected}",
                    spec.name, self.inputs[0].name
                )));
            }
        }
        let size = size.unwrap_or(0);
        if size == 0 || size > self.batch.max() {
            return Err(EngineError::Shape(format!("a batch of {size}, the model takes 1 to {}", self.batch.max())));
        }
        Ok(size)
    }

    /// The same for batches up to `max_batch`; a fixed batch stays. `None`: whether the first dimension is a batch at all
    /// is decided when a model is loaded.
    #[must_use]
    pub fn with_max_batch(&self, max_batch: usize) -> Option<Self> {
        let batch = match self.batch {
            BatchSize::UpTo(_) if max_batch > 0 => BatchSize::UpTo(max_batch),
            BatchSize::Fixed(size) if max_batch > 0 => BatchSize::Fixed(size),
            BatchSize::Absent if max_batch == 0 => BatchSize::Absent,
            BatchSize::UpTo(_) | BatchSize::Fixed(_) | BatchSize::Absent => return None,
        };
        Some(Self { batch, ..self.clone() })
    }

    /// The dimensions of an input beside the batch.
    #[must_use]
    pub fn dims_of_item<'a>(&self, input: &'a TensorSpec) -> &'a [Option<usize>] {
        match self.batch {
            BatchSize::Absent => &input.dims,
            BatchSize::UpTo(_) | BatchSize::Fixed(_) => input.dims.get(1..).unwrap_or_default(),
        }
    }
}

/// How many pictures one execution takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchSize {
    /// From one to this many.
    UpTo(usize),
    /// The graph's batch is fixed; a smaller batch is filled with zeros.
    Fixed(usize),
    /// The first dimension is no batch: an execution is one request's.
    Absent,
}

impl BatchSize {
    /// The most pictures in one execution.
    #[must_use]
    pub fn max(self) -> usize {
        match self {
            Self::UpTo(max) | Self::Fixed(max) => max,
            Self::Absent => 1,
        }
    }

    /// How many the graph is run with when `pictures` are there.
    #[must_use]
    pub fn executed(self, pictures: usize) -> usize {
        match self {
            Self::UpTo(_) | Self::Absent => pictures,
            Self::Fixed(size) => size,
        }
    }
}

/// The numerics of a model's heavy operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit float.
    #[default]
    Fp32,
    /// 16-bit float.
    Fp16,
    /// Brain float, 16 bits.
    Bf16,
    /// 8-bit integer.
    Int8,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

/// Where a model runs: `cpu`, or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The host's processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by its index.
    Cuda(u32),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "cpu" {
            return Ok(Self::Cpu);
        }
        text.strip_prefix("cuda:")
            .and_then(|index| index.parse().ok())
            .map(Self::Cuda)
            .ok_or_else(|| format!("a device is `cpu` or `cuda:N`, not `{text}`"))
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Device {
    fn schema_name() -> Cow<'static, str> {
        "Device".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(cpu|cuda:[0-9]+)$" })
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataType, Tensor, TensorData};

    #[test]
    fn a_batch_that_does_not_fit_is_named() {
        let input = |name: &str| TensorSpec { name: name.into(), data_type: DataType::Fp32, dims: vec![None, Some(2)] };
        let mut spec = ModelSpec {
            engine: "test".into(),
            inputs: vec![input("a"), input("b")],
            outputs: Vec::new(),
            precision: Precision::Fp32,
            device: Device::Cpu,
            batch: BatchSize::UpTo(3),
            takes: Stage::Letterboxed,
            detector: None,
        };
        let tensor = |size: usize| Tensor::new(vec![size, 2], TensorData::Fp32(vec![0.0; size * 2])).unwrap();
        let batch = |sizes: &[usize]| Batch { inputs: sizes.iter().map(|&size| tensor(size)).collect() };
        let accept = |sizes: &[usize]| spec.accept(&batch(sizes)).map_err(|error| error.to_string());
        assert_eq!(accept(&[3, 3]), Ok(3));
        assert_eq!(accept(&[3]).unwrap_err(), "1 inputs, the model takes 2");
        assert_eq!(accept(&[2, 1]).unwrap_err(), "input b: a batch of 1, but a has 2");
        assert_eq!(accept(&[4, 4]).unwrap_err(), "a batch of 4, the model takes 1 to 3");
        assert_eq!(accept(&[0, 0]).unwrap_err(), "a batch of 0, the model takes 1 to 3");

        spec.batch = BatchSize::Fixed(3);
        spec.inputs.iter_mut().for_each(|input| input.dims[0] = Some(3));
        assert_eq!(spec.rows(&batch(&[2, 2])), Ok(2), "the rest is filled up");
        let message = spec.accept(&batch(&[2, 2])).unwrap_err().to_string();
        assert_eq!(message, "a batch of 2, the model is executed with 3");

        spec.batch = BatchSize::Absent;
        spec.inputs[1].dims[0] = Some(2);
        assert_eq!(spec.rows(&batch(&[3, 2])), Ok(1), "first dimensions may differ: they are no batch");
        let message = spec.rows(&batch(&[3, 3])).unwrap_err().to_string();
        assert_eq!(message, "input b: expected FP32 [2, 2], got FP32 [3, 2]");
    }

    #[test]
    fn devices_read_back_as_they_are_written() {
        for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(13)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for wrong in ["", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:x"] {
            assert!(wrong.parse::<Device>().unwrap_err().contains(wrong));
        }
    }

    #[test]
    fn a_fixed_batch_is_always_executed_whole() {
        assert_eq!(BatchSize::Fixed(4).executed(1), 4);
        assert_eq!(BatchSize::UpTo(4).executed(1), 1);
    }
}
