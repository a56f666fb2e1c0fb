//! YOLO networks on libtorch, built from their yaml. Empty without the feature `libtorch`.

#[cfg(feature = "libtorch")]
pub mod memory;
#[cfg(feature = "libtorch")]
pub mod network;
