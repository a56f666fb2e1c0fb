//! TorchScript archives as models.

mod archive;
pub mod ffi;
mod module;

use std::sync::Arc;

use detectd_engine::{EngineError, LoadOptions, Model, Precision};
use tch::Kind;

use self::archive::Config;
use self::module::{Module, Weights};
use crate::instance::{Loaded, use_threads};
use crate::{device, outputs, probe};

pub use ffi::{Failure, check, detectd_cuda_devices};

/// Loads an archive.
pub fn load(options: &LoadOptions) -> Result<Arc<dyn Model>, EngineError> {
    let bytes = archive::read(&options.path)?;
    let device = device::open(options.device)?;
    use_threads(options.threads);
    let (mut module, config) = Module::load(&bytes, device)?;
    drop(bytes);
    let config = config.map(|text| Config::parse(&text)).unwrap_or_default();
    let (precision, float) = set_precision(&mut module, options.precision)?;
    let names = module.inputs()?;
    let fits = |found: &probe::Found| outputs::spec(options, precision, found.clone()).map(drop);
    let made = probe::Trial { compute: &module, device, float, options, fits: &fits };
    let found = made.find(&names, config.input_size()).map_err(|error| in_precision(error, options.precision))?;
    let (spec, served) = outputs::spec(options, precision, found)?;
    Loaded { spec, compute: Arc::new(module), served, device, float, threads: options.threads }.shared(options.device)
}

/// Brings the module to the wanted precision; gives that which its heavy operators compute in, and what it is fed with.
fn set_precision(module: &mut Module, wanted: Option<Precision>) -> Result<(Precision, Kind), EngineError> {
    let stored = stored(module.weights()?);
    // A module that was exported in 16 bits takes nothing else.
    let float = match stored {
        Precision::Fp16 => Kind::Half,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Fp32 | Precision::Int8 => Kind::Float,
    };
    match wanted {
        None => Ok((stored, float)),
        Some(wanted) if wanted == stored => Ok((stored, float)),
        Some(Precision::Int8) => Err(EngineError::Load(format!(
            "precision int8 was asked for, the module is {stored}; libtorch runs int8 where the module was quantised \
             before it was exported"
        ))),
        Some(wanted @ (Precision::Fp16 | Precision::Bf16)) if stored == Precision::Fp32 => {
            module.convert(wanted == Precision::Bf16).map_err(|error| in_precision(error, Some(wanted)))?;
            Ok((wanted, float))
        }
        Some(wanted) => Err(EngineError::Load(format!(
            "precision {wanted} was asked for, the module is {stored}; what can be converted is fp32, to fp16 and bf16"
        ))),
    }
}

fn stored(weights: Weights) -> Precision {
    match weights {
        Weights { quantised: true, .. } => Precision::Int8,
        Weights { bfloat16: true, .. } => Precision::Bf16,
        Weights { half: true, .. } => Precision::Fp16,
        _ => Precision::Fp32,
    }
}

/// Says that the failure is one of the converted module.
fn in_precision(error: EngineError, wanted: Option<Precision>) -> EngineError {
    match (error, wanted) {
        (EngineError::Load(message), Some(wanted @ (Precision::Fp16 | Precision::Bf16))) => {
            EngineError::Load(format!("the module does not run in {wanted}: {message}"))
        }
        (error, _) => error,
    }
}
