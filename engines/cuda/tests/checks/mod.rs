//! What every device must compute: the same checks for a real one and for the kernels on the CPU.

pub mod detections;
pub mod heads;
pub mod letterbox;
pub mod nms;
pub mod numbers;
pub mod options;
pub mod sorting;

use detectd_cuda::{CudaError, HostMemory, Kernel, Launch, Memory, Queue, Upload};

/// A queue under test, and how far its exponentials may be from the CPU's.
pub struct Bench<Q> {
    pub queue: Q,
    /// Largest difference of a probability; 0 where the device computes with the CPU's own functions.
    pub tolerance: f32,
    /// How much of each check to do: on a device everything is so fast that more can be tried.
    pub rounds: u64,
}

impl<Q: Queue> Bench<Q> {
    /// Bytes on the device.
    pub fn sent(&self, bytes: &[u8]) -> Upload<Q> {
        let mut upload = Upload::new(&self.queue, bytes.len().max(1)).expect("memory");
        upload.send(&self.queue, bytes.len(), |target| target.copy_from_slice(bytes)).expect("sent");
        self.wait();
        upload
    }

    /// Bytes back from the device.
    pub fn received(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        // SAFETY: callers name memory that they have allocated, of at least this length.
        #[expect(unsafe_code)]
        unsafe {
            self.queue.download(address, &mut bytes).expect("received");
        }
        bytes
    }

    /// Runs a kernel to its end.
    pub fn run(&self, kernel: Kernel, blocks: [u32; 2], threads: u32, arguments: &[u8]) -> Result<(), CudaError> {
        // SAFETY: callers pass addresses of memory that is large enough and lives until this returns.
        #[expect(unsafe_code)]
        unsafe {
            self.queue.launch(&Launch { kernel, blocks, threads, arguments })?;
        }
        self.wait();
        Ok(())
    }

    pub fn wait(&self) {
        let event = self.queue.event().expect("an event");
        self.queue.record(&event).expect("recorded");
        self.queue.synchronize(&event).expect("the work so far is done");
    }

    pub fn memory(&self, bytes: usize) -> Q::Memory {
        self.queue.allocate(bytes).expect("memory")
    }
}

/// A check, and what it is called.
type Check<Q> = (&'static str, fn(&Bench<Q>));

/// Runs every check, and names each as it passes.
pub fn all<Q: Queue>(bench: &Bench<Q>)
where
    Q::Memory: Memory,
    Q::Host: HostMemory,
{
    let checks: [Check<Q>; 11] = [
        ("16-bit numbers", numbers::all_halves::<Q>),
        ("letterbox", letterbox::every_kind::<Q>),
        ("letterbox of one pixel", letterbox::tiny::<Q>),
        ("sorting", sorting::every_length::<Q>),
        ("heads", heads::every_layout::<Q>),
        ("heads in 16 bits", heads::half_precision::<Q>),
        ("adversarial heads", heads::adversarial::<Q>),
        ("Matrix NMS", nms::matrix::<Q>),
        ("greedy NMS", nms::greedy::<Q>),
        ("more candidates than capacity", nms::overflow::<Q>),
        ("graphs", detections::graphs_equal_plain_launches::<Q>),
    ];
    for (name, check) in checks {
        check(bench);
        println!("{name}: passed");
    }
}
