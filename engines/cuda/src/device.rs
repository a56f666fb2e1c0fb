//! A device: its context, and the kernels on it.

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DriverError};
use cudarc::nvrtc::Ptx;

use crate::cache::Cache;
use crate::compile::{Compiler, Target};
use crate::{CudaError, Kernel, kernels, library};

/// An NVIDIA GPU with the kernels loaded. Shared by all instances on it; which one it is, is always said.
pub struct Device {
    context: Arc<CudaContext>,
    ordinal: u32,
    functions: Vec<CudaFunction>,
}

impl Device {
    /// Opens a device and loads the kernels, compiling them if they are not in the user's cache.
    ///
    /// # Errors
    /// [`CudaError::MissingLibrary`], [`CudaError::NoDevice`], kernels that do not compile, or what the driver says.
    pub fn open(ordinal: u32) -> Result<Arc<Self>, CudaError> {
        Self::open_with(ordinal, &Cache::of_user())
    }

    /// The same with the cache that is given.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(ordinal: u32, cache: &Cache) -> Result<Arc<Self>, CudaError> {
        let count = Self::count()?;
        if ordinal >= count {
            return Err(CudaError::NoDevice { ordinal, count });
        }
        let opening = |error| failure(error, "opening the device");
        let context = CudaContext::new(ordinal as usize).map_err(opening)?;
        // SAFETY: this crate allocates nothing through the binding that would be tracked; it orders its own streams.
        #[expect(unsafe_code)]
        unsafe {
            context.disable_event_tracking();
        }
        let (major, minor) = context.compute_capability().map_err(opening)?;
        let capability = u32::try_from(major * 10 + minor).unwrap_or(0);
        let compiler = Compiler::open()?;
        let target = compiler.target(capability)?;
        let code = cache.code(&compiler, &kernels::source(), target)?;
        let functions = load(&context, code, target)?;
        Ok(Arc::new(Self { context, ordinal, functions }))
    }

    /// How many devices the driver has.
    ///
    /// # Errors
    /// [`CudaError::MissingLibrary`], or what the driver says.
    pub fn count() -> Result<u32, CudaError> {
        library::driver()?;
        match CudaContext::device_count() {
            Ok(count) => Ok(u32::try_from(count).unwrap_or(0)),
            Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
            Err(error) => Err(failure(error, "counting the devices")),
        }
    }

    /// Which it is.
    #[must_use]
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// Its name.
    ///
    /// # Errors
    /// What the driver says.
    pub fn name(&self) -> Result<String, CudaError> {
        self.context.name().map_err(|error| failure(error, "asking for the device's name"))
    }

    /// Bytes that are free, and all bytes.
    ///
    /// # Errors
    /// What the driver says.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.context.mem_get_info().map_err(|error| failure(error, "asking for the device's memory"))
    }

    pub(crate) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    pub(crate) fn function(&self, kernel: Kernel) -> &CudaFunction {
        &self.functions[kernel as usize]
    }
}

fn load(context: &Arc<CudaContext>, code: Vec<u8>, target: Target) -> Result<Vec<CudaFunction>, CudaError> {
    let loading = |error| failure(error, "loading the kernels");
    // Text and machine code are told apart by the driver; text has its zero at the end.
    let module: Arc<CudaModule> = context.load_module(Ptx::from_binary(code)).map_err(loading)?;
    let function = |kernel: &Kernel| {
        let missing = |error| failure(error, &format!("finding {} in {}", kernel.name(), target.architecture()));
        module.load_function(kernel.name()).map_err(missing)
    };
    Kernel::ALL.iter().map(function).collect()
}

/// A failure of the driver, by what can be done about it.
pub(crate) fn failure(error: DriverError, doing: &str) -> CudaError {
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
    let message = format!("{doing}: {} ({:?})", text.unwrap_or_else(|_| "an unknown failure".into()), error.0);
    match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => CudaError::OutOfMemory(message),
        CUresult::CUDA_ERROR_DEINITIALIZED
        | CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE
        | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
        | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
        | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUresult::CUDA_ERROR_ASSERT
        | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUresult::CUDA_ERROR_INVALID_PC
        | CUresult::CUDA_ERROR_LAUNCH_FAILED => CudaError::DeviceLost(message),
        _ => CudaError::Driver(message),
    }
}
