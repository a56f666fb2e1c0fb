//! Pictures to inputs and outputs to boxes on NVIDIA GPUs. The driver and the compiler are opened at run time: a program
//! with this crate starts on machines without them.
//!
//! Read in this order: `kernels/` (what runs on the device, one file for one idea), [`layout`] (what it is given),
//! [`Queue`] (what the code above asks of a device), [`Letterboxes`] and [`Postprocess`] (which kernels run, on what),
//! [`Device`] and [`Stream`] (the real thing). What is computed is what `detectd-vision` computes on the CPU, to the bit
//! wherever no exponential is involved.

mod cache;
mod compile;
mod detector;
mod device;
mod error;
mod head;
mod kernels;
pub mod layout;
mod letterbox;
mod library;
mod postprocess;
mod queue;
mod request;
mod resize;
mod stream;
mod upload;

pub use cache::Cache;
pub use compile::{Compiler, Target};
pub use detector::{DeviceDetector, Network};
pub use device::Device;
pub use error::CudaError;
pub use head::{DeviceOutput, describe, is_known, picture_size};
pub use kernels::{Kernel, source};
pub use letterbox::{InputLayout, Letterboxes};
pub use postprocess::{Answer, Asked, Launching, Limits, Postprocess};
pub use queue::{HostMemory, Launch, Memory, Queue};
pub use request::detections;
pub use resize::Axis;
pub use stream::{DeviceMemory, PinnedMemory, Stream};
pub use upload::Upload;
