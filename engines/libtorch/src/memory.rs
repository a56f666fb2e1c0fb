//! The C allocator, set up for libtorch's habits.

/// Keeps freed memory instead of giving it back to the system after every operation.
///
/// libtorch allocates and frees large blocks all the time; with glibc's defaults each of them is mapped, filled with
/// zeros and unmapped again, which can take a quarter of the processor's time. Call this first in `main`, before other
/// threads are started. Where the C library is not glibc, nothing happens.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let settings = [
            // No block is mapped on its own.
            (libc::M_MMAP_MAX, 0),
            // The heap's top is never cut off.
            (libc::M_TRIM_THRESHOLD, i32::MAX),
            // One heap for all threads: the others' heaps cannot grow beyond 64 MB and are unmapped when empty.
            (libc::M_ARENA_MAX, 1),
        ];
        for (parameter, value) in settings {
            // SAFETY: mallopt takes two integers, takes the allocator's own lock, and has no memory-safety condition.
            // A refused setting leaves the default, which is slower and just as correct.
            #[expect(unsafe_code)]
            let _accepted = unsafe { libc::mallopt(parameter, value) };
        }
    }
}
