//! Trained networks as files that engines load: ONNX by a writer of our own, TorchScript by tracing.

mod graph;
mod messages;
#[cfg(test)]
mod tests;
mod torchscript;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use detectd_libtorch::network::{Detect, Network};
use prost::Message;

use graph::GraphWriter;
use messages::{Attribute, Entry, Model, OperatorSet, Side, ValueInfo};

pub use torchscript::write_torchscript;

/// What an exported model answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// One tensor `output` [N, rows, 5 + classes]: centre and sides in input pixels, probabilities.
    Decoded,
    /// One tensor a level, `p3`, `p4`..., [N, anchors * (5 + classes), height, width]: raw numbers.
    Raw,
}

/// How a network is exported.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Width of the input, a multiple of the largest stride.
    pub width: usize,
    /// Height of the input, a multiple of the largest stride.
    pub height: usize,
    /// Pictures per run; `None` leaves it open.
    pub batch: Option<usize>,
    /// What comes out.
    pub output: Output,
    /// Class names, for the metadata.
    pub labels: &'a [&'a str],
}

/// Operators are those of this version.
const OPSET: i64 = 17;
/// The file format of that time.
const IR_VERSION: i64 = 8;

impl Options<'_> {
    fn check(&self, detect: &Detect) -> Result<()> {
        let stride = detect.strides.iter().max().copied().unwrap_or(32);
        for side in [self.width, self.height] {
            ensure!(
                (stride..=8192).contains(&side) && side.is_multiple_of(stride),
                "the input's sides must be multiples of {stride} up to 8192, not {}x{}",
                self.width,
                self.height
            );
        }
        ensure!(self.batch.is_none_or(|batch| (1..=4096).contains(&batch)), "the batch must be between 1 and 4096");
        ensure!(self.labels.len() == detect.classes, "{} labels for {} classes", self.labels.len(), detect.classes);
        Ok(())
    }
}

/// Writes an ONNX file of the network with its batch normalisations folded.
pub fn write_onnx(network: &Network, options: &Options<'_>, path: &Path) -> Result<()> {
    let model = onnx_model(&network.folded()?, options)?;
    std::fs::write(path, model.encode_to_vec()).with_context(|| format!("writing {}", path.display()))
}

fn onnx_model(folded: &Network, options: &Options<'_>) -> Result<Model> {
    let detect = &folded.plan().detect;
    options.check(detect)?;
    let batch = || match options.batch {
        Some(batch) => Side::Value(batch as i64),
        None => Side::Name("batch".into()),
    };
    let sides = |sides: &[usize]| {
        std::iter::once(batch()).chain(sides.iter().map(|side| Side::Value(*side as i64))).collect::<Vec<_>>()
    };
    let mut writer = GraphWriter::new("detector", folded.weights());
    writer.graph.input.push(ValueInfo::floats("images", sides(&[3, options.height, options.width])));
    let levels = folded.plan().run(&mut writer, &"images".to_owned())?;
    let per_anchor = detect.outputs_per_anchor();
    match options.output {
        Output::Raw => {
            for (index, (level, stride)) in levels.iter().zip(&detect.strides).enumerate() {
                let name = writer.node(&format!("p{}", index + 3), "Identity", &[level], vec![]);
                let channels = detect.anchors_per_level * per_anchor;
                let shape = sides(&[channels, options.height / stride, options.width / stride]);
                writer.graph.output.push(ValueInfo::floats(&name, shape));
            }
        }
        Output::Decoded => {
            let cells: usize =
                detect.strides.iter().map(|stride| (options.height / stride) * (options.width / stride)).sum();
            let rows = decoded(&mut writer, detect, &levels, options)?;
            let shape = sides(&[cells * detect.anchors_per_level, per_anchor]);
            writer.graph.output.push(ValueInfo::floats(&rows, shape));
        }
    }
    Ok(Model {
        ir_version: IR_VERSION,
        producer_name: "detectd-train".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(writer.graph),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
        metadata_props: metadata(detect, options)?,
    })
}

/// Adds what turns raw outputs into boxes: the same formulas as
/// [`Decoder`](detectd_libtorch::network::Decoder), with the cells and priors as constants.
fn decoded(writer: &mut GraphWriter<'_>, detect: &Detect, levels: &[String], options: &Options<'_>) -> Result<String> {
    ensure!(detect.anchors.len() == levels.len(), "the model file leaves its anchors blank; decoding needs them");
    let (anchors, outputs) = (detect.anchors_per_level as i64, detect.outputs_per_anchor() as i64);
    let two = writer.floats("decode.two", &[], &[2.0]);
    let parts = writer.ints("decode.parts", &[2, 2, outputs - 4]);
    let mut rows = Vec::new();
    for (index, level) in levels.iter().enumerate() {
        let name = format!("decode.{index}");
        let stride = detect.strides[index];
        let (height, width) = (options.height / stride, options.width / stride);
        // A 0 keeps the batch as it is.
        let split = writer.ints(&format!("{name}.split"), &[0, anchors, outputs, height as i64, width as i64]);
        let x = writer.node(&format!("{name}.levels"), "Reshape", &[level, &split], vec![]);
        let order = vec![Attribute::ints("perm", &[0, 1, 3, 4, 2])];
        let x = writer.node(&format!("{name}.rows"), "Transpose", &[&x], order);
        let x = writer.node(&format!("{name}.sigmoid"), "Sigmoid", &[&x], vec![]);
        let pieces = ["centre", "side", "scores"].map(|part| format!("{name}.{part}"));
        writer.graph.node.push(messages::Node {
            input: vec![x, parts.clone()],
            output: pieces.to_vec(),
            name: format!("{name}.pieces"),
            op_type: "Split".into(),
            attribute: vec![Attribute::int("axis", 4)],
        });

        // centre = 2 sigmoid * stride + (cell - 0.5) * stride
        let pixels = stride as f32;
        let cells: Vec<f32> = (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| [(x as f32 - 0.5) * pixels, (y as f32 - 0.5) * pixels]))
            .collect();
        let cells = writer.floats(&format!("{name}.cells"), &[1, 1, height as i64, width as i64, 2], &cells);
        let double = writer.floats(&format!("{name}.double_stride"), &[], &[2.0 * pixels]);
        let centre = writer.node(&format!("{name}.centre.scaled"), "Mul", &[&pieces[0], &double], vec![]);
        let centre = writer.node(&format!("{name}.centre.placed"), "Add", &[&centre, &cells], vec![]);

        // side = (2 sigmoid)^2 * prior
        let priors: Vec<f32> = detect.anchors[index].iter().flat_map(|(w, h)| [*w as f32, *h as f32]).collect();
        let priors = writer.floats(&format!("{name}.priors"), &[1, anchors, 1, 1, 2], &priors);
        let side = writer.node(&format!("{name}.side.doubled"), "Mul", &[&pieces[1], &two], vec![]);
        let side = writer.node(&format!("{name}.side.squared"), "Mul", &[&side, &side], vec![]);
        let side = writer.node(&format!("{name}.side.scaled"), "Mul", &[&side, &priors], vec![]);

        let joined = vec![Attribute::int("axis", 4)];
        let x = writer.node(&format!("{name}.joined"), "Concat", &[&centre, &side, &pieces[2]], joined);
        let flat = writer.ints(&format!("{name}.flat"), &[0, anchors * (height * width) as i64, outputs]);
        rows.push(writer.node(&format!("{name}.out"), "Reshape", &[&x, &flat], vec![]));
    }
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    Ok(writer.node("output", "Concat", &rows, vec![Attribute::int("axis", 1)]))
}

/// What a reader of the file may want to know, in the words that YOLOv5's exports use.
fn metadata(detect: &Detect, options: &Options<'_>) -> Result<Vec<Entry>> {
    let names: std::collections::BTreeMap<usize, &str> = options.labels.iter().copied().enumerate().collect();
    let entry = |key: &str, value: String| Entry { key: key.into(), value };
    Ok(vec![
        entry("names", serde_json::to_string(&names)?),
        entry("stride", detect.strides.iter().max().copied().unwrap_or(32).to_string()),
        entry("anchors", serde_json::to_string(&detect.anchors)?),
    ])
}
