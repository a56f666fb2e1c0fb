//! libtorch as an engine, and YOLO networks built from their yaml. Empty without the feature `libtorch`.
//!
//! `load` is the engine: it takes a TorchScript archive (`script`), or a yaml with its weights beside it (`native`). The
//! training tool works with the `network`s alone.

#[cfg(feature = "libtorch")]
pub mod device;
#[cfg(feature = "libtorch")]
mod error;
#[cfg(feature = "libtorch")]
mod instance;
#[cfg(feature = "libtorch")]
pub mod memory;
#[cfg(feature = "libtorch")]
mod native;
#[cfg(feature = "libtorch")]
pub mod network;
#[cfg(feature = "libtorch")]
mod on_device;
#[cfg(feature = "libtorch")]
mod outputs;
#[cfg(feature = "libtorch")]
mod probe;
#[cfg(feature = "libtorch")]
mod script;
#[cfg(feature = "libtorch")]
mod stream;
#[cfg(feature = "libtorch")]
mod tensors;

/// Loads a TorchScript archive, or, where the file is a yaml, the network that it describes with the weights beside it.
///
/// # Errors
/// `Load`: a file that is missing, damaged or something else; a device or a library that
/// is not there; a precision that the model does not take, with the operator's name; inputs that must be stated in the
/// manifest; a detector that does not fit.
#[cfg(feature = "libtorch")]
pub fn load(
    options: &detectd_engine::LoadOptions,
) -> Result<std::sync::Arc<dyn detectd_engine::Model>, detectd_engine::EngineError> {
    let yaml = options.path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    if yaml { native::load(options) } else { script::load(options) }
}
