//! Small networks, described without any file format.

use detectd_engine::DataType;

/// A network: steps on named values, first to last.
#[derive(Clone, Debug)]
pub struct Network {
    /// A name for files and messages.
    pub name: &'static str,
    /// The inputs.
    pub inputs: Vec<Port>,
    /// The steps, in an order in which they can be computed.
    pub steps: Vec<Step>,
    /// The outputs, each the output of a step.
    pub outputs: Vec<Port>,
}

/// An input or output.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name.
    pub name: &'static str,
    /// The type of its elements.
    pub data_type: DataType,
    /// Its dimensions without the batch, which comes first.
    pub dims: Vec<usize>,
}

/// One operation on named values.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is computed.
    pub operation: Operation,
    /// The names of what it is computed from.
    pub inputs: Vec<&'static str>,
    /// The name of what comes out.
    pub output: &'static str,
}

/// What a step computes. All dimensions are without the batch; all floats are 32-bit.
#[derive(Clone, Debug)]
pub enum Operation {
    /// 2-D convolution (cross-correlation) of `[C, H, W]` with square kernels and zeros around.
    Convolution {
        /// `[outputs, C, kernel, kernel]`, row-major.
        weight: Vec<f32>,
        /// One for each output channel.
        bias: Vec<f32>,
        /// Rows and columns of a kernel.
        kernel: usize,
        /// Step between two places, in both directions.
        stride: usize,
        /// Zeros on each side.
        padding: usize,
    },
    /// `[inputs]` to `[outputs]`: `y = weight x + bias`.
    Linear {
        /// `[outputs, inputs]`, row-major.
        weight: Vec<f32>,
        /// One for each output.
        bias: Vec<f32>,
    },
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Largest of each 2x2 square of `[C, H, W]`, both sides halved.
    MaxPool,
    /// `x * scale + offset`, where `[R, C]` has one factor and offset for each of the R rows, or for each of the C
    /// columns.
    Affine {
        /// The factors.
        scale: Vec<f32>,
        /// The offsets.
        offset: Vec<f32>,
        /// One for each column instead of each row.
        columns: bool,
    },
    /// The sum of two values of one shape.
    Add,
    /// The inputs one after the other along the first dimension after the batch.
    Concatenate,
    /// The same elements, of any type, in another shape.
    Reshape {
        /// The shape.
        dims: Vec<usize>,
    },
}
