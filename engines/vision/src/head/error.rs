//! What can be wrong with a model's outputs.

/// Outputs that do not have the layout of the head.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// More or fewer outputs than the layout has.
    #[error("the {head} head needs {expected}, the model has {got}")]
    Count {
        /// The head's name.
        head: &'static str,
        /// What the layout has.
        expected: String,
        /// What came.
        got: String,
    },
    /// An output of another shape.
    #[error("output {output:?} must be {expected} for the {head} head, not {got}")]
    Shape {
        /// The head's name.
        head: &'static str,
        /// The output's name.
        output: String,
        /// What the layout has.
        expected: String,
        /// What came.
        got: String,
    },
    /// An output of another type, or with another number of values than its shape says.
    #[error("output {output:?} must hold {expected}, not {got}")]
    Data {
        /// The output's name.
        output: String,
        /// What was expected.
        expected: String,
        /// What came.
        got: String,
    },
    /// A picture beyond the batch.
    #[error("picture {image} of a batch of {batch}")]
    Image {
        /// The index asked for.
        image: usize,
        /// Size of the batch.
        batch: usize,
    },
    /// A parameter of the head makes no sense.
    #[error("head.{field} must be {expected}, not {value}")]
    Parameter {
        /// The parameter.
        field: &'static str,
        /// The values that are allowed.
        expected: &'static str,
        /// What came.
        value: String,
    },
    /// The shapes do not tell the layout.
    #[error("the outputs {outputs} do not tell the head ({reason}); write it in the manifest: {advice}")]
    Unrecognised {
        /// Names and shapes.
        outputs: String,
        /// None fits, or several do.
        reason: String,
        /// Which `head` to write.
        advice: String,
    },
}
