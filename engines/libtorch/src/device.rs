//! Where a model runs.

use std::ffi::{CStr, c_int};
use std::ptr;

use detectd_engine::{Device, EngineError};

use crate::script;

/// libtorch's part for NVIDIA GPUs, which the program is not linked against: it starts where there is none.
const CUDA_LIBRARY: &CStr = c"libtorch_cuda.so";

/// The device in libtorch's terms, once it is known to be there.
///
/// # Errors
/// [`EngineError::Load`] that names the library or the device that is missing.
pub fn open(device: Device) -> Result<tch::Device, EngineError> {
    let Device::Cuda(index) = device else { return Ok(tch::Device::Cpu) };
    // Before libtorch is asked for the first time: it remembers for good that there is no CUDA.
    open_library()?;
    let mut count: c_int = 0;
    script::check(|error| {
        // SAFETY: both pointers are valid for the call.
        #[expect(unsafe_code)]
        unsafe {
            script::detectd_cuda_devices(&raw mut count, error)
        }
    })
    .map_err(script::Failure::loading)?;
    match usize::try_from(index) {
        Ok(index) if c_int::try_from(index).is_ok_and(|index| index < count) => Ok(tch::Device::Cuda(index)),
        _ => Err(EngineError::Load(format!("{device} is not there: CUDA has {count} devices, counted from 0"))),
    }
}

fn open_library() -> Result<(), EngineError> {
    // SAFETY: the name is a C string. The library's initialisers are libtorch's own; it stays open for good, as libtorch
    // keeps what they register.
    #[expect(unsafe_code)]
    let handle = unsafe { libc::dlopen(CUDA_LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !ptr::eq(handle, ptr::null_mut()) {
        return Ok(());
    }
    // SAFETY: dlerror gives null or a C string that is this thread's until its next call of the kind.
    #[expect(unsafe_code)]
    let reason = unsafe {
        let reason = libc::dlerror();
        if reason.is_null() { String::new() } else { CStr::from_ptr(reason).to_string_lossy().into_owned() }
    };
    Err(EngineError::Load(format!(
        "CUDA needs libtorch_cuda.so, which cannot be opened: {reason}; name the folders of a PyTorch with CUDA \
         (torch/lib and nvidia/*/lib) in LD_LIBRARY_PATH"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named() {
        match open(Device::Cuda(99)) {
            Err(EngineError::Load(message)) => {
                assert!(message.contains("libtorch_cuda.so") || message.contains("cuda:99"), "{message}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(open(Device::Cpu), Ok(tch::Device::Cpu));
    }
}
