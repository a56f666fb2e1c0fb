//! The kernels' sources to code for a device, by NVRTC.

use std::ffi::CString;

use cudarc::nvrtc::{result, sys};

use crate::{CudaError, library};

/// What code is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Machine code for devices of this compute capability, such as 90 for 9.0.
    Machine(u32),
    /// Code that the driver translates for devices of this compute capability and newer ones.
    Portable(u32),
}

impl Target {
    /// As the compiler knows it.
    #[must_use]
    pub fn architecture(self) -> String {
        match self {
            Self::Machine(capability) => format!("sm_{capability}"),
            Self::Portable(capability) => format!("compute_{capability}"),
        }
    }
}

/// The run-time compiler.
#[derive(Clone, Debug)]
pub struct Compiler {
    version: (i32, i32),
    capabilities: Vec<u32>,
}

impl Compiler {
    /// Opens the compiler's library.
    ///
    /// # Errors
    /// [`CudaError::MissingLibrary`], or what the library says.
    pub fn open() -> Result<Self, CudaError> {
        library::compiler()?;
        let (mut major, mut minor, mut count) = (0, 0, 0);
        let failed = |error: result::NvrtcError| CudaError::Driver(format!("NVRTC: {error}"));
        // SAFETY: the pointers are valid for the calls.
        #[expect(unsafe_code)]
        unsafe {
            sys::nvrtcVersion(&raw mut major, &raw mut minor).result().map_err(failed)?;
            sys::nvrtcGetNumSupportedArchs(&raw mut count).result().map_err(failed)?;
        }
        let mut capabilities = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: there is room for as many as the library has said.
        #[expect(unsafe_code)]
        unsafe {
            sys::nvrtcGetSupportedArchs(capabilities.as_mut_ptr()).result().map_err(failed)?;
        }
        let mut capabilities: Vec<u32> = capabilities.into_iter().filter_map(|one| u32::try_from(one).ok()).collect();
        capabilities.sort_unstable();
        Ok(Self { version: (major, minor), capabilities })
    }

    /// Its version: major, minor.
    #[must_use]
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// The compute capabilities that it knows, ascending.
    #[must_use]
    pub fn capabilities(&self) -> &[u32] {
        &self.capabilities
    }

    /// What to compile for on a device: its own code, or what its driver can translate where it is newer than the
    /// compiler.
    ///
    /// # Errors
    /// [`CudaError::Compile`]: the device is older than what the compiler knows.
    pub fn target(&self, capability: u32) -> Result<Target, CudaError> {
        if self.capabilities.contains(&capability) {
            return Ok(Target::Machine(capability));
        }
        let older = self.capabilities.iter().rev().find(|known| **known < capability);
        older.map(|known| Target::Portable(*known)).ok_or_else(|| CudaError::Compile {
            architecture: format!("sm_{capability}"),
            reason: format!(
                "NVRTC {}.{} knows {:?} and newer",
                self.version.0,
                self.version.1,
                self.capabilities.first()
            ),
        })
    }

    /// Compiles a source. Every operation rounds by itself, as on the CPU.
    ///
    /// # Errors
    /// [`CudaError::Compile`] with the compiler's messages.
    pub fn compile(&self, source: &str, target: Target) -> Result<Vec<u8>, CudaError> {
        let architecture = target.architecture();
        let failed = |reason: String| CudaError::Compile { architecture: architecture.clone(), reason };
        let source = CString::new(source).map_err(|_| failed("there is a zero in the source".into()))?;
        let program =
            Program(result::create_program(&source, Some(c"kernels.cu")).map_err(|error| failed(error.to_string()))?);
        let options = [format!("--gpu-architecture={architecture}"), "--std=c++17".into(), "--fmad=false".into()];
        // SAFETY: the program was created above and is destroyed below.
        #[expect(unsafe_code)]
        if let Err(error) = unsafe { result::compile_program(program.0, &options) } {
            return Err(failed(format!("{error}\n{}", program.log())));
        }
        program.code(target).map_err(|error| failed(error.to_string()))
    }
}

struct Program(sys::nvrtcProgram);

impl Program {
    fn log(&self) -> String {
        // SAFETY: the program lives.
        #[expect(unsafe_code)]
        let log = unsafe { result::get_program_log(self.0) }.unwrap_or_default();
        let bytes: Vec<u8> = log.into_iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Machine code, or text that ends with a zero.
    fn code(&self, target: Target) -> Result<Vec<u8>, result::NvrtcError> {
        let mut length = 0;
        // SAFETY: the program lives and was compiled; there is room for as much as the library has said.
        #[expect(unsafe_code)]
        unsafe {
            match target {
                Target::Machine(_) => sys::nvrtcGetCUBINSize(self.0, &raw mut length).result()?,
                Target::Portable(_) => sys::nvrtcGetPTXSize(self.0, &raw mut length).result()?,
            }
            let mut code = vec![0_u8; length];
            match target {
                Target::Machine(_) => sys::nvrtcGetCUBIN(self.0, code.as_mut_ptr().cast()).result()?,
                Target::Portable(_) => sys::nvrtcGetPTX(self.0, code.as_mut_ptr().cast()).result()?,
            }
            Ok(code)
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once. What it says cannot be acted on.
        #[expect(unsafe_code)]
        let _ = unsafe { result::destroy_program(self.0) };
    }
}
