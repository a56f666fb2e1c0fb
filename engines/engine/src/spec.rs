//! What a model says of itself.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Detector, Stage, TensorSpec};

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

/// How many pictures one execution takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchSize {
    /// From one to this many.
    UpTo(usize),
    /// The graph's batch is fixed; a smaller batch is filled with zeros.
    Fixed(usize),
}

impl BatchSize {
    /// The most pictures in one execution.
    #[must_use]
    pub fn max(self) -> usize {
        match self {
            Self::UpTo(max) | Self::Fixed(max) => max,
        }
    }

    /// How many the graph is run with when `pictures` are there.
    #[must_use]
    pub fn executed(self, pictures: usize) -> usize {
        match self {
            Self::UpTo(_) => pictures,
            Self::Fixed(size) => size,
        }
    }
}

/// The numerics of a model's heavy operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
