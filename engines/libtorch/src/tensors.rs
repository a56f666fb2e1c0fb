//! Tensors across the border: the daemon's on one side, libtorch's on the other.

use detectd_engine::{DataType, EngineError, Tensor, TensorData};
use tch::{Device, Kind};

use crate::error;

/// A copy for libtorch. What has the four dimensions of pictures is laid out with its channels last, which convolutions
/// on the CPU and on tensor cores compute fastest with; its shape stays `[N, C, H, W]`. Floats come as `float`.
pub fn to_torch(tensor: &Tensor, device: Device, float: Kind) -> Result<tch::Tensor, EngineError> {
    let (data, kind): (*const u8, Kind) = match tensor.data() {
        TensorData::Fp32(data) => (data.as_ptr().cast(), Kind::Float),
        TensorData::Int32(data) => (data.as_ptr().cast(), Kind::Int),
        TensorData::Int64(data) => (data.as_ptr().cast(), Kind::Int64),
        TensorData::Uint8(data) => (data.as_ptr(), Kind::Uint8),
        TensorData::Int8(data) => (data.as_ptr().cast(), Kind::Int8),
    };
    let shape: Vec<i64> = tensor.shape().iter().map(|&side| i64::try_from(side).unwrap_or(i64::MAX)).collect();
    // SAFETY: a Tensor holds as many elements of this type as its shape says, row-major, and outlives the blob, which
    // ends in this function.
    #[expect(unsafe_code)]
    let blob =
        unsafe { tch::Tensor::f_from_blob(data, &shape, &[], kind, Device::Cpu) }.map_err(|error| failure(&error))?;
    let kind = if kind == Kind::Float { float } else { kind };
    let mut copy = match shape[..] {
        [batch, channels, height, width] => tch::Tensor::f_empty([batch, height, width, channels], (kind, device))
            .and_then(|empty| empty.f_permute([0, 3, 1, 2])),
        _ => tch::Tensor::f_empty(&shape, (kind, device)),
    }
    .map_err(|error| failure(&error))?;
    copy.f_copy_(&blob).map_err(|error| failure(&error))?;
    Ok(copy)
}

/// A copy for the daemon.
pub fn from_torch(name: &str, tensor: &tch::Tensor) -> Result<Tensor, EngineError> {
    let shape: Vec<usize> = dims(tensor);
    let (data_type, kind) = served(name, tensor)?;
    let plain = tensor.f_to_device(Device::Cpu).and_then(|tensor| tensor.f_to_kind(kind));
    let plain = plain.and_then(|tensor| tensor.f_contiguous()).map_err(|error| failure(&error))?;
    let mut data = TensorData::zeros(data_type, shape.iter().product());
    match &mut data {
        TensorData::Fp32(data) => plain.f_copy_data(data, plain.numel()),
        TensorData::Int32(data) => plain.f_copy_data(data, plain.numel()),
        TensorData::Int64(data) => plain.f_copy_data(data, plain.numel()),
        TensorData::Uint8(data) => plain.f_copy_data(data, plain.numel()),
        TensorData::Int8(data) => plain.f_copy_data(data, plain.numel()),
    }
    .map_err(|error| failure(&error))?;
    Tensor::new(shape, data)
}

/// The type that a tensor is served in: half and double floats as FP32, truth values as UINT8, short integers as INT32.
pub fn data_type(name: &str, tensor: &tch::Tensor) -> Result<DataType, EngineError> {
    served(name, tensor).map(|(data_type, _)| data_type)
}

fn served(name: &str, tensor: &tch::Tensor) -> Result<(DataType, Kind), EngineError> {
    Ok(match tensor.f_kind().map_err(|error| failure(&error))? {
        Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double => (DataType::Fp32, Kind::Float),
        Kind::Int | Kind::Int16 => (DataType::Int32, Kind::Int),
        Kind::Int64 => (DataType::Int64, Kind::Int64),
        Kind::Uint8 | Kind::Bool => (DataType::Uint8, Kind::Uint8),
        Kind::Int8 => (DataType::Int8, Kind::Int8),
        other => {
            return Err(EngineError::Backend(format!(
                "output {name} is {other:?}, which cannot be served; export the model with outputs of plain floats or \
                 integers"
            )));
        }
    })
}

/// The dimensions.
pub fn dims(tensor: &tch::Tensor) -> Vec<usize> {
    tensor.size().into_iter().map(|side| usize::try_from(side).unwrap_or(0)).collect()
}

fn failure(error: &tch::TchError) -> EngineError {
    error::failure(&error.to_string())
}
