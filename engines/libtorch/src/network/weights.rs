use std::collections::BTreeMap;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::NetworkError;

/// Weights by state name, such as `model.0.conv.weight`.
pub type Weights = BTreeMap<String, Tensor>;

/// What became of each tensor when weights were loaded into a network of possibly another shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Taken over.
    pub loaded: Vec<String>,
    /// In the network, not in the file: kept as they were.
    pub missing: Vec<String>,
    /// In both with different shapes: kept as they were.
    pub mismatched: Vec<String>,
    /// In the file only: left out.
    pub unexpected: Vec<String>,
}

/// Copies every tensor of `source` that exists in `target` with the same shape; refuses if none does.
pub fn load_weights(target: &Weights, source: &Weights) -> Result<LoadReport, NetworkError> {
    let mut report = LoadReport::default();
    for (name, tensor) in target {
        match source.get(name) {
            Some(new) if new.size() == tensor.size() => {
                tch::no_grad(|| tensor.shallow_clone().f_copy_(new))?;
                report.loaded.push(name.clone());
            }
            Some(_) => report.mismatched.push(name.clone()),
            None => report.missing.push(name.clone()),
        }
    }
    report.unexpected = source.keys().filter(|name| !target.contains_key(*name)).cloned().collect();
    if report.loaded.is_empty() {
        let problem = format!("none of the {} given tensors has a name and a shape of this network", source.len());
        return Err(NetworkError::Model(problem));
    }
    Ok(report)
}

/// Whether a weight is learned; running statistics and box priors are not.
#[must_use]
pub fn is_trainable(name: &str) -> bool {
    !(name.ends_with(".running_mean") || name.ends_with(".running_var") || name.ends_with(".anchors"))
}

/// Writes f32 tensors with some text beside them; the file appears whole or not at all.
pub fn write_safetensors(
    path: &Path,
    tensors: &Weights,
    metadata: BTreeMap<String, String>,
) -> Result<(), NetworkError> {
    let file_error = |problem: String| NetworkError::File { path: path.display().to_string(), problem };
    let mut bytes: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let shape = tensor.size().iter().map(|side| usize::try_from(*side).unwrap_or(0)).collect();
        let flat = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        let values = Vec::<f32>::try_from(flat.f_reshape([-1])?)?;
        bytes.push((name.clone(), shape, values.iter().flat_map(|value| value.to_le_bytes()).collect()));
    }
    let views: Result<Vec<_>, _> = bytes
        .iter()
        .map(|(name, shape, data)| {
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data).map(|view| (name, view))
        })
        .collect();
    let views = views.map_err(|error| file_error(error.to_string()))?;
    let data = safetensors::serialize(views, Some(metadata.into_iter().collect()))
        .map_err(|error| file_error(error.to_string()))?;
    let partial = path.with_extension("part");
    std::fs::write(&partial, data).map_err(|error| file_error(error.to_string()))?;
    std::fs::rename(&partial, path).map_err(|error| file_error(error.to_string()))
}

/// Reads f32 (or f16, widened) tensors and the text beside them.
pub fn read_safetensors(path: &Path) -> Result<(Weights, BTreeMap<String, String>), NetworkError> {
    let file_error = |problem: String| NetworkError::File { path: path.display().to_string(), problem };
    let data = std::fs::read(path).map_err(|error| file_error(error.to_string()))?;
    let (_, header) = safetensors::SafeTensors::read_metadata(&data).map_err(|error| file_error(error.to_string()))?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let file = safetensors::SafeTensors::deserialize(&data).map_err(|error| file_error(error.to_string()))?;
    let mut tensors = Weights::new();
    for (name, view) in file.tensors() {
        let kind = match view.dtype() {
            safetensors::Dtype::F32 => Kind::Float,
            safetensors::Dtype::F16 => Kind::Half,
            other => return Err(file_error(format!("tensor `{name}` is {other:?}, expected F32 or F16"))),
        };
        let shape: Vec<i64> = view.shape().iter().map(|side| i64::try_from(*side).unwrap_or(i64::MAX)).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind)?.f_to_kind(Kind::Float)?;
        tensors.insert(name, tensor);
    }
    Ok((tensors, metadata))
}
