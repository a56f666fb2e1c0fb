//! What the code above the kernels asks of a device.

use crate::{CudaError, Kernel};

/// A queue of work: what is asked of it happens in order, and later. `Stream` is the real one; the tests run
/// the same code, and the same kernels, on the CPU.
pub trait Queue {
    /// Memory of the device.
    type Memory: Memory;
    /// Memory of the host that the device reads and writes.
    type Host: HostMemory;
    /// A point in a queue's work.
    type Event;
    /// Work that was recorded, to be repeated.
    type Graph;

    /// Memory of the device, with anything in it.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, CudaError>;

    /// Memory of the host that is not paged, with zeros in it.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    fn allocate_host(&self, bytes: usize) -> Result<Self::Host, CudaError>;

    /// Copies the first `bytes` of `from` to the beginning of `to`.
    ///
    /// # Errors
    /// [`CudaError::Shape`] where one of them is shorter; failures of the device.
    ///
    /// # Safety
    /// Nobody writes to `from`, and both live, until the copy is done.
    #[expect(unsafe_code)]
    unsafe fn upload(&self, from: &Self::Host, to: &Self::Memory, bytes: usize) -> Result<(), CudaError>;

    /// Copies from an address of the device, and waits for it.
    ///
    /// # Errors
    /// Failures of the device.
    ///
    /// # Safety
    /// There are so many bytes of the device at `address`, and nobody but this queue writes to them.
    #[expect(unsafe_code)]
    unsafe fn download(&self, address: u64, into: &mut [u8]) -> Result<(), CudaError>;

    /// Writes zeros to the first `bytes`.
    ///
    /// # Errors
    /// [`CudaError::Shape`] where there are fewer; failures of the device.
    ///
    /// # Safety
    /// The memory lives until it is done.
    #[expect(unsafe_code)]
    unsafe fn clear(&self, memory: &Self::Memory, bytes: usize) -> Result<(), CudaError>;

    /// Runs a kernel.
    ///
    /// # Errors
    /// Failures of the device.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and every address in them is valid for what the kernel does there until it
    /// is done.
    #[expect(unsafe_code)]
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError>;

    /// An event that has happened.
    ///
    /// # Errors
    /// Failures of the device.
    fn event(&self) -> Result<Self::Event, CudaError>;

    /// Lets `event` happen when all work so far is done.
    ///
    /// # Errors
    /// Failures of the device.
    fn record(&self, event: &Self::Event) -> Result<(), CudaError>;

    /// Lets later work begin after `event`, which may be of another queue.
    ///
    /// # Errors
    /// Failures of the device.
    fn wait(&self, event: &Self::Event) -> Result<(), CudaError>;

    /// Holds the calling thread up until `event` has happened.
    ///
    /// # Errors
    /// Failures of the device, also of earlier work.
    fn synchronize(&self, event: &Self::Event) -> Result<(), CudaError>;

    /// Records what `work` asks of this queue in place of doing it.
    ///
    /// # Errors
    /// Those of `work`, and failures of the device.
    fn capture(&self, work: &mut dyn FnMut() -> Result<(), CudaError>) -> Result<Self::Graph, CudaError>;

    /// Does what was recorded.
    ///
    /// # Errors
    /// Failures of the device.
    ///
    /// # Safety
    /// What the recorded work needs is still there.
    #[expect(unsafe_code)]
    unsafe fn replay(&self, graph: &Self::Graph) -> Result<(), CudaError>;
}

/// Memory of a device; given back when it is dropped, which must not be before the work on it is done.
pub trait Memory {
    /// Where it begins.
    fn address(&self) -> u64;
    /// Bytes.
    fn len(&self) -> usize;
    /// There are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Memory of the host that the device reads and writes at the same address.
pub trait HostMemory {
    /// Where it begins.
    fn pointer(&self) -> *mut u8;
    /// Bytes.
    fn len(&self) -> usize;
    /// There are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One run of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Which.
    pub kernel: Kernel,
    /// Blocks along x, and pictures.
    pub blocks: [u32; 2],
    /// Threads of a block.
    pub threads: u32,
    /// The bytes of the kernel's one argument, a structure of [`crate::layout`], aligned as that is.
    pub arguments: &'a [u8],
}
