//! A TorchScript module, safe to use.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{self, NonNull};

use detectd_engine::EngineError;
use tch::Device;

use super::ffi::{self, Failure, RawModule, check};
use crate::instance::{Compute, Output};

/// A loaded module. Its weights and its code do not change while it is run.
pub struct Module(NonNull<RawModule>);

// SAFETY: the other side holds nothing that belongs to a thread, and libtorch's interpreter takes a stack of its own for
// each call of a module.
#[expect(unsafe_code)]
unsafe impl Send for Module {}
// SAFETY: as above; what changes a module (`convert`) needs it alone.
#[expect(unsafe_code)]
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `detectd_module_load` and is freed once.
        #[expect(unsafe_code)]
        unsafe {
            ffi::detectd_module_free(self.0.as_ptr());
        }
    }
}

/// What a module's heavy operators have their weights in.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    pub half: bool,
    pub bfloat16: bool,
    pub quantised: bool,
}

impl Module {
    /// Reads an archive. Gives the text of its `config.txt` beside the module, where it has one.
    pub fn load(bytes: &[u8], device: Device) -> Result<(Self, Option<String>), EngineError> {
        let cuda = match device {
            Device::Cuda(index) => c_int::try_from(index).unwrap_or(c_int::MAX),
            _ => -1,
        };
        let mut module: *mut RawModule = ptr::null_mut();
        let mut config = Vec::new();
        check(|error| {
            // SAFETY: `bytes` is valid for its length, the other pointers for the call, and `name` fits its context.
            #[expect(unsafe_code)]
            unsafe {
                let context = (&raw mut config).cast();
                ffi::detectd_module_load(
                    bytes.as_ptr().cast(),
                    bytes.len(),
                    cuda,
                    &raw mut module,
                    name,
                    context,
                    error,
                )
            }
        })
        .map_err(Failure::loading)?;
        let module = NonNull::new(module).ok_or_else(|| EngineError::Load("no module came".into()))?;
        Ok((Self(module), config.pop()))
    }

    /// The names of the arguments that must be given.
    pub fn inputs(&self) -> Result<Vec<String>, EngineError> {
        let mut names: Vec<String> = Vec::new();
        check(|error| {
            // SAFETY: the module lives, and `name` fits its context.
            #[expect(unsafe_code)]
            unsafe {
                ffi::detectd_module_inputs(self.0.as_ptr(), name, (&raw mut names).cast(), error)
            }
        })
        .map_err(Failure::loading)?;
        Ok(names)
    }

    /// What there is of weights.
    pub fn weights(&self) -> Result<Weights, EngineError> {
        let mut bits: c_int = 0;
        check(|error| {
            // SAFETY: the module lives, and both pointers are valid for the call.
            #[expect(unsafe_code)]
            unsafe {
                ffi::detectd_module_weights(self.0.as_ptr(), &raw mut bits, error)
            }
        })
        .map_err(Failure::loading)?;
        let has = |bit| bits & bit != 0;
        Ok(Weights {
            half: has(ffi::weights::HALF),
            bfloat16: has(ffi::weights::BFLOAT16),
            quantised: has(ffi::weights::QUANTISED),
        })
    }

    /// Lets convolutions and products compute in half floats or bfloat16. What they are given is converted for them, and
    /// their weights are kept so; everything else computes in what it is given, where 32 bits meet 16 in 32.
    pub fn convert(&mut self, bfloat16: bool) -> Result<(), EngineError> {
        check(|error| {
            // SAFETY: the module lives and nobody else has it.
            #[expect(unsafe_code)]
            unsafe {
                ffi::detectd_module_convert(self.0.as_ptr(), c_int::from(bfloat16), error)
            }
        })
        .map_err(Failure::loading)
    }
}

impl Compute for Module {
    fn compute(&self, inputs: &[tch::Tensor]) -> Result<Vec<Output>, EngineError> {
        let inputs: Vec<*mut c_void> = inputs.iter().map(|tensor| tensor.as_ptr().cast_mut().cast()).collect();
        let mut outputs: Vec<Output> = Vec::new();
        check(|error| {
            // SAFETY: the module and the tensors live for the call, which only reads them; `output` fits its context.
            #[expect(unsafe_code)]
            unsafe {
                let context = (&raw mut outputs).cast();
                ffi::detectd_module_forward(self.0.as_ptr(), inputs.as_ptr(), inputs.len(), output, context, error)
            }
        })
        .map_err(Failure::running)?;
        Ok(outputs)
    }
}

/// Adds a name to the context, a `Vec<String>`.
extern "C" fn name(context: *mut c_void, name: *const c_char, _: *mut c_void) {
    // SAFETY: the caller has made the context of this type and waits for the call; a name is a C string.
    #[expect(unsafe_code)]
    unsafe {
        if !name.is_null() {
            (*context.cast::<Vec<String>>()).push(CStr::from_ptr(name).to_string_lossy().into_owned());
        }
    }
}

/// Adds a tensor to the context, a `Vec<Output>`.
extern "C" fn output(context: *mut c_void, name: *const c_char, tensor: *mut c_void) {
    // SAFETY: as above; the tensor was made for the callee, who owns it.
    #[expect(unsafe_code)]
    unsafe {
        let key = (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned());
        (*context.cast::<Vec<Output>>()).push(Output { key, tensor: tch::Tensor::from_ptr(tensor.cast()) });
    }
}
