//! Writes exported networks with an input and libtorch's answers, for `tests/check_onnx.py`: `onnx_cases FOLDER`.

#[cfg(feature = "libtorch")]
fn main() -> anyhow::Result<()> {
    use std::path::PathBuf;

    use anyhow::Context;
    use detectd_libtorch::network::{Architecture, Decoder, ModelYaml, Network, Pass, Scale};
    use detectd_train::export::{Options, Output, write_onnx};
    use tch::{Device, Kind, Tensor};

    let folder = PathBuf::from(std::env::args().nth(1).context("usage: onnx_cases FOLDER")?);
    std::fs::create_dir_all(&folder)?;
    let (width, height) = (320, 192);
    let labels: Vec<String> = (0..80).map(|class| format!("class {class}")).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    for (release, architecture) in [("v5", Architecture::V5), ("v6", Architecture::V6)] {
        for (size, scale) in [("n", Scale::N), ("s", Scale::S), ("m", Scale::M), ("l", Scale::L), ("x", Scale::X)] {
            let network = Network::new(&ModelYaml::released(architecture, scale, 80)?, 1)?;
            for (name, weight) in network.weights() {
                if name.contains(".bn.") {
                    // Normalisations that do something; the range keeps deep networks' values moderate.
                    let _filled = tch::no_grad(|| weight.shallow_clone().f_uniform_(0.8, 1.2))?;
                }
            }
            let pictures = Tensor::f_rand([2, 3, height as i64, width as i64], (Kind::Float, Device::Cpu))?;
            let levels = tch::no_grad(|| network.forward(&pictures, Pass::INFERENCE))?;
            let rows = Decoder::new(&network.plan().detect)?.decode(&levels)?;
            for (kind, output, answers) in [("decoded", Output::Decoded, vec![rows]), ("raw", Output::Raw, levels)] {
                let options = Options { width, height, batch: None, output, labels: &labels };
                let name = format!("{release}{size}-{kind}");
                write_onnx(&network, &options, &folder.join(format!("{name}.onnx")))?;
                pictures.write_npy(folder.join(format!("{name}-input.npy")))?;
                for (index, answer) in answers.iter().enumerate() {
                    answer.f_contiguous()?.write_npy(folder.join(format!("{name}-output{index}.npy")))?;
                }
                println!("{name}");
            }
        }
    }
    Ok(())
}

#[cfg(not(feature = "libtorch"))]
fn main() {
    eprintln!("onnx_cases needs the feature libtorch");
}
