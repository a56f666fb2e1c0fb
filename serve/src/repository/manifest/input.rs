//! An input as the manifest declares it.

use detectd_engine::{DataType, TensorSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An input that the model's file does not declare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclaredInput {
    /// What requests call it.
    pub name: String,
    /// The type of its elements.
    pub data_type: DataType,
    /// The dimensions, the batch first; -1 for one that varies.
    pub dims: Vec<i64>,
}

impl DeclaredInput {
    /// The same as engines say it.
    ///
    /// # Errors
    /// A dimension that is none, with the input's name.
    pub fn spec(&self) -> Result<TensorSpec, String> {
        let dim = |&dim: &i64| match dim {
            -1 => Ok(None),
            dim => usize::try_from(dim).ok().filter(|&dim| dim > 0).map(Some).ok_or_else(|| {
                format!("inputs.{}: dims must be at least 1, or -1 for one that varies, not {dim}", self.name)
            }),
        };
        let dims = self.dims.iter().map(dim).collect::<Result<_, _>>()?;
        Ok(TensorSpec { name: self.name.clone(), data_type: self.data_type, dims })
    }
}
