//! The real queue: a stream of a device.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaEvent, CudaGraph, CudaStream, DriverError, result};

use crate::device::failure;
use crate::{CudaError, Device, HostMemory, Launch, Memory, Queue};

/// Memory that every device can reach at the host's address.
const PORTABLE_AND_MAPPED: u32 = 1 | 2;

/// A stream of a device. A clone is the same stream.
#[derive(Clone)]
pub struct Stream {
    device: Arc<Device>,
    stream: Arc<CudaStream>,
}

impl Stream {
    /// A new one, which no other waits for.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &Arc<Device>) -> Result<Self, CudaError> {
        let stream = device.context().new_stream().map_err(|error| failure(error, "making a stream"))?;
        Ok(Self { device: Arc::clone(device), stream })
    }

    /// One that another library has made.
    ///
    /// # Safety
    /// It is a stream of this device's primary context, and lives longer than this.
    #[must_use]
    #[expect(unsafe_code)]
    pub unsafe fn borrowed(device: &Arc<Device>, raw: *mut c_void) -> Self {
        // SAFETY: promised by the caller.
        let stream = unsafe { device.context().wrap_borrowed_stream(raw.cast()) };
        Self { device: Arc::clone(device), stream }
    }

    /// Holds the calling thread up until all work is done.
    ///
    /// # Errors
    /// Failures of that work.
    pub fn finish(&self) -> Result<(), CudaError> {
        self.stream.synchronize().map_err(|error| failure(error, "finishing the work"))
    }

    fn bound(&self, doing: &str) -> Result<(), CudaError> {
        self.device.context().bind_to_thread().map_err(|error| failure(error, doing))
    }
}

/// Memory of a device.
pub struct DeviceMemory {
    context: Arc<CudaContext>,
    address: u64,
    bytes: usize,
}

/// Memory of the host that is not paged.
pub struct PinnedMemory {
    context: Arc<CudaContext>,
    pointer: *mut u8,
    bytes: usize,
}

impl Memory for DeviceMemory {
    fn address(&self) -> u64 {
        self.address
    }

    fn len(&self) -> usize {
        self.bytes
    }
}

impl HostMemory for PinnedMemory {
    fn pointer(&self) -> *mut u8 {
        self.pointer
    }

    fn len(&self) -> usize {
        self.bytes
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // Nothing can be done about a failure, which the next call tells again. The driver waits for work on the memory.
        let _ = self.context.bind_to_thread();
        // SAFETY: allocated once, freed once.
        #[expect(unsafe_code)]
        let _ = unsafe { result::free_sync(self.address) };
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        let _ = self.context.bind_to_thread();
        // SAFETY: allocated once, freed once; the driver waits for work on it.
        #[expect(unsafe_code)]
        let _ = unsafe { result::free_host(self.pointer.cast()) };
    }
}

impl Queue for Stream {
    type Memory = DeviceMemory;
    type Host = PinnedMemory;
    type Event = CudaEvent;
    type Graph = CudaGraph;

    fn allocate(&self, bytes: usize) -> Result<DeviceMemory, CudaError> {
        self.bound("allocating memory")?;
        // SAFETY: what is in the memory is never read before it is written.
        #[expect(unsafe_code)]
        let address = unsafe { result::malloc_sync(bytes.max(1)) };
        let address = address.map_err(|error| failure(error, &format!("{bytes} bytes on the device")))?;
        Ok(DeviceMemory { context: Arc::clone(self.device.context()), address, bytes })
    }

    fn allocate_host(&self, bytes: usize) -> Result<PinnedMemory, CudaError> {
        self.bound("allocating memory")?;
        // SAFETY: it is filled before anybody reads it.
        #[expect(unsafe_code)]
        let pointer = unsafe { result::malloc_host(bytes.max(1), PORTABLE_AND_MAPPED) };
        let pointer = pointer.map_err(|error| failure(error, &format!("{bytes} pinned bytes")))?.cast::<u8>();
        // SAFETY: so many bytes were allocated.
        #[expect(unsafe_code)]
        unsafe {
            pointer.write_bytes(0, bytes);
        }
        Ok(PinnedMemory { context: Arc::clone(self.device.context()), pointer, bytes })
    }

    #[expect(unsafe_code)]
    unsafe fn upload(&self, from: &PinnedMemory, to: &DeviceMemory, bytes: usize) -> Result<(), CudaError> {
        if bytes > from.bytes || bytes > to.bytes {
            let (from, to) = (from.bytes, to.bytes);
            return Err(CudaError::Shape(format!("an upload of {bytes} bytes from {from} into {to}")));
        }
        self.bound("an upload")?;
        // SAFETY: both have so many bytes, and the caller keeps them as they are until the copy is done.
        let copied = unsafe {
            let source = std::slice::from_raw_parts(from.pointer, bytes);
            result::memcpy_htod_async(to.address, source, self.stream.cu_stream())
        };
        copied.map_err(|error| failure(error, "an upload"))
    }

    #[expect(unsafe_code)]
    unsafe fn download(&self, address: u64, into: &mut [u8]) -> Result<(), CudaError> {
        self.bound("a download")?;
        // SAFETY: the caller vouches for the address; the slice lives until the copy is done, which is waited for.
        let copied = unsafe { result::memcpy_dtoh_async(into, address, self.stream.cu_stream()) };
        let waited = self.stream.synchronize();
        copied.and(waited).map_err(|error| failure(error, "a download"))
    }

    #[expect(unsafe_code)]
    unsafe fn clear(&self, memory: &DeviceMemory, bytes: usize) -> Result<(), CudaError> {
        if bytes > memory.bytes {
            return Err(CudaError::Shape(format!("{bytes} bytes to clear, of {}", memory.bytes)));
        }
        self.bound("clearing memory")?;
        // SAFETY: there are so many bytes; the caller keeps the memory.
        let cleared = unsafe { result::memset_d8_async(memory.address, 0, bytes, self.stream.cu_stream()) };
        cleared.map_err(|error| failure(error, "clearing memory"))
    }

    #[expect(unsafe_code)]
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError> {
        let Launch { kernel, blocks: [across, down], threads, arguments } = *launch;
        self.bound(kernel.name())?;
        let function = self.device.function(kernel).cu_function();
        // The driver reads the argument's size from the kernel, and copies it before it returns.
        let mut parameters = [arguments.as_ptr().cast_mut().cast::<c_void>()];
        let (grid, block) = ((across, down, 1), (threads, 1, 1));
        // SAFETY: promised by the caller.
        let launched =
            unsafe { result::launch_kernel(function, grid, block, 0, self.stream.cu_stream(), &mut parameters) };
        launched.map_err(|error| failure(error, kernel.name()))
    }

    fn event(&self) -> Result<CudaEvent, CudaError> {
        // Who waits sleeps: there may be more instances than cores.
        let flags = Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC);
        self.device.context().new_event(flags).map_err(|error| failure(error, "making an event"))
    }

    fn record(&self, event: &CudaEvent) -> Result<(), CudaError> {
        event.record(&self.stream).map_err(|error| failure(error, "recording an event"))
    }

    fn wait(&self, event: &CudaEvent) -> Result<(), CudaError> {
        self.stream.wait(event).map_err(|error| failure(error, "waiting for an event"))
    }

    fn synchronize(&self, event: &CudaEvent) -> Result<(), CudaError> {
        event.synchronize().map_err(|error| failure(error, "waiting for the device"))
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<(), CudaError>) -> Result<CudaGraph, CudaError> {
        let failed = |error: DriverError| failure(error, "recording a graph");
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(failed)?;
        let result = work();
        // Also after a failure: the stream must not stay in this state.
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0)).map_err(failed);
        result?;
        graph?.ok_or_else(|| CudaError::Driver("recording a graph: nothing was recorded".into()))
    }

    #[expect(unsafe_code)]
    unsafe fn replay(&self, graph: &CudaGraph) -> Result<(), CudaError> {
        graph.launch().map_err(|error| failure(error, "a graph"))
    }
}
