//! A request that is nothing but an input's contents, as Triton's raw binary request is.

use bytes::Bytes;
use detectd_engine::{BatchSize, TensorSpec};
use detectd_proto::inference as wire;
use detectd_proto::inference::model_infer_request::InferInputTensor;

use super::detection::IMAGE;
use super::tensor_model::datatype;
use super::tensors::Datatype;
use crate::error::Error;
use crate::repository::ModelVersion;

/// The input that `contents` are: for a detector one picture file, for a tensor model its only input, with one row. Its
/// raw contents are the second part.
///
/// # Errors
/// The model has several inputs, or the shape of its input does not follow from the number of bytes.
pub fn input(version: &ModelVersion, contents: Bytes) -> Result<(InferInputTensor, Vec<Bytes>), Error> {
    let tensor = |name: &str, datatype: Datatype, shape| InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.name().to_owned(),
        shape,
        ..InferInputTensor::default()
    };
    let spec = version.spec();
    if spec.detector.is_some() {
        let typed = wire::InferTensorContents { bytes_contents: vec![contents], ..Default::default() };
        let image = InferInputTensor { contents: Some(typed), ..tensor(IMAGE, Datatype::Bytes, vec![1]) };
        return Ok((image, Vec::new()));
    }
    let [only] = spec.inputs.as_slice() else {
        let count = spec.inputs.len();
        return Err(Error::invalid(format!("a raw binary request: expected a model with one input, it has {count}")));
    };
    let datatype = datatype(only.data_type);
    let shape = shape(only, spec.batch, datatype, contents.len())?;
    Ok((tensor(&only.name, datatype, shape), vec![contents]))
}

fn shape(input: &TensorSpec, batch: BatchSize, datatype: Datatype, length: usize) -> Result<Vec<i64>, Error> {
    let refuse =
        |reason: &str| Error::invalid(format!("a raw binary request: input `{}` {input}: {reason}", input.name));
    let mut dims = input.dims.clone();
    if let (true, Some(rows)) = (batch != BatchSize::Absent, dims.first_mut()) {
        *rows = Some(1);
    }
    let known = dims.iter().flatten().try_fold(datatype.size().unwrap_or(1), |product, &dim| product.checked_mul(dim));
    let known = known.filter(|&known| known > 0).ok_or_else(|| refuse("it has no elements"))?;
    let open = dims.iter().filter(|dim| dim.is_none()).count();
    if open > 1 {
        return Err(refuse("more than one of its sizes is open"));
    }
    if !length.is_multiple_of(known) || (open == 0 && length != known) {
        let several = if open == 0 { "" } else { "a multiple of " };
        return Err(refuse(&format!("expected {several}{known} bytes, got {length}")));
    }
    let dims = dims.into_iter().map(|dim| i64::try_from(dim.unwrap_or(length / known)).unwrap_or(i64::MAX));
    Ok(dims.collect())
}
