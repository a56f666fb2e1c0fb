//! TorchScript: the network traced on an example.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use detectd_libtorch::network::{Decoder, Network, Pass};
use tch::{CModule, Device, Kind, Tensor};

use super::{Options, Output};

/// Writes a TorchScript file of the network with its batch normalisations folded.
///
/// Tracing fixes the input's size; the number of pictures stays open, whatever `options.batch` says.
pub fn write_torchscript(network: &Network, options: &Options<'_>, path: &Path) -> Result<()> {
    ensure!(options.output == Output::Decoded, "a traced network has one output: export it decoded, or to ONNX");
    let folded = network.folded()?;
    options.check(&folded.plan().detect)?;
    let sides = [options.batch.unwrap_or(1) as i64, 3, options.height as i64, options.width as i64];
    let example = Tensor::f_zeros(sides, (Kind::Float, Device::Cpu))?;
    let decoder = Decoder::new(&folded.plan().detect)?.for_input(options.width, options.height)?;
    let compute = |pictures: &Tensor| -> Result<Vec<Tensor>> {
        let levels = folded.forward(pictures, Pass::INFERENCE)?;
        Ok(vec![decoder.decode(&levels)?])
    };
    // Whatever fails must fail here: the tracer's closure has no way to say so.
    tch::no_grad(|| compute(&example))?;
    let mut failure = None;
    let traced = tch::no_grad(|| {
        CModule::create_by_tracing("Detector", "forward", &[example], &mut |inputs: &[Tensor]| {
            compute(&inputs[0]).unwrap_or_else(|error| {
                failure = Some(error);
                Vec::new()
            })
        })
    });
    if let Some(error) = failure {
        return Err(error.context("tracing the network"));
    }
    let module = traced.context("tracing the network")?;
    module.save(path).map_err(|error| anyhow!("writing {}: {error}", path.display()))
}
