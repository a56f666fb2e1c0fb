//! A stream of a CUDA device, which an instance's work runs in, so that instances do not wait for each other.

use std::ffi::{c_int, c_void};
use std::ptr;

use detectd_engine::EngineError;

use crate::script::ffi::{Failure, check, detectd_stream_new, detectd_stream_use};

/// One of libtorch's streams, which it keeps for the life of the process.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    ordinal: c_int,
    number: i64,
    handle: *mut c_void,
}

impl Stream {
    /// A stream of a device's pool.
    pub fn new(ordinal: usize) -> Result<Self, EngineError> {
        let ordinal = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        let (mut number, mut handle) = (0, ptr::null_mut());
        check(|error| {
            // SAFETY: the pointers are valid for the call.
            #[expect(unsafe_code)]
            unsafe {
                detectd_stream_new(ordinal, &raw mut number, &raw mut handle, error)
            }
        })
        .map_err(Failure::running)?;
        Ok(Self { ordinal, number, handle })
    }

    /// Lets the calling thread's work on the device run in this stream.
    pub fn make_current(&self) -> Result<(), EngineError> {
        check(|error| {
            // SAFETY: the pointer is valid for the call; the number is one that `new` was given.
            #[expect(unsafe_code)]
            unsafe {
                detectd_stream_use(self.ordinal, self.number, error)
            }
        })
        .map_err(Failure::running)
    }

    /// CUDA's handle.
    pub fn handle(&self) -> *mut c_void {
        self.handle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_without_a_device_is_an_error() {
        // Whether libtorch has no CUDA at all or no such device.
        let error = Stream::new(120).expect_err("no such device").to_string();
        assert!(!error.is_empty(), "{error}");
    }
}
