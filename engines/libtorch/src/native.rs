//! A network from its yaml, with the weights beside it: no TorchScript.

use std::fs;
use std::sync::Arc;

use detectd_engine::{DetectorOptions, EngineError, LoadOptions, Model, Precision};
use detectd_vision::{Family, Head};
use tch::{Device, Kind};

use crate::instance::{Compute, Loaded, Output, use_threads};
use crate::network::{Decoder, ModelYaml, Network, NetworkError, Pass, Plan, read_safetensors};
use crate::{device, error, outputs, probe};

/// Loads `<name>.yaml` and `<name>.safetensors`.
pub fn load(options: &LoadOptions) -> Result<Arc<dyn Model>, EngineError> {
    let device = device::open(options.device)?;
    use_threads(options.threads);
    let precision = options.precision.unwrap_or_default();
    let kind = match precision {
        Precision::Fp32 => Kind::Float,
        Precision::Fp16 => Kind::Half,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Int8 => {
            return Err(EngineError::Load(
                "precision int8 was asked for; a network from a yaml computes in fp32, fp16 or bf16".into(),
            ));
        }
    };
    let options = LoadOptions { detector: Some(detector(options)?), ..options.clone() };
    let native = tch::no_grad(|| read(&options, device, kind))?;
    let fits = |found: &probe::Found| outputs::spec(&options, precision, found.clone()).map(drop);
    let trial = probe::Trial { compute: &native, device, float: Kind::Float, options: &options, fits: &fits };
    let found = trial.find(&["images".to_owned()], None)?;
    let (spec, served) = outputs::spec(&options, precision, found)?;
    let compute = Arc::new(native);
    Loaded { spec, compute, served, device, float: Kind::Float, threads: options.threads }.shared(options.device)
}

/// The outputs are decoded here, whatever the network's own heads are.
fn detector(options: &LoadOptions) -> Result<DetectorOptions, EngineError> {
    let Some(wanted) = &options.detector else {
        return Err(EngineError::Load(
            "a network from a yaml is a detector, the manifest has task = \"tensor\"".into(),
        ));
    };
    match &wanted.head {
        None | Some(Head::Yolov5) => {}
        Some(head) => {
            return Err(EngineError::Load(format!(
                "a network from a yaml has its boxes decoded: leave `head` out of the manifest, which states {head:?}"
            )));
        }
    }
    match wanted.family {
        None | Some(Family::Yolov5) => {}
        Some(family) => {
            return Err(EngineError::Load(format!("a network from a yaml is of the family yolov5, not {family:?}")));
        }
    }
    if !options.inputs.is_empty() {
        return Err(EngineError::Load(
            "a network from a yaml knows its input: leave `inputs` out of the manifest".into(),
        ));
    }
    Ok(DetectorOptions { family: Some(Family::Yolov5), head: Some(Head::Yolov5), ..wanted.clone() })
}

/// A network and what turns its outputs into rows.
struct Native {
    network: Network,
    decoder: Decoder,
    pass: Pass,
}

// SAFETY: computing reads the weights and changes nothing; libtorch counts references to tensors atomically.
#[expect(unsafe_code)]
unsafe impl Sync for Native {}

fn read(options: &LoadOptions, device: Device, kind: Kind) -> Result<Native, EngineError> {
    let path = &options.path;
    let text = fs::read_to_string(path).map_err(|error| EngineError::Load(format!("{}: {error}", path.display())))?;
    let model = ModelYaml::parse(&text).map_err(loading)?;
    let classes = options.detector.as_ref().map_or(0, |detector| detector.classes);
    if model.nc != classes {
        let nc = model.nc;
        return Err(EngineError::Load(format!("{} has nc: {nc}, but there are {classes} labels", path.display())));
    }
    let plan = Plan::new(&model).map_err(loading)?;
    let (weights, _) = read_safetensors(&path.with_extension("safetensors")).map_err(loading)?;
    let network = Network::with_weights(plan, weights).map_err(loading)?;
    let decoder = Decoder::new(&network.plan().detect).map_err(loading)?.on(device).map_err(loading)?;
    let network = network.folded().and_then(|network| network.converted(device, kind)).map_err(loading)?;
    Ok(Native { network, decoder, pass: Pass { training: false, precision: kind } })
}

impl Compute for Native {
    fn compute(&self, inputs: &[tch::Tensor]) -> Result<Vec<Output>, EngineError> {
        let [pictures] = inputs else {
            return Err(EngineError::Backend(format!("{} inputs for a network of one", inputs.len())));
        };
        let rows = tch::no_grad(|| self.decoder.decode(&self.network.forward(pictures, self.pass)?));
        match rows {
            Ok(tensor) => Ok(vec![Output { key: None, tensor }]),
            Err(NetworkError::Torch(failure)) => Err(error::failure(&failure.to_string())),
            Err(failure) => Err(EngineError::Backend(failure.to_string())),
        }
    }
}

fn loading(failure: NetworkError) -> EngineError {
    match failure {
        NetworkError::Torch(failure) => error::load(&failure.to_string()),
        failure => EngineError::Load(failure.to_string()),
    }
}
