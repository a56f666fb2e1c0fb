//! Memory with a wall behind it.

use std::ptr::NonNull;

use detectd_cuda::{CudaError, HostMemory, Memory};

/// What lies between the memory and what is around it.
const CANARY: u8 = 0xA5;
/// What new memory holds: as floats no numbers, as counts far too many.
const GARBAGE: u8 = 0xFF;
/// Every type's alignment.
const ALIGNMENT: usize = 16;

/// Bytes that end, but for what alignment takes, at a page that nobody may touch.
pub struct Guarded {
    mapping: NonNull<u8>,
    mapped: usize,
    start: usize,
    len: usize,
}

impl Guarded {
    pub(crate) fn new(len: usize, fill: u8) -> Result<Self, CudaError> {
        // SAFETY: asks for a number.
        #[expect(unsafe_code)]
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let room = len.next_multiple_of(ALIGNMENT).next_multiple_of(page).max(page);
        let mapped = room + page;
        let (read_write, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, wherever the system puts it.
        #[expect(unsafe_code)]
        let mapping = unsafe { libc::mmap(std::ptr::null_mut(), mapped, read_write, flags, -1, 0) };
        let failed = || CudaError::OutOfMemory(format!("{len} bytes: {}", std::io::Error::last_os_error()));
        if mapping == libc::MAP_FAILED {
            return Err(failed());
        }
        let mapping = NonNull::new(mapping.cast::<u8>()).ok_or_else(failed)?;
        // SAFETY: the last page of the mapping just made.
        #[expect(unsafe_code)]
        if unsafe { libc::mprotect(mapping.as_ptr().add(room).cast(), page, libc::PROT_NONE) } != 0 {
            return Err(failed());
        }
        let start = room - len.next_multiple_of(ALIGNMENT);
        let guarded = Self { mapping, mapped, start, len };
        // SAFETY: `room` bytes of the mapping can be written, and nobody else has them.
        #[expect(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(mapping.as_ptr(), room).fill(CANARY);
            std::slice::from_raw_parts_mut(mapping.as_ptr().add(start), len).fill(fill);
        }
        Ok(guarded)
    }

    pub(crate) fn garbage(len: usize) -> Result<Self, CudaError> {
        Self::new(len, GARBAGE)
    }

    pub(crate) fn start(&self) -> *mut u8 {
        // SAFETY: the start lies within the mapping.
        #[expect(unsafe_code)]
        unsafe {
            self.mapping.as_ptr().add(self.start)
        }
    }

    /// What is around the memory has not been written.
    fn is_intact(&self) -> bool {
        let slack = self.len.next_multiple_of(ALIGNMENT) - self.len;
        // SAFETY: both ranges lie within the writable part of the mapping.
        #[expect(unsafe_code)]
        let (before, after) = unsafe {
            (
                std::slice::from_raw_parts(self.mapping.as_ptr(), self.start),
                std::slice::from_raw_parts(self.start().add(self.len), slack),
            )
        };
        before.iter().chain(after).all(|byte| *byte == CANARY)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let intact = self.is_intact();
        // SAFETY: the mapping was made by `new` and is given back once.
        #[expect(unsafe_code)]
        unsafe {
            libc::munmap(self.mapping.as_ptr().cast(), self.mapped);
        }
        assert!(intact || std::thread::panicking(), "a kernel has written beside {} bytes of memory", self.len);
    }
}

impl Memory for Guarded {
    fn address(&self) -> u64 {
        self.start() as u64
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl HostMemory for Guarded {
    fn pointer(&self) -> *mut u8 {
        self.start()
    }

    fn len(&self) -> usize {
        self.len
    }
}
