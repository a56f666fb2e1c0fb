//! Reading an ONNX file without trusting it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

use detectd_engine::EngineError;
use prost::Message;
use prost::bytes::Bytes;

use crate::proto;

/// An ONNX file in memory.
pub struct ModelFile {
    /// The whole file.
    pub bytes: Bytes,
    /// What it declares, without the weights.
    pub model: proto::Model,
    /// The files that weights are kept in beside it, by name.
    pub external: BTreeMap<String, Vec<u8>>,
}

impl ModelFile {
    /// Reads `path` and the weights beside it.
    ///
    /// Decoding here first also protects the engines: every length in the file is known to lie inside the file, and
    /// messages are not nested deeper than prost allows.
    ///
    /// # Errors
    /// [`EngineError::Load`] with the path and what is wrong.
    pub fn read(path: &Path) -> Result<Self, EngineError> {
        let bytes = Bytes::from(read(path)?);
        let model = proto::Model::decode(bytes.clone()).map_err(|error| {
            EngineError::Load(format!("{} is no ONNX file, or is damaged or cut short: {error}", path.display()))
        })?;
        let Some(graph) = &model.graph else {
            return Err(EngineError::Load(format!("{} is no ONNX file: it has no graph", path.display())));
        };
        let mut names = BTreeMap::new();
        external_files(graph, &mut names)?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let mut external = BTreeMap::new();
        for (name, tensor) in names {
            let bytes = read(&directory.join(&name)).map_err(|error| {
                EngineError::Load(format!("the weights of {tensor} are kept in another file: {error}"))
            })?;
            external.insert(name, bytes);
        }
        Ok(Self { bytes, model, external })
    }

    /// The graph, which [`ModelFile::read`] has found to be there.
    pub fn graph(&self) -> &proto::Graph {
        self.model.graph.as_ref().expect("a file without a graph is refused when it is read")
    }
}

fn read(path: &Path) -> Result<Vec<u8>, EngineError> {
    // A device or a pipe would be read without end.
    let is_file = fs::metadata(path).map(|metadata| metadata.is_file());
    match is_file.and_then(|is_file| if is_file { fs::read(path).map(Some) } else { Ok(None) }) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(EngineError::Load(format!("{} is not a file", path.display()))),
        Err(error) => Err(EngineError::Load(format!("{}: {error}", path.display()))),
    }
}

/// Collects the files that tensors are kept in, each with one of the tensors.
fn external_files(graph: &proto::Graph, names: &mut BTreeMap<String, String>) -> Result<(), EngineError> {
    for tensor in &graph.initializer {
        if tensor.data_location != proto::Tensor::EXTERNAL {
            continue;
        }
        let location = tensor.external_data.iter().find(|entry| entry.key == "location");
        let location = location.map(|entry| entry.value.as_str()).unwrap_or_default();
        // Only files beside the model: a path out of its folder could read anything.
        let mut components = Path::new(location).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
            return Err(EngineError::Load(format!(
                "the weights of {} are kept in {location:?}, which is not the name of a file beside the model",
                tensor.name
            )));
        }
        names.entry(location.to_owned()).or_insert_with(|| tensor.name.clone());
    }
    let inner = graph.node.iter().flat_map(|node| &node.attribute).filter_map(|attribute| attribute.g.as_ref());
    inner.into_iter().try_for_each(|graph| external_files(graph, names))
}
