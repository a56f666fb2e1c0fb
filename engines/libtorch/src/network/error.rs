use tch::TchError;

/// What can go wrong between a yaml file and a computed network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The text is not yaml of the expected form.
    #[error("the model yaml cannot be read: {0}")]
    Yaml(#[from] serde_norway::Error),
    /// A row of the yaml names something that does not exist or does not fit.
    #[error("layer {layer} ({module}): {problem}")]
    Layer {
        /// Row number from 0, backbone first.
        layer: usize,
        /// The module's name in the row.
        module: String,
        /// What is wrong, what was expected and what came.
        problem: String,
    },
    /// The yaml as a whole is inconsistent.
    #[error("the model yaml is inconsistent: {0}")]
    Model(String),
    /// A weight that the network needs is absent or has another shape.
    #[error("weight `{name}`: {problem}")]
    Weight {
        /// The state name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A weights file cannot be read or written.
    #[error("weights file {path}: {problem}")]
    File {
        /// Its path.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
}
