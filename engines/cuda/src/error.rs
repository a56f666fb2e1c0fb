//! What can go wrong on a device.

use detectd_engine::EngineError;

/// A failure, by what the caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// A library is not on this machine.
    #[error("{library} cannot be opened: {reason}; {advice}")]
    MissingLibrary {
        /// The library's file name.
        library: &'static str,
        /// What the loader said.
        reason: String,
        /// How one gets it.
        advice: &'static str,
    },
    /// There is no such device.
    #[error("cuda:{ordinal} is not there: CUDA has {count} devices, counted from 0")]
    NoDevice {
        /// The device that was asked for.
        ordinal: u32,
        /// How many there are.
        count: u32,
    },
    /// The kernels do not compile, which is a mistake in this crate or a compiler too old for it.
    #[error("the kernels cannot be compiled for {architecture}: {reason}")]
    Compile {
        /// The architecture, such as `sm_90`.
        architecture: String,
        /// What the compiler said.
        reason: String,
    },
    /// There is no memory for it.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The device does not compute any more in this process.
    #[error("device lost: {0}")]
    DeviceLost(String),
    /// The caller's tensors or pictures do not fit what was settled before.
    #[error("{0}")]
    Shape(String),
    /// Any other failure of the driver.
    #[error("{0}")]
    Driver(String),
}

impl From<CudaError> for EngineError {
    fn from(error: CudaError) -> Self {
        match error {
            CudaError::MissingLibrary { .. } | CudaError::NoDevice { .. } | CudaError::Compile { .. } => {
                Self::Load(error.to_string())
            }
            CudaError::OutOfMemory(message) => Self::OutOfMemory(message),
            CudaError::DeviceLost(message) => Self::DeviceLost(message),
            CudaError::Shape(message) => Self::Shape(message),
            CudaError::Driver(message) => Self::Backend(message),
        }
    }
}
