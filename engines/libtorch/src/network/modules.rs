//! The modules as sequences of operations. Weight names are YOLOv5's state names.

use super::operations::{Activation, Convolution, ConvolutionKind, Operations};
use super::plan::{Detect, Layer, Module};

impl Layer {
    /// Computes this layer: one output, or one per level for Detect.
    pub(super) fn apply<O: Operations>(
        &self,
        operations: &mut O,
        detect: &Detect,
        inputs: &[O::Value],
    ) -> Result<Vec<O::Value>, O::Error> {
        let name = format!("model.{}", self.index);
        if self.module == Module::Detect {
            let output = detect.anchors_per_level * detect.outputs_per_anchor();
            let heads = inputs.iter().zip(&detect.channels).enumerate().map(|(level, (x, channels))| {
                operations.convolution(&format!("{name}.m.{level}"), &Convolution::plain(*channels, output, true), x)
            });
            return heads.collect();
        }
        if self.module == Module::Concat {
            return Ok(vec![operations.concat(&name, inputs)?]);
        }
        let mut x = inputs[0].clone();
        for repeat in 0..self.repeats {
            let name = if self.repeats == 1 { name.clone() } else { format!("{name}.{repeat}") };
            x = self.module.apply(operations, &name, &x)?;
        }
        Ok(vec![x])
    }
}

impl Module {
    /// A module of one input and one output.
    fn apply<O: Operations>(&self, o: &mut O, name: &str, x: &O::Value) -> Result<O::Value, O::Error> {
        match *self {
            Self::Conv { input, output, kernel, stride, padding } => {
                let kind = ConvolutionKind::Normalised(Activation::Silu);
                o.convolution(name, &Convolution { input, output, kernel, stride, padding, kind }, x)
            }
            Self::Focus { input, output, kernel } => {
                let slices = o.slices(&format!("{name}.slices"), x)?;
                o.convolution(&format!("{name}.conv"), &Convolution::block(4 * input, output, kernel, 1), &slices)
            }
            Self::Bottleneck { input, output, shortcut } => {
                let hidden = output / 2;
                bottleneck(o, name, [input, hidden, output], shortcut, x)
            }
            Self::C3 { input, output, bottlenecks, shortcut } => {
                let hidden = output / 2;
                let mut left = o.convolution(&format!("{name}.cv1"), &Convolution::block(input, hidden, 1, 1), x)?;
                for index in 0..bottlenecks {
                    left = bottleneck(o, &format!("{name}.m.{index}"), [hidden; 3], shortcut, &left)?;
                }
                let right = o.convolution(&format!("{name}.cv2"), &Convolution::block(input, hidden, 1, 1), x)?;
                let joined = o.concat(&format!("{name}.concat"), &[left, right])?;
                o.convolution(&format!("{name}.cv3"), &Convolution::block(2 * hidden, output, 1, 1), &joined)
            }
            Self::BottleneckCsp { input, output, bottlenecks, shortcut } => {
                let hidden = output / 2;
                let mut left = o.convolution(&format!("{name}.cv1"), &Convolution::block(input, hidden, 1, 1), x)?;
                for index in 0..bottlenecks {
                    left = bottleneck(o, &format!("{name}.m.{index}"), [hidden; 3], shortcut, &left)?;
                }
                let left = o.convolution(&format!("{name}.cv3"), &Convolution::plain(hidden, hidden, false), &left)?;
                let right = o.convolution(&format!("{name}.cv2"), &Convolution::plain(input, hidden, false), x)?;
                let joined = o.concat(&format!("{name}.concat"), &[left, right])?;
                let joined = o.normalise(&format!("{name}.bn"), 2 * hidden, Activation::LeakyRelu, &joined)?;
                o.convolution(&format!("{name}.cv4"), &Convolution::block(2 * hidden, output, 1, 1), &joined)
            }
            Self::Spp { input, output, ref kernels } => {
                let hidden = input / 2;
                let x = o.convolution(&format!("{name}.cv1"), &Convolution::block(input, hidden, 1, 1), x)?;
                let mut parts = vec![x.clone()];
                for (index, kernel) in kernels.iter().enumerate() {
                    parts.push(o.max_pool(&format!("{name}.m.{index}"), *kernel, &x)?);
                }
                let joined = o.concat(&format!("{name}.concat"), &parts)?;
                let joined_channels = hidden * parts.len();
                o.convolution(&format!("{name}.cv2"), &Convolution::block(joined_channels, output, 1, 1), &joined)
            }
            Self::Sppf { input, output, kernel } => {
                let hidden = input / 2;
                let mut parts =
                    vec![o.convolution(&format!("{name}.cv1"), &Convolution::block(input, hidden, 1, 1), x)?];
                for index in 0..3 {
                    parts.push(o.max_pool(&format!("{name}.m.{index}"), kernel, &parts[index])?);
                }
                let joined = o.concat(&format!("{name}.concat"), &parts)?;
                o.convolution(&format!("{name}.cv2"), &Convolution::block(4 * hidden, output, 1, 1), &joined)
            }
            Self::Upsample { scale } => o.upsample(name, scale, x),
            Self::Concat | Self::Detect => unreachable!("takes several inputs and is computed by its layer"),
        }
    }
}

/// 1x1, then 3x3; the input is added if `shortcut` and the channels allow.
fn bottleneck<O: Operations>(
    o: &mut O,
    name: &str,
    [input, hidden, output]: [usize; 3],
    shortcut: bool,
    x: &O::Value,
) -> Result<O::Value, O::Error> {
    let narrow = o.convolution(&format!("{name}.cv1"), &Convolution::block(input, hidden, 1, 1), x)?;
    let wide = o.convolution(&format!("{name}.cv2"), &Convolution::block(hidden, output, 3, 1), &narrow)?;
    if shortcut && input == output { o.add(&format!("{name}.add"), x, &wide) } else { Ok(wide) }
}
