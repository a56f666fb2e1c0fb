//! A queue that does its work at once, on the CPU.

use std::cell::{Cell, RefCell};

use detectd_cuda::{CudaError, HostMemory as _, Kernel, Launch, Memory as _, Queue};

use crate::Guarded;
use crate::emulator::launch;

/// A device that is none. Work is done at once, in the order in which it is asked for.
#[derive(Default)]
pub struct Emulation {
    seed: Cell<u32>,
    recording: RefCell<Option<Recorded>>,
}

/// Work that was recorded.
#[derive(Clone, Debug, Default)]
pub struct Recorded(Vec<Step>);

#[derive(Clone, Debug)]
enum Step {
    Launch { kernel: Kernel, blocks: [u32; 2], threads: u32, arguments: Vec<u64> },
    Clear { address: u64, bytes: usize },
}

impl Emulation {
    /// One whose threads and blocks run in orders that come of `seed`.
    #[must_use]
    pub fn new(seed: u32) -> Self {
        Self { seed: Cell::new(seed), ..Self::default() }
    }

    /// Does a step, or notes it while work is recorded.
    fn take(&self, step: Step) -> Result<(), CudaError> {
        if let Some(recorded) = &mut *self.recording.borrow_mut() {
            recorded.0.push(step);
            return Ok(());
        }
        self.run(&step)
    }

    fn run(&self, step: &Step) -> Result<(), CudaError> {
        match step {
            Step::Launch { kernel, blocks, threads, arguments } => {
                let seed = self.seed.replace(self.seed.get().wrapping_add(1));
                launch(*kernel, *blocks, *threads, arguments, seed)
            }
            Step::Clear { address, bytes } => {
                // SAFETY: whoever asked for it has promised that the memory is there.
                #[expect(unsafe_code)]
                unsafe {
                    std::ptr::write_bytes(*address as *mut u8, 0, *bytes);
                }
                Ok(())
            }
        }
    }

    fn record_nothing(&self, what: &str) -> Result<(), CudaError> {
        match &*self.recording.borrow() {
            Some(_) => Err(CudaError::Driver(format!("{what} while work is recorded"))),
            None => Ok(()),
        }
    }
}

impl Queue for Emulation {
    type Memory = Guarded;
    type Host = Guarded;
    type Event = ();
    type Graph = Recorded;

    fn allocate(&self, bytes: usize) -> Result<Guarded, CudaError> {
        Guarded::garbage(bytes)
    }

    fn allocate_host(&self, bytes: usize) -> Result<Guarded, CudaError> {
        Guarded::new(bytes, 0)
    }

    #[expect(unsafe_code)]
    unsafe fn upload(&self, from: &Guarded, to: &Guarded, bytes: usize) -> Result<(), CudaError> {
        self.record_nothing("an upload")?;
        if bytes > detectd_cuda::HostMemory::len(from) || bytes > detectd_cuda::Memory::len(to) {
            return Err(CudaError::Shape(format!("an upload of {bytes} bytes does not fit")));
        }
        // SAFETY: both have so many bytes, and are two allocations.
        unsafe {
            std::ptr::copy_nonoverlapping(from.pointer(), to.address() as *mut u8, bytes);
        }
        Ok(())
    }

    #[expect(unsafe_code)]
    unsafe fn download(&self, address: u64, into: &mut [u8]) -> Result<(), CudaError> {
        self.record_nothing("a download")?;
        // SAFETY: the caller promises that the bytes are there.
        unsafe {
            std::ptr::copy_nonoverlapping(address as *const u8, into.as_mut_ptr(), into.len());
        }
        Ok(())
    }

    #[expect(unsafe_code)]
    unsafe fn clear(&self, memory: &Guarded, bytes: usize) -> Result<(), CudaError> {
        if bytes > detectd_cuda::Memory::len(memory) {
            return Err(CudaError::Shape(format!("{bytes} bytes cannot be cleared")));
        }
        self.take(Step::Clear { address: memory.address(), bytes })
    }

    #[expect(unsafe_code)]
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError> {
        let mut arguments = vec![0_u64; launch.arguments.len().div_ceil(8)];
        for (word, bytes) in arguments.iter_mut().zip(launch.arguments.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        let Launch { kernel, blocks, threads, .. } = *launch;
        self.take(Step::Launch { kernel, blocks, threads, arguments })
    }

    fn event(&self) -> Result<(), CudaError> {
        Ok(())
    }

    fn record(&self, (): &()) -> Result<(), CudaError> {
        Ok(())
    }

    fn wait(&self, (): &()) -> Result<(), CudaError> {
        Ok(())
    }

    fn synchronize(&self, (): &()) -> Result<(), CudaError> {
        self.record_nothing("waiting")
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<(), CudaError>) -> Result<Recorded, CudaError> {
        self.record_nothing("a recording")?;
        *self.recording.borrow_mut() = Some(Recorded::default());
        let result = work();
        let recorded = self.recording.borrow_mut().take().unwrap_or_default();
        result.map(|()| recorded)
    }

    #[expect(unsafe_code)]
    unsafe fn replay(&self, graph: &Recorded) -> Result<(), CudaError> {
        graph.0.iter().try_for_each(|step| self.run(step))
    }
}
