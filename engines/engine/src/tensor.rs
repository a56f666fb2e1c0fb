//! Tensors as they cross the border between the daemon and an engine.

use std::fmt;
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::EngineError;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum DataType {
    /// 32-bit float.
    Fp32,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// 8-bit unsigned integer.
    Uint8,
    /// 8-bit signed integer.
    Int8,
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "FP32",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Uint8 => "UINT8",
            Self::Int8 => "INT8",
        })
    }
}

/// The elements of a tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// 32-bit floats.
    Fp32(Vec<f32>),
    /// 32-bit signed integers.
    Int32(Vec<i32>),
    /// 64-bit signed integers.
    Int64(Vec<i64>),
    /// 8-bit unsigned integers.
    Uint8(Vec<u8>),
    /// 8-bit signed integers.
    Int8(Vec<i8>),
}

impl TensorData {
    /// The elements' type.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        match self {
            Self::Fp32(_) => DataType::Fp32,
            Self::Int32(_) => DataType::Int32,
            Self::Int64(_) => DataType::Int64,
            Self::Uint8(_) => DataType::Uint8,
            Self::Int8(_) => DataType::Int8,
        }
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Fp32(data) => data.len(),
            Self::Int32(data) => data.len(),
            Self::Int64(data) => data.len(),
            Self::Uint8(data) => data.len(),
            Self::Int8(data) => data.len(),
        }
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `len` zeros of one type.
    #[must_use]
    pub fn zeros(data_type: DataType, len: usize) -> Self {
        match data_type {
            DataType::Fp32 => Self::Fp32(vec![0.0; len]),
            DataType::Int32 => Self::Int32(vec![0; len]),
            DataType::Int64 => Self::Int64(vec![0; len]),
            DataType::Uint8 => Self::Uint8(vec![0; len]),
            DataType::Int8 => Self::Int8(vec![0; len]),
        }
    }

    /// Some of the elements.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::Fp32(data) => Self::Fp32(data[range].to_vec()),
            Self::Int32(data) => Self::Int32(data[range].to_vec()),
            Self::Int64(data) => Self::Int64(data[range].to_vec()),
            Self::Uint8(data) => Self::Uint8(data[range].to_vec()),
            Self::Int8(data) => Self::Int8(data[range].to_vec()),
        }
    }

    /// Overwrites the elements from `start` on. False when the types differ or there are not as many.
    #[must_use]
    pub(crate) fn copy_in(&mut self, start: usize, source: &Self) -> bool {
        fn copy<T: Copy>(target: &mut [T], start: usize, source: &[T]) -> bool {
            let target = start.checked_add(source.len()).and_then(|end| target.get_mut(start..end));
            target.map(|target| target.copy_from_slice(source)).is_some()
        }
        match (self, source) {
            (Self::Fp32(target), Self::Fp32(source)) => copy(target, start, source),
            (Self::Int32(target), Self::Int32(source)) => copy(target, start, source),
            (Self::Int64(target), Self::Int64(source)) => copy(target, start, source),
            (Self::Uint8(target), Self::Uint8(source)) => copy(target, start, source),
            (Self::Int8(target), Self::Int8(source)) => copy(target, start, source),
            _ => false,
        }
    }
}

/// A named tensor's values.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: TensorData,
}

impl Tensor {
    /// A tensor of `shape`.
    ///
    /// # Errors
    /// [`EngineError::Shape`] when `data` has another number of elements than `shape`.
    pub fn new(shape: Vec<usize>, data: TensorData) -> Result<Self, EngineError> {
        let expected = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        if expected == Some(data.len()) {
            Ok(Self { shape, data })
        } else {
            Err(EngineError::Shape(format!("a tensor of shape {shape:?} cannot hold {} elements", data.len())))
        }
    }

    /// The dimensions.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements.
    #[must_use]
    pub fn data(&self) -> &TensorData {
        &self.data
    }

    /// The elements, given away.
    #[must_use]
    pub fn into_data(self) -> TensorData {
        self.data
    }
}

/// The inputs of one execution, one tensor for each input of the spec, in its order. The first dimension of each is
/// the batch, unless the model has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The tensors.
    pub inputs: Vec<Tensor>,
}

/// What a model declares of one input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// The name in the model's graph.
    pub name: String,
    /// The elements' type.
    pub data_type: DataType,
    /// The dimensions; `None` for one that varies.
    pub dims: Vec<Option<usize>>,
}

impl TensorSpec {
    /// Whether a tensor of this type and shape may be given for it.
    ///
    /// # Errors
    /// [`EngineError::Shape`] that names the tensor, what was expected and what came.
    pub fn accept(&self, tensor: &Tensor) -> Result<(), EngineError> {
        let fits = self.data_type == tensor.data().data_type()
            && self.dims.len() == tensor.shape().len()
            && self.dims.iter().zip(tensor.shape()).all(|(dim, &size)| dim.is_none_or(|dim| dim == size));
        if fits {
            return Ok(());
        }
        Err(EngineError::Shape(format!(
            "input {}: expected {self}, got {} {:?}",
            self.name,
            tensor.data().data_type(),
            tensor.shape()
        )))
    }

    /// The same for any number of rows, the first dimension.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn accept_rows(&self, tensor: &Tensor) -> Result<(), EngineError> {
        match self.dims.first() {
            Some(Some(_)) => {
                let mut open = self.clone();
                open.dims[0] = None;
                open.accept(tensor)
            }
            _ => self.accept(tensor),
        }
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [", self.data_type)?;
        for (index, dim) in self.dims.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            match dim {
                Some(dim) => write!(f, "{separator}{dim}")?,
                None => write!(f, "{separator}?")?,
            }
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_holds_as_many_elements_as_its_shape() {
        assert!(Tensor::new(vec![2, 3], TensorData::Fp32(vec![0.0; 6])).is_ok());
        assert!(Tensor::new(vec![2, 3], TensorData::Fp32(vec![0.0; 5])).is_err());
        assert!(Tensor::new(vec![usize::MAX, 2], TensorData::Fp32(vec![])).is_err());
    }

    #[test]
    fn a_tensor_that_does_not_fit_is_named() {
        let spec = TensorSpec {
            name: "images".into(),
            data_type: DataType::Fp32,
            dims: vec![None, Some(3), Some(4), Some(4)],
        };
        let fits = Tensor::new(vec![7, 3, 4, 4], TensorData::zeros(DataType::Fp32, 336)).unwrap();
        assert_eq!(spec.accept(&fits), Ok(()));
        let wrong = Tensor::new(vec![1, 3, 4, 5], TensorData::zeros(DataType::Fp32, 60)).unwrap();
        let message = spec.accept(&wrong).unwrap_err().to_string();
        assert_eq!(message, "input images: expected FP32 [?, 3, 4, 4], got FP32 [1, 3, 4, 5]");
        let wrong = Tensor::new(vec![1, 3, 4, 4], TensorData::zeros(DataType::Uint8, 48)).unwrap();
        assert!(spec.accept(&wrong).unwrap_err().to_string().contains("got UINT8"));
    }
}
