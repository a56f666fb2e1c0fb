//! The command line, as arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Draws training data, trains detectors on it, measures them, and publishes them for the daemon.
///
/// From nothing to a served detector:
///
///   detectd-train train --settings deploy/training/workbench.yaml --run runs/workbench
///   detectd-train evaluate --weights runs/workbench/best.safetensors
///   detectd-train publish --weights runs/workbench/best.safetensors --models deploy/models
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Draw scenes and write them as PNG files with their boxes, to look at or to test a detector with.
    Scenes(Scenes),
    /// Compare detections with the boxes that `scenes` has written: precision, recall, mAP. Needs no network.
    Score(Score),
    /// Train a network as a settings file says. Ctrl-C loses at most one epoch: go on with --resume.
    Train(Train),
    /// Measure trained weights on held-out scenes.
    Evaluate(Evaluate),
    /// Write trained weights as an ONNX or TorchScript file.
    Export(Export),
    /// Write a version of a model for the daemon's repository: ONNX file, labels, digests, model card, golden pictures.
    Publish(Publish),
}

/// Arguments of `scenes`.
#[derive(Debug, Args)]
pub struct Scenes {
    /// Folder to write 0000.png, 0001.png... and labels.json into.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// How many scenes.
    #[arg(long, default_value_t = 20)]
    pub count: u32,
    /// Width and height, such as 640x480.
    #[arg(long, value_name = "WxH", default_value = "480x480", value_parser = size)]
    pub size: [u32; 2],
    /// Number of the first scene; by default the first held-out one, which no training uses.
    #[arg(long)]
    pub first: Option<u64>,
}

/// Arguments of `score`.
#[derive(Debug, Args)]
pub struct Score {
    /// labels.json of a folder that `scenes` has written.
    #[arg(long, value_name = "FILE")]
    pub labels: PathBuf,
    /// Detections: {"0000.png": [{"class_id": 0, "score": 0.9, "bbox": {"x1": 1, "y1": 2, "x2": 3, "y2": 4}}], ...}
    #[arg(long, value_name = "FILE")]
    pub detections: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `train`.
#[derive(Debug, Args)]
pub struct Train {
    /// The settings; deploy/training/workbench.yaml shows all keys.
    #[arg(long, value_name = "FILE")]
    pub settings: PathBuf,
    /// Folder for checkpoints, figures and the report.
    #[arg(long, value_name = "FOLDER")]
    pub run: PathBuf,
    /// Go on where the run in the folder has stopped.
    #[arg(long)]
    pub resume: bool,
    /// Begin with these weights, as far as names and shapes agree.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub weights: Option<PathBuf>,
}

/// Arguments of `evaluate`.
#[derive(Debug, Args)]
pub struct Evaluate {
    /// Weights that `train` has written.
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    /// How many held-out scenes.
    #[arg(long, default_value_t = 1000)]
    pub count: u32,
    /// Their width and height.
    #[arg(long, value_name = "WxH", default_value = "480x480", value_parser = size)]
    pub size: [u32; 2],
    /// Threads.
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Weights that `train` has written.
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Kind of file.
    #[arg(long, value_enum, default_value = "onnx")]
    pub format: Format,
    /// What the model answers with.
    #[arg(long, value_enum, default_value = "decoded")]
    pub output: ExportOutput,
    /// Width and height of the input; by default what it was trained with.
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub input: Option<[u32; 2]>,
    /// Fix the number of pictures per run; by default it stays open.
    #[arg(long)]
    pub batch: Option<usize>,
}

/// Kind of file.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// ONNX, operators of version 17.
    Onnx,
    /// TorchScript.
    Torchscript,
}

/// What an exported model answers with.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ExportOutput {
    /// [N, rows, 5 + classes]: boxes in input pixels and probabilities.
    Decoded,
    /// One tensor of raw numbers for each level.
    Raw,
}

/// Arguments of `publish`.
#[derive(Debug, Args)]
pub struct Publish {
    /// Weights that `train` has written.
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    /// The daemon's model repository.
    #[arg(long, value_name = "FOLDER")]
    pub models: PathBuf,
    /// Number of the version; it must not exist yet.
    #[arg(long, default_value_t = 1)]
    pub version: u64,
    /// Held-out scenes for the figures of the model card.
    #[arg(long, default_value_t = 1000)]
    pub count: u32,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
}

/// Reads `640x480`.
fn size(text: &str) -> Result<[u32; 2], String> {
    let side = |text: &str| text.parse::<u32>().ok().filter(|side| (32..=4096).contains(side));
    text.split_once('x')
        .and_then(|(width, height)| Some([side(width)?, side(height)?]))
        .ok_or_else(|| format!("expected WIDTHxHEIGHT with sides from 32 to 4096, such as 640x480, not `{text}`"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(size("640x480"), Ok([640, 480]));
        for wrong in ["640", "640x", "x480", "16x640", "640x99999", "-1x640"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
