//! Pictures to inputs and outputs to boxes on NVIDIA GPUs.
//!
//! The kernels lie in `kernels/`, one file for one idea. What is computed is what `detectd-vision` computes on the CPU,
//! to the bit wherever no exponential is involved.

mod error;
mod head;
mod kernels;
pub mod layout;
mod letterbox;
mod postprocess;
mod queue;
mod request;
mod resize;
mod upload;

pub use error::CudaError;
pub use head::{DeviceOutput, describe, is_known, picture_size};
pub use kernels::{Kernel, source};
pub use letterbox::{InputLayout, Letterboxes};
pub use postprocess::{Answer, Asked, Launching, Limits, Postprocess};
pub use queue::{HostMemory, Launch, Memory, Queue};
pub use request::detections;
pub use resize::Axis;
pub use upload::Upload;
