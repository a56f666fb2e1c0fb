use super::yaml::{Anchors, Argument, From, ModelYaml, Row};
use super::{Cost, NetworkError, Operations};

/// The layers that a model file stands for: every channel, repeat and input is resolved.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In order of computation; the last one is the only [`Module::Detect`].
    pub layers: Vec<Layer>,
    /// The last layer, and what decoding its outputs needs.
    pub detect: Detect,
}

/// One row of the model file.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Row number from 0.
    pub index: usize,
    /// Which layers' outputs it takes; `None` is the network's input.
    pub inputs: Vec<Option<usize>>,
    /// How often the module stands in sequence. C3 and BottleneckCSP repeat inside instead, and have 1 here.
    pub repeats: usize,
    /// What it computes.
    pub module: Module,
    /// Output channels; 0 for Detect.
    pub channels: usize,
}

/// What a layer computes. `input` and `output` are channels.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields carry the names of the yaml arguments that the module's line explains")]
pub enum Module {
    /// Convolution, batch normalisation, SiLU.
    Conv { input: usize, output: usize, kernel: usize, stride: usize, padding: usize },
    /// Four slices as channels, then Conv.
    Focus { input: usize, output: usize, kernel: usize },
    /// 1x1, then 3x3, and the input added if wanted and possible.
    Bottleneck { input: usize, output: usize, shortcut: bool },
    /// Bottlenecks on one half of the channels, joined with the other half.
    C3 { input: usize, output: usize, bottlenecks: usize, shortcut: bool },
    /// The form before C3.
    BottleneckCsp { input: usize, output: usize, bottlenecks: usize, shortcut: bool },
    /// Pools of several sizes side by side.
    Spp { input: usize, output: usize, kernels: Vec<usize> },
    /// Three pools in a row.
    Sppf { input: usize, output: usize, kernel: usize },
    /// Joins along the channels.
    Concat,
    /// Repeats pixels.
    Upsample { scale: usize },
    /// One biased 1x1 convolution a level.
    Detect,
}

/// The network's heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Detect {
    /// Number of classes.
    pub classes: usize,
    /// Input channels of each level.
    pub channels: Vec<usize>,
    /// Box priors per level.
    pub anchors_per_level: usize,
    /// Widths and heights in pixels, `[level][anchor]`; empty if the file leaves them blank.
    pub anchors: Vec<Vec<(f64, f64)>>,
    /// Pixels per cell of each level.
    pub strides: Vec<usize>,
}

impl Detect {
    /// Numbers per box: x, y, w, h, objectness and one per class.
    #[must_use]
    pub fn outputs_per_anchor(&self) -> usize {
        self.classes + 5
    }
}

/// Channels of the network's input.
const INPUT_CHANNELS: usize = 3;
/// No layer may be wider than this.
const MOST_CHANNELS: usize = 1 << 16;

impl Plan {
    /// Resolves a model file.
    pub fn new(model: &ModelYaml) -> Result<Self, NetworkError> {
        let rows: Vec<&Row> = model.rows().collect();
        let mut layers: Vec<Layer> = Vec::with_capacity(rows.len());
        for (index, row) in rows.iter().enumerate() {
            let at = At { index, module: &row.2 };
            let inputs = at.inputs(&row.0)?;
            let channels: Vec<usize> =
                inputs.iter().map(|input| input.map_or(INPUT_CHANNELS, |i| layers[i].channels)).collect();
            let (module, repeats, output) = at.module(model, row, &channels)?;
            if (module == Module::Detect) != (index + 1 == rows.len()) {
                return Err(at.error("Detect must be the last row, and no other"));
            }
            layers.push(Layer { index, inputs, repeats, module, channels: output });
        }
        let Some(last) = layers.last() else {
            return Err(NetworkError::Model("no rows".into()));
        };
        let at = At { index: last.index, module: "Detect" };
        let channels: Vec<usize> =
            last.inputs.iter().map(|input| input.map_or(INPUT_CHANNELS, |i| layers[i].channels)).collect();
        let anchors = match &model.anchors {
            Anchors::Blank(_) => Vec::new(),
            Anchors::Pixels(levels) => {
                levels.iter().map(|level| level.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()).collect()
            }
        };
        if !anchors.is_empty() && anchors.len() != channels.len() {
            return Err(at.error(format!("{} inputs, but anchors for {} levels", channels.len(), anchors.len())));
        }
        let anchors_per_level = model.anchors_per_level()?;
        let detect = Detect { classes: model.nc, channels, anchors_per_level, anchors, strides: Vec::new() };
        let mut plan = Self { layers, detect };
        plan.detect.strides = Cost::strides(&plan)?;
        Ok(plan)
    }

    /// Computes all layers and returns Detect's outputs, one per level.
    pub fn run<O: Operations>(&self, operations: &mut O, input: &O::Value) -> Result<Vec<O::Value>, O::Error> {
        let last_use = self.last_uses();
        let mut kept: Vec<Option<O::Value>> = vec![None; self.layers.len()];
        for layer in &self.layers {
            let inputs: Vec<O::Value> = layer
                .inputs
                .iter()
                .map(|from| match from {
                    Some(from) => kept[*from].clone().unwrap_or_else(|| unreachable!("kept until its last use")),
                    None => input.clone(),
                })
                .collect();
            let mut outputs = layer.apply(operations, &self.detect, &inputs)?;
            if layer.index + 1 == self.layers.len() {
                return Ok(outputs);
            }
            kept[layer.index] = outputs.pop();
            for from in layer.inputs.iter().flatten() {
                if last_use[*from] == layer.index {
                    kept[*from] = None;
                }
            }
        }
        Ok(Vec::new())
    }

    /// For each layer, the last layer that takes its output.
    fn last_uses(&self) -> Vec<usize> {
        let mut last = vec![0; self.layers.len()];
        for layer in &self.layers {
            for from in layer.inputs.iter().flatten() {
                last[*from] = layer.index;
            }
        }
        last
    }
}

/// Where we are, for messages.
struct At<'a> {
    index: usize,
    module: &'a str,
}

impl At<'_> {
    fn error(&self, problem: impl Into<String>) -> NetworkError {
        NetworkError::Layer { layer: self.index, module: self.module.to_owned(), problem: problem.into() }
    }

    /// Relative and absolute numbers as absolute ones.
    fn inputs(&self, from: &From) -> Result<Vec<Option<usize>>, NetworkError> {
        let numbers = match from {
            From::One(number) => std::slice::from_ref(number),
            From::Many(numbers) => numbers.as_slice(),
        };
        if numbers.is_empty() {
            return Err(self.error("takes no input"));
        }
        let index = i64::try_from(self.index).unwrap_or(i64::MAX);
        let absolute = |number: &i64| match if *number < 0 { index.saturating_add(*number) } else { *number } {
            -1 if self.index == 0 => Ok(None),
            layer if (0..index).contains(&layer) => Ok(usize::try_from(layer).ok()),
            _ => Err(self.error(format!("takes the output of layer {number}, which is not before it"))),
        };
        numbers.iter().map(absolute).collect()
    }

    /// The module, its repeats and its output channels.
    fn module(&self, model: &ModelYaml, row: &Row, channels: &[usize]) -> Result<(Module, usize, usize), NetworkError> {
        let Row(_, number, name, arguments) = row;
        if !(1..=1_000).contains(number) {
            return Err(self.error(format!("the number of repeats must be between 1 and 1000, not {number}")));
        }
        let repeats = repeats(*number, model.depth_multiple);
        let name = name.strip_prefix("nn.").unwrap_or(name);
        let module = match name {
            "Concat" => {
                if self.number(arguments, 0, Some(1))? != 1 {
                    return Err(self.error("only the channels (dimension 1) can be joined"));
                }
                return Ok((Module::Concat, 1, channels.iter().sum()));
            }
            "Detect" => return self.detect(arguments).map(|module| (module, 1, 0)),
            _ if channels.len() != 1 => {
                return Err(self.error(format!("takes one input, not {}", channels.len())));
            }
            "Upsample" => {
                let scale = self.number(arguments, 1, None)?;
                match arguments.get(2) {
                    Some(Argument::Name(mode)) if mode == "nearest" => {}
                    other => return Err(self.error(format!("the mode must be nearest, not {other:?}"))),
                }
                return Ok((Module::Upsample { scale }, repeats, channels[0]));
            }
            name => {
                let output = self.output_channels(model, arguments)?;
                self.channelled(name, arguments, channels[0], output, repeats)?
            }
        };
        let output = self.output_channels(model, arguments)?;
        let inside = matches!(module, Module::C3 { .. } | Module::BottleneckCsp { .. });
        let repeats = if inside { 1 } else { repeats };
        if repeats > 1 && channels[0] != output {
            return Err(self.error(format!("repeated with {} channels in and {output} out", channels[0])));
        }
        Ok((module, repeats, output))
    }

    /// A module whose first argument is its output channels.
    fn channelled(
        &self,
        name: &str,
        arguments: &[Argument],
        input: usize,
        output: usize,
        repeats: usize,
    ) -> Result<Module, NetworkError> {
        Ok(match name {
            "Conv" => {
                let kernel = self.number(arguments, 1, Some(1))?;
                let stride = self.number(arguments, 2, Some(1))?;
                let padding = match arguments.get(3) {
                    Some(Argument::Number(0)) => 0,
                    _ => self.number(arguments, 3, Some(kernel / 2))?,
                };
                Module::Conv { input, output, kernel, stride, padding }
            }
            "Focus" => Module::Focus { input, output, kernel: self.number(arguments, 1, Some(1))? },
            "Bottleneck" => Module::Bottleneck { input, output, shortcut: self.flag(arguments, 1)? },
            "C3" => Module::C3 { input, output, bottlenecks: repeats, shortcut: self.flag(arguments, 1)? },
            "BottleneckCSP" => {
                Module::BottleneckCsp { input, output, bottlenecks: repeats, shortcut: self.flag(arguments, 1)? }
            }
            "SPP" => Module::Spp { input, output, kernels: self.kernels(arguments)? },
            "SPPF" => Module::Sppf { input, output, kernel: self.pool(self.number(arguments, 1, Some(5))?)? },
            other => {
                return Err(self.error(format!(
                    "there is no module {other}; known are Conv, Focus, Bottleneck, C3, BottleneckCSP, SPP, SPPF, \
                     Concat, Upsample and Detect"
                )));
            }
        })
    }

    fn detect(&self, arguments: &[Argument]) -> Result<Module, NetworkError> {
        let name =
            |index: usize, expected: &str| matches!(arguments.get(index), Some(Argument::Name(n)) if n == expected);
        if name(0, "nc") && name(1, "anchors") && arguments.len() == 2 {
            Ok(Module::Detect)
        } else {
            Err(self.error(format!("the arguments must be [nc, anchors], not {arguments:?}")))
        }
    }

    /// The first argument, scaled; a number that is exactly the head's output stays as it is.
    fn output_channels(&self, model: &ModelYaml, arguments: &[Argument]) -> Result<usize, NetworkError> {
        let base = self.number(arguments, 0, None)?;
        if base == model.anchors_per_level()? * (model.nc + 5) {
            return Ok(base);
        }
        let scaled = (base as f64 * model.width_multiple / 8.0).ceil() as usize * 8;
        if scaled > MOST_CHANNELS {
            return Err(self.error(format!("{scaled} channels, at most {MOST_CHANNELS} are possible")));
        }
        Ok(scaled)
    }

    /// A positive whole number.
    fn number(&self, arguments: &[Argument], index: usize, default: Option<usize>) -> Result<usize, NetworkError> {
        match (arguments.get(index), default) {
            (Some(Argument::Number(number)), _) if (1..=1 << 16).contains(number) => {
                Ok(usize::try_from(*number).unwrap_or(1))
            }
            (None, Some(default)) => Ok(default),
            (other, _) => Err(self.error(format!("argument {index} must be a positive whole number, not {other:?}"))),
        }
    }

    /// Whether the input is added; it is unless the second argument says `false`.
    fn flag(&self, arguments: &[Argument], index: usize) -> Result<bool, NetworkError> {
        match arguments.get(index) {
            None => Ok(true),
            Some(Argument::Flag(flag)) => Ok(*flag),
            Some(other) => Err(self.error(format!("argument {index} must be true or false, not {other:?}"))),
        }
    }

    fn kernels(&self, arguments: &[Argument]) -> Result<Vec<usize>, NetworkError> {
        match arguments.get(1) {
            None => Ok(vec![5, 9, 13]),
            Some(Argument::Numbers(kernels)) if !kernels.is_empty() => {
                kernels.iter().map(|kernel| self.pool(usize::try_from(*kernel).unwrap_or(0))).collect()
            }
            Some(other) => Err(self.error(format!("argument 1 must be a list of pool sizes, not {other:?}"))),
        }
    }

    fn pool(&self, kernel: usize) -> Result<usize, NetworkError> {
        if kernel % 2 == 1 && kernel < 1_000 {
            Ok(kernel)
        } else {
            Err(self.error(format!("a pool's size must be odd, not {kernel}")))
        }
    }
}

/// `number * multiple`, rounded half to even, at least 1; a single module stays single.
fn repeats(number: usize, multiple: f64) -> usize {
    if number <= 1 {
        return number;
    }
    let scaled = (number as f64 * multiple).round_ties_even() as usize;
    scaled.max(1)
}
