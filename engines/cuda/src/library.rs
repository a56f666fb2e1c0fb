//! The libraries that are opened at run time: the driver, and the run-time compiler.
//!
//! The binding ends the program where a library is missing, so nothing of it is called before these functions have
//! found that it is there.

use std::sync::OnceLock;

use libloading::Library;

use crate::CudaError;

/// Names the file of the run-time compiler, where the loader does not find it by itself.
const COMPILER_VARIABLE: &str = "DETECTD_NVRTC";

/// Makes sure that the CUDA driver is there.
///
/// # Errors
/// [`CudaError::MissingLibrary`] with the loader's reason.
pub fn driver() -> Result<(), CudaError> {
    static FOUND: OnceLock<Result<(), CudaError>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            open("libcuda.so.1", "libcuda.so.1", "it comes with NVIDIA's driver")?;
            // SAFETY: opens and closes libraries, whose initialisers are NVIDIA's own.
            #[expect(unsafe_code)]
            let present = unsafe { cudarc::driver::sys::is_culib_present() };
            if present { Ok(()) } else { Err(unknown_name("libcuda.so.1")) }
        })
        .clone()
}

/// Makes sure that the run-time compiler is there.
///
/// # Errors
/// [`CudaError::MissingLibrary`] with the loader's reason.
pub fn compiler() -> Result<(), CudaError> {
    static FOUND: OnceLock<Result<(), CudaError>> = OnceLock::new();
    const ADVICE: &str = "install CUDA's run-time compiler (the package nvidia-cuda-nvrtc of PyPI has it) and name its \
                          folder in LD_LIBRARY_PATH, or the file in DETECTD_NVRTC";
    FOUND
        .get_or_init(|| {
            if let Some(path) = std::env::var_os(COMPILER_VARIABLE) {
                open(path, "libnvrtc.so", ADVICE)?;
            } else {
                let found = ["libnvrtc.so.13", "libnvrtc.so", "libnvrtc.so.12"];
                let opened: Vec<_> = found.iter().map(|name| open(name, "libnvrtc.so.13", ADVICE)).collect();
                if opened.iter().all(Result::is_err) {
                    return opened.into_iter().next().unwrap_or(Ok(()));
                }
            }
            // SAFETY: as above.
            #[expect(unsafe_code)]
            let present = unsafe { cudarc::nvrtc::sys::is_culib_present() };
            if present { Ok(()) } else { Err(unknown_name("libnvrtc.so")) }
        })
        .clone()
}

/// Opens a library and leaves it open, so that the loader finds it again by the name that it has of itself.
fn open(file: impl AsRef<std::ffi::OsStr>, library: &'static str, advice: &'static str) -> Result<(), CudaError> {
    // SAFETY: the library's initialisers are NVIDIA's own.
    #[expect(unsafe_code)]
    match unsafe { Library::new(file.as_ref()) } {
        Ok(library) => {
            std::mem::forget(library);
            Ok(())
        }
        Err(reason) => Err(CudaError::MissingLibrary { library, reason: reason.to_string(), advice }),
    }
}

fn unknown_name(library: &'static str) -> CudaError {
    let reason = "it is there under a name that is not known".to_owned();
    CudaError::MissingLibrary { library, reason, advice: "versions 11 to 13 of CUDA are known" }
}
