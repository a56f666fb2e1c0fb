/// The few operations that YOLOv5's modules consist of.
///
/// Whoever implements them can walk a [`Plan`](super::Plan): computing with tensors, counting, or writing a graph.
pub trait Operations {
    /// What flows between layers: a tensor, a shape, the name of a graph edge.
    type Value: Clone;
    /// Why an operation can fail.
    type Error;

    /// A convolution with whatever belongs to it; its weights are found under `name`.
    fn convolution(
        &mut self,
        name: &str,
        convolution: &Convolution,
        x: &Self::Value,
    ) -> Result<Self::Value, Self::Error>;
    /// Batch normalisation that stands alone, then its activation (in BottleneckCSP).
    fn normalise(
        &mut self,
        name: &str,
        channels: usize,
        activation: Activation,
        x: &Self::Value,
    ) -> Result<Self::Value, Self::Error>;
    /// Element-wise sum of two equal shapes.
    fn add(&mut self, name: &str, a: &Self::Value, b: &Self::Value) -> Result<Self::Value, Self::Error>;
    /// Joins along the channels.
    fn concat(&mut self, name: &str, parts: &[Self::Value]) -> Result<Self::Value, Self::Error>;
    /// Maximum over `kernel` x `kernel`, stride 1, same size; `kernel` is odd.
    fn max_pool(&mut self, name: &str, kernel: usize, x: &Self::Value) -> Result<Self::Value, Self::Error>;
    /// Repeats every pixel `scale` times in both directions.
    fn upsample(&mut self, name: &str, scale: usize, x: &Self::Value) -> Result<Self::Value, Self::Error>;
    /// Focus's slices: the four pixels of every 2x2 block become channels, in the order top left, bottom left,
    /// top right, bottom right.
    fn slices(&mut self, name: &str, x: &Self::Value) -> Result<Self::Value, Self::Error>;
}

/// One convolution, square kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Zeros on every side.
    pub padding: usize,
    /// What belongs to it.
    pub kind: ConvolutionKind,
}

impl Convolution {
    /// Convolution, batch normalisation, SiLU; the padding keeps the size at stride 1.
    pub(super) fn block(input: usize, output: usize, kernel: usize, stride: usize) -> Self {
        let kind = ConvolutionKind::Normalised(Activation::Silu);
        Self { input, output, kernel, stride, padding: kernel / 2, kind }
    }

    /// A bare 1x1 convolution.
    pub(super) fn plain(input: usize, output: usize, bias: bool) -> Self {
        Self { input, output, kernel: 1, stride: 1, padding: 0, kind: ConvolutionKind::Plain { bias } }
    }
}

/// What belongs to a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvolutionKind {
    /// No bias of its own, then batch normalisation, then the activation. Weights `NAME.conv.weight`, `NAME.bn.*`.
    Normalised(Activation),
    /// Nothing but a bias. Weights `NAME.weight`, `NAME.bias`.
    Plain {
        /// Whether it has one.
        bias: bool,
    },
}

/// A non-linear function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(x)
    Silu,
    /// x, or 0.1 * x below zero
    LeakyRelu,
}
