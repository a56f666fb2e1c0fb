//! `detectd-train export`

use anyhow::Result;
use detectd_train::export::{Options, Output, write_onnx, write_torchscript};
use detectd_train::scenes::CLASSES;
use detectd_train::training::TrainedModel;

use crate::cli::{self, ExportOutput, Format};

/// Reads and writes.
pub fn run(arguments: &cli::Export) -> Result<()> {
    let model = TrainedModel::read(&arguments.weights)?;
    let [width, height] = arguments.input.unwrap_or([model.settings.input; 2]);
    let options = Options {
        width: width as usize,
        height: height as usize,
        batch: arguments.batch,
        output: match arguments.output {
            ExportOutput::Decoded => Output::Decoded,
            ExportOutput::Raw => Output::Raw,
        },
        labels: &CLASSES,
    };
    match arguments.format {
        Format::Onnx => write_onnx(&model.network, &options, &arguments.out)?,
        Format::Torchscript => write_torchscript(&model.network, &options, &arguments.out)?,
    }
    println!("{}", arguments.out.display());
    Ok(())
}
