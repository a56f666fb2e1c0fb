//! The CUDA kernels, compiled as C++ and run on the CPU, for tests: the same sources, launched with the same arguments by
//! the same code as on a device. See `cpp/cuda_on_cpu.h` for how threads of a block are interleaved.
//!
//! Device memory ends where a page begins that nobody may touch, so that a kernel that goes beyond it ends the test.

mod emulator;
mod memory;
mod queue;

pub use memory::Guarded;
pub use queue::{Emulation, Recorded};

/// Whether there was a C++ compiler for the kernels. Without one, every launch fails; a test that needs none says so.
pub const AVAILABLE: bool = cfg!(has_compiler);
