use super::operations::{Activation, Convolution, ConvolutionKind, Operations};
use super::{NetworkError, Plan};

/// What a network costs: its parameters and its arithmetic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Trainable numbers, two per channel of each batch normalisation included.
    pub parameters: u64,
    /// Numbers that are left when the batch normalisations are folded into the convolutions.
    pub folded_parameters: u64,
    /// Multiply-adds of the convolutions for one picture.
    pub multiply_adds: u64,
    /// Trainable numbers of every convolution and normalisation, by name.
    pub by_name: Vec<(String, u64)>,
}

/// The extent of one picture's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// Larger maps than this are refused.
const LONGEST_SIDE: usize = 1 << 16;
/// Picture side for finding the strides: a multiple of every stride that a network of this kind has.
const STRIDE_PROBE: usize = 1024;

impl Cost {
    /// Counts for pictures of `width` x `height`.
    pub fn of(plan: &Plan, width: usize, height: usize) -> Result<Self, NetworkError> {
        let mut cost = Self::default();
        plan.run(&mut cost, &Shape { channels: 3, height, width })?;
        Ok(cost)
    }

    /// Billions of floating-point operations for one picture, a multiply-add counted as two.
    #[must_use]
    pub fn gflops(&self) -> f64 {
        2.0 * self.multiply_adds as f64 / 1e9
    }

    /// Pixels per cell of each output level.
    pub(super) fn strides(plan: &Plan) -> Result<Vec<usize>, NetworkError> {
        let probe = Shape { channels: 3, height: STRIDE_PROBE, width: STRIDE_PROBE };
        let levels = plan.run(&mut Self::default(), &probe)?;
        let stride = |level: Shape| {
            let exact = STRIDE_PROBE.is_multiple_of(level.height) && level.height == level.width;
            exact.then_some(STRIDE_PROBE / level.height).ok_or_else(|| {
                NetworkError::Model(format!("an output of {level:?} is no whole fraction of {STRIDE_PROBE} pixels"))
            })
        };
        levels.into_iter().map(stride).collect()
    }
}

impl Operations for Cost {
    type Value = Shape;
    type Error = NetworkError;

    fn convolution(&mut self, name: &str, conv: &Convolution, x: &Shape) -> Result<Shape, NetworkError> {
        if x.channels != conv.input {
            return Err(NetworkError::Model(format!("{name} takes {} channels, {} come", conv.input, x.channels)));
        }
        let side = |length: usize| {
            let padded = length + 2 * conv.padding;
            padded.checked_sub(conv.kernel).map(|room| room / conv.stride + 1).ok_or_else(|| {
                NetworkError::Model(format!("{name}: kernel {} is larger than its input of {padded}", conv.kernel))
            })
        };
        let output = Shape { channels: conv.output, height: side(x.height)?, width: side(x.width)? };
        let weights = [conv.input, conv.output, conv.kernel, conv.kernel].iter().fold(1, saturating_product);
        let per_channel = conv.output as u64;
        let (extra, folded_extra) = match conv.kind {
            ConvolutionKind::Normalised(_) => (2 * per_channel, per_channel),
            ConvolutionKind::Plain { bias: true } => (per_channel, per_channel),
            ConvolutionKind::Plain { bias: false } => (0, 0),
        };
        let parameters = weights.saturating_add(extra);
        self.parameters = self.parameters.saturating_add(parameters);
        self.folded_parameters = self.folded_parameters.saturating_add(weights).saturating_add(folded_extra);
        let multiply_adds = [output.height, output.width].iter().fold(weights, saturating_product);
        self.multiply_adds = self.multiply_adds.saturating_add(multiply_adds);
        self.by_name.push((name.to_owned(), parameters));
        Ok(output)
    }

    fn normalise(&mut self, name: &str, channels: usize, _: Activation, x: &Shape) -> Result<Shape, NetworkError> {
        let parameters = 2 * channels as u64;
        self.parameters += parameters;
        self.folded_parameters += parameters;
        self.by_name.push((name.to_owned(), parameters));
        Ok(*x)
    }

    fn add(&mut self, name: &str, a: &Shape, b: &Shape) -> Result<Shape, NetworkError> {
        if a == b { Ok(*a) } else { Err(NetworkError::Model(format!("{name} adds {a:?} and {b:?}"))) }
    }

    fn concat(&mut self, name: &str, parts: &[Shape]) -> Result<Shape, NetworkError> {
        let mut joined = Shape { channels: 0, ..parts[0] };
        for part in parts {
            if (part.height, part.width) != (joined.height, joined.width) {
                return Err(NetworkError::Model(format!("{name} joins maps of different sizes: {parts:?}")));
            }
            joined.channels = joined.channels.saturating_add(part.channels);
        }
        Ok(joined)
    }

    fn max_pool(&mut self, _: &str, _: usize, x: &Shape) -> Result<Shape, NetworkError> {
        Ok(*x)
    }

    fn upsample(&mut self, name: &str, scale: usize, x: &Shape) -> Result<Shape, NetworkError> {
        let (height, width) = (x.height.saturating_mul(scale), x.width.saturating_mul(scale));
        if height.max(width) > LONGEST_SIDE {
            return Err(NetworkError::Model(format!("{name} makes a map of {width}x{height}")));
        }
        Ok(Shape { height, width, ..*x })
    }

    fn slices(&mut self, name: &str, x: &Shape) -> Result<Shape, NetworkError> {
        if !(x.height.is_multiple_of(2) && x.width.is_multiple_of(2)) {
            return Err(NetworkError::Model(format!("{name} needs even sides, not {}x{}", x.width, x.height)));
        }
        Ok(Shape { channels: 4 * x.channels, height: x.height / 2, width: x.width / 2 })
    }
}

fn saturating_product(product: u64, factor: &usize) -> u64 {
    product.saturating_mul(*factor as u64)
}
