//! The functions of `emulator.cpp`.

use detectd_cuda::{CudaError, Kernel};

#[cfg(has_compiler)]
pub use compiled::launch;

#[cfg(not(has_compiler))]
pub fn launch(kernel: Kernel, _: [u32; 2], _: u32, _: &[u64], _: u32) -> Result<(), CudaError> {
    Err(CudaError::Driver(format!("{}: there was no C++ compiler for the kernels", kernel.name())))
}

#[cfg(has_compiler)]
mod compiled {
    use std::ffi::{CStr, CString, c_char, c_int, c_void};
    use std::sync::Mutex;

    use super::{CudaError, Kernel};

    /// The emulator has one set of threads and of shared memory.
    static EMULATOR: Mutex<()> = Mutex::new(());

    #[expect(unsafe_code)]
    unsafe extern "C" {
        fn emulator_argument_bytes(name: *const c_char) -> usize;
        fn emulator_launch(
            name: *const c_char,
            across: u32,
            down: u32,
            threads: u32,
            arguments: *const c_void,
            seed: u32,
            error: *mut c_char,
            length: usize,
        ) -> c_int;
    }

    /// Runs a kernel to its end.
    pub fn launch(
        kernel: Kernel,
        [across, down]: [u32; 2],
        threads: u32,
        arguments: &[u64],
        seed: u32,
    ) -> Result<(), CudaError> {
        let name = CString::new(kernel.name()).map_err(|_| CudaError::Driver("a kernel's name".into()))?;
        // SAFETY: the name is a C string.
        #[expect(unsafe_code)]
        let expected = unsafe { emulator_argument_bytes(name.as_ptr()) };
        if expected.next_multiple_of(8) != arguments.len() * 8 {
            let got = arguments.len() * 8;
            return Err(CudaError::Driver(format!("{}: {got} bytes of arguments, expected {expected}", kernel.name())));
        }
        let mut message = [0; 512];
        let guard = EMULATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: the arguments have the kernel's size and alignment; the caller of `Queue::launch` has promised the rest.
        #[expect(unsafe_code)]
        let status = unsafe {
            let arguments = arguments.as_ptr().cast();
            emulator_launch(name.as_ptr(), across, down, threads, arguments, seed, message.as_mut_ptr(), message.len())
        };
        drop(guard);
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the emulator has ended the message with a zero.
        #[expect(unsafe_code)]
        let text = unsafe { CStr::from_ptr(message.as_ptr()) };
        Err(CudaError::Driver(text.to_string_lossy().into_owned()))
    }
}
