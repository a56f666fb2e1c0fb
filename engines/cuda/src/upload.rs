//! Bytes on their way to a device.

use crate::{CudaError, HostMemory as _, Memory as _, Queue};

/// Memory of the host beside as much of the device. It grows, and is not written before the device has read it.
pub struct Upload<Q: Queue> {
    host: Option<Q::Host>,
    device: Option<Q::Memory>,
    /// The last copy is done.
    sent: Q::Event,
}

impl<Q: Queue> Upload<Q> {
    /// For `bytes` at first.
    ///
    /// # Errors
    /// No memory; failures of the device.
    pub fn new(queue: &Q, bytes: usize) -> Result<Self, CudaError> {
        let mut upload = Self { host: None, device: None, sent: queue.event()? };
        upload.reserve(queue, bytes)?;
        Ok(upload)
    }

    /// Makes room. What is on the device is lost if it was too small; the caller has waited for work on it.
    ///
    /// # Errors
    /// No memory; failures of the device.
    pub fn reserve(&mut self, queue: &Q, bytes: usize) -> Result<(), CudaError> {
        if self.capacity() >= bytes {
            return Ok(());
        }
        queue.synchronize(&self.sent)?;
        // The old ones go first: there may be no memory for both.
        (self.host, self.device) = (None, None);
        let bytes = bytes.next_power_of_two();
        self.host = Some(queue.allocate_host(bytes)?);
        self.device = Some(queue.allocate(bytes)?);
        Ok(())
    }

    /// Bytes that there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.device.as_ref().map_or(0, Q::Memory::len)
    }

    /// Where it is on the device.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.device.as_ref().map_or(0, Q::Memory::address)
    }

    /// Lets `fill` write the first `bytes` and sends them.
    ///
    /// # Errors
    /// More than there is room for; failures of the device.
    pub fn send(&mut self, queue: &Q, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<(), CudaError> {
        let (Some(host), Some(device)) = (&self.host, &self.device) else {
            return Err(CudaError::Shape("there was no memory for an upload".into()));
        };
        if bytes > host.len() {
            return Err(CudaError::Shape(format!("an upload of {bytes} bytes into {}", host.len())));
        }
        queue.synchronize(&self.sent)?;
        // SAFETY: there are so many bytes, the last copy of them is done, and this is the only way to them.
        #[expect(unsafe_code)]
        fill(unsafe { std::slice::from_raw_parts_mut(host.pointer(), bytes) });
        // SAFETY: the memory is written again, or dropped, after `sent` only.
        #[expect(unsafe_code)]
        unsafe {
            queue.upload(host, device, bytes)?;
        }
        queue.record(&self.sent)
    }

    /// What happens when the last copy is done.
    #[must_use]
    pub fn sent(&self) -> &Q::Event {
        &self.sent
    }
}
