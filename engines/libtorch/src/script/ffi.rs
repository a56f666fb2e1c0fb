//! The functions of `module.h`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use detectd_engine::EngineError;

/// A module on the other side.
#[repr(C)]
pub struct RawModule {
    _opaque: [u8; 0],
}

/// Bits that [`detectd_module_weights`] gives.
pub mod weights {
    use super::c_int;

    pub const HALF: c_int = 2;
    pub const BFLOAT16: c_int = 4;
    pub const QUANTISED: c_int = 8;
}

/// A name and a tensor; either may be null.
pub type Tell = extern "C" fn(context: *mut c_void, name: *const c_char, tensor: *mut c_void);

#[expect(unsafe_code)]
unsafe extern "C" {
    pub fn detectd_cuda_devices(count: *mut c_int, error: *mut *mut c_char) -> c_int;
    pub fn detectd_stream_new(
        cuda: c_int,
        number: *mut i64,
        handle: *mut *mut c_void,
        error: *mut *mut c_char,
    ) -> c_int;
    pub fn detectd_stream_use(cuda: c_int, number: i64, error: *mut *mut c_char) -> c_int;
    pub fn detectd_tensor_address(tensor: *const c_void, address: *mut u64, error: *mut *mut c_char) -> c_int;
    pub fn detectd_module_load(
        bytes: *const c_char,
        length: usize,
        cuda: c_int,
        module: *mut *mut RawModule,
        extra: Tell,
        context: *mut c_void,
        error: *mut *mut c_char,
    ) -> c_int;
    pub fn detectd_module_free(module: *mut RawModule);
    pub fn detectd_module_inputs(
        module: *const RawModule,
        input: Tell,
        context: *mut c_void,
        error: *mut *mut c_char,
    ) -> c_int;
    pub fn detectd_module_weights(module: *const RawModule, weights: *mut c_int, error: *mut *mut c_char) -> c_int;
    pub fn detectd_module_convert(module: *mut RawModule, bfloat16: c_int, error: *mut *mut c_char) -> c_int;
    pub fn detectd_module_forward(
        module: *const RawModule,
        inputs: *const *mut c_void,
        count: usize,
        output: Tell,
        context: *mut c_void,
        error: *mut *mut c_char,
    ) -> c_int;
}

/// Why a call failed.
pub enum Failure {
    /// There is no memory.
    OutOfMemory(String),
    /// Anything else, in libtorch's words.
    Other(String),
}

impl Failure {
    /// As a failure of an execution.
    pub fn running(self) -> EngineError {
        match self {
            Self::OutOfMemory(message) => EngineError::OutOfMemory(crate::error::concise(&message)),
            Self::Other(message) => crate::error::failure(&message),
        }
    }

    /// As a failure to load.
    pub fn loading(self) -> EngineError {
        match self {
            Self::OutOfMemory(message) => EngineError::OutOfMemory(crate::error::concise(&message)),
            Self::Other(message) => crate::error::load(&message),
        }
    }
}

/// Makes a call and takes its message over.
pub fn check(call: impl FnOnce(*mut *mut c_char) -> c_int) -> Result<(), Failure> {
    let mut error: *mut c_char = ptr::null_mut();
    let status = call(&raw mut error);
    let message = take(error);
    match status {
        0 => Ok(()),
        2 => Err(Failure::OutOfMemory(message)),
        _ => Err(Failure::Other(message)),
    }
}

fn take(error: *mut c_char) -> String {
    if error.is_null() {
        return "no message".into();
    }
    // SAFETY: a message is a C string from malloc, given to the caller, who frees it once.
    #[expect(unsafe_code)]
    unsafe {
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        libc::free(error.cast());
        message
    }
}
