//! A model's outputs to kept boxes, on the device. The twin of [`Head::detect`] of `detectd-vision`.
//!
//! ```text
//! score          rows above the threshold -> keys (score, row and class)
//! sort           keys in order of rank
//! gather         boxes in order of rank; keys (class, rank)
//! sort           ... in order of class
//! matrix / greedy NMS  -> keys (score after it, row and class)
//! sort           ... in order of rank
//! answer         the best, into the host's memory
//! ```

use std::collections::HashMap;

use bytemuck::{bytes_of, cast_slice};

use crate::layout::{self, Kept, Method, Request, SortArguments, Work};
use crate::upload::Upload;
use crate::{CudaError, HostMemory as _, Kernel, Launch, Memory as _, Queue};

const THREADS: u32 = 256;
const GREEDY_THREADS: u32 = 128;
const SORT_THREADS: u32 = 1024;
/// Keys of a picture for which there is room at least, unless its rows give fewer.
const LEAST_CAPACITY: u32 = 65_536;

/// How large a batch and its outputs can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pictures of a batch.
    pub pictures: u32,
    /// Rows of the head.
    pub rows: u32,
    /// Classes.
    pub classes: u32,
}

/// What is asked for one picture.
#[derive(Clone, Debug)]
pub struct Asked {
    /// For the kernels; `filters` follows from `allowed`.
    pub request: Request,
    /// The classes that are allowed; `None` for all.
    pub allowed: Option<Vec<u32>>,
}

/// What came of one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Candidates that passed the threshold.
    pub found: u32,
    /// There were more than there is room for. Which of them were dropped is left to chance, so nothing is kept.
    pub overflowed: bool,
    /// Best first.
    pub kept: Vec<Kept>,
}

/// The buffers of one instance, and what is in flight: two slots, so that a batch can be asked for while the answer to
/// the one before is still awaited.
pub struct Postprocess<Q: Queue> {
    limits: Limits,
    capacity: u32,
    most: u32,
    words: u32,
    counts: Q::Memory,
    keys: Q::Memory,
    order: Q::Memory,
    boxes: Q::Memory,
    largest: Q::Memory,
    kept_keys: Q::Memory,
    kept_boxes: Q::Memory,
    slots: [Slot<Q>; 2],
    /// Recorded launches, by slot and pictures. What differs from batch to batch is read from memory.
    graphs: HashMap<(usize, u32), Q::Graph>,
}

struct Slot<Q: Queue> {
    parameters: Upload<Q>,
    answer: Q::Host,
    counts: Q::Host,
    done: Q::Event,
    /// Pictures of the batch that is in flight.
    pictures: u32,
}

/// How the kernels are launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launching {
    /// One by one.
    Plainly,
    /// As a graph, recorded when a batch of the size comes for the first time.
    AsGraph,
}

impl<Q: Queue> Postprocess<Q> {
    /// Makes all buffers.
    ///
    /// # Errors
    /// No memory.
    pub fn new(queue: &Q, limits: Limits) -> Result<Self, CudaError> {
        let all = u64::from(limits.rows) * u64::from(limits.classes);
        let wanted = u64::from(limits.rows.max(LEAST_CAPACITY)).min(all).max(1);
        let capacity = u32::try_from(wanted).map_err(|_| CudaError::Shape(format!("{wanted} candidates")))?;
        let most = capacity.min(detectd_vision::MAX_CANDIDATES as u32);
        let words = limits.classes.div_ceil(32).max(1);
        let pictures = limits.pictures as usize;
        let memory = |each: u32, bytes: usize| queue.allocate(pictures * each as usize * bytes);
        let parameters = Parameters::new(limits.pictures, words).bytes;
        let slot = || -> Result<Slot<Q>, CudaError> {
            Ok(Slot {
                parameters: Upload::new(queue, parameters)?,
                answer: queue.allocate_host(pictures * most as usize * size_of::<Kept>())?,
                counts: queue.allocate_host(pictures * 2 * size_of::<u32>())?,
                done: queue.event()?,
                pictures: 0,
            })
        };
        Ok(Self {
            limits,
            capacity,
            most,
            words,
            counts: memory(2, size_of::<u32>())?,
            keys: memory(capacity, size_of::<u64>())?,
            order: memory(most, size_of::<u64>())?,
            boxes: memory(most, size_of::<[f32; 4]>())?,
            largest: memory(most, size_of::<f32>())?,
            kept_keys: memory(most, size_of::<u64>())?,
            kept_boxes: memory(most, size_of::<[f32; 4]>())?,
            slots: [slot()?, slot()?],
            graphs: HashMap::new(),
        })
    }

    /// Keys of a picture that there is room for. With one class a row it is never exceeded.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Asks for the boxes of a batch, without waiting for them.
    ///
    /// # Errors
    /// A batch beyond the limits; failures of the device.
    ///
    /// # Safety
    /// The outputs that `head` describes are in this device's memory, lie still until the answer has come, and hold as
    /// many pictures as are asked for.
    #[expect(unsafe_code)]
    pub unsafe fn run(
        &mut self,
        queue: &Q,
        slot: usize,
        head: &layout::Head,
        asked: &[Asked],
        launching: Launching,
    ) -> Result<(), CudaError> {
        let slot = slot % 2;
        self.check(head, asked)?;
        // The kernels of the batch before in this slot have read their parameters.
        queue.synchronize(&self.slots[slot].done)?;
        self.send(queue, slot, head, asked)?;
        let pictures = asked.len() as u32;
        self.slots[slot].pictures = pictures;
        match launching {
            // SAFETY: as promised by the caller; all other memory is this structure's, and large enough for the limits
            // that were checked.
            Launching::Plainly => unsafe { self.launch(queue, slot, pictures)? },
            Launching::AsGraph => {
                if !self.graphs.contains_key(&(slot, pictures)) {
                    // SAFETY: as above.
                    let graph = queue.capture(&mut || unsafe { self.launch(queue, slot, pictures) })?;
                    self.graphs.insert((slot, pictures), graph);
                }
                if let Some(graph) = self.graphs.get(&(slot, pictures)) {
                    // SAFETY: as above; no buffer is ever made anew, so the addresses in the graph stay valid.
                    unsafe { queue.replay(graph)? }
                }
            }
        }
        queue.record(&self.slots[slot].done)
    }

    /// Waits for the answer that was asked for in `slot`.
    ///
    /// # Errors
    /// Failures of the device, also of the model's own work before.
    pub fn answer(&mut self, queue: &Q, slot: usize) -> Result<Vec<Answer>, CudaError> {
        let slot = &self.slots[slot % 2];
        queue.synchronize(&slot.done)?;
        // SAFETY: the device is done with both, and they are written again by `run` only, which needs this structure
        // alone. Any bits are valid.
        #[expect(unsafe_code)]
        let (counts, kept) = unsafe {
            (
                std::slice::from_raw_parts(slot.counts.pointer().cast::<[u32; 2]>(), slot.counts.len() / 8),
                std::slice::from_raw_parts(slot.answer.pointer().cast::<Kept>(), slot.answer.len() / size_of::<Kept>()),
            )
        };
        let rows = kept.chunks_exact(self.most as usize);
        let answers = counts.iter().zip(rows).take(slot.pictures as usize).map(|([found, count], row)| {
            let overflowed = *found > self.capacity;
            let count = if overflowed { 0 } else { *count as usize };
            Answer { found: *found, overflowed, kept: row.get(..count).unwrap_or_default().to_vec() }
        });
        Ok(answers.collect())
    }

    fn check(&self, head: &layout::Head, asked: &[Asked]) -> Result<(), CudaError> {
        let Limits { pictures, rows, classes } = self.limits;
        if asked.is_empty() || asked.len() > pictures as usize {
            return Err(CudaError::Shape(format!("a batch of {} pictures, expected 1 to {pictures}", asked.len())));
        }
        if head.rows > rows || head.classes != classes {
            let (got, of) = (head.rows, head.classes);
            return Err(CudaError::Shape(format!("{got} rows of {of} classes, expected at most {rows} of {classes}")));
        }
        Ok(())
    }

    fn send(&mut self, queue: &Q, slot: usize, head: &layout::Head, asked: &[Asked]) -> Result<(), CudaError> {
        let places = Parameters::new(self.limits.pictures, self.words);
        let words = self.words as usize;
        self.slots[slot].parameters.send(queue, places.bytes, |bytes| {
            bytes[..size_of::<layout::Head>()].copy_from_slice(bytes_of(head));
            for (at, Asked { request, allowed }) in asked.iter().enumerate() {
                let mut bits = vec![0_u32; words];
                for class in allowed.iter().flatten() {
                    if let Some(word) = bits.get_mut(*class as usize / 32) {
                        *word |= 1 << (class % 32);
                    }
                }
                let request = Request { filters: u32::from(allowed.is_some()), ..*request };
                let place = places.requests + at * size_of::<Request>();
                bytes[place..][..size_of::<Request>()].copy_from_slice(bytes_of(&request));
                bytes[places.allowed + at * words * 4..][..words * 4].copy_from_slice(cast_slice(&bits));
            }
        })
    }

    /// # Safety
    /// As [`Self::run`].
    #[expect(unsafe_code)]
    unsafe fn launch(&self, queue: &Q, slot: usize, pictures: u32) -> Result<(), CudaError> {
        let work = self.work(slot);
        let run = |kernel, across: u32, threads, arguments: &[u8]| {
            // SAFETY: the arguments are the kernel's, and the addresses in them this structure's or the caller's.
            unsafe { queue.launch(&Launch { kernel, blocks: [across, pictures], threads, arguments }) }
        };
        let of_rows = self.limits.rows.max(1).div_ceil(THREADS);
        let of_candidates = self.most.div_ceil(THREADS);
        let sort = |keys: &Q::Memory, counts: u64, stride: u32, most: u32| {
            run(Kernel::Sort, 1, SORT_THREADS, bytes_of(&SortArguments { keys: keys.address(), counts, stride, most }))
        };
        // SAFETY: the counts live as long as this structure, which outlives its work.
        unsafe { queue.clear(&self.counts, self.counts.len())? };
        run(Kernel::Score, of_rows, THREADS, bytes_of(&work))?;
        sort(&self.keys, work.found, self.capacity, self.capacity)?;
        run(Kernel::Gather, of_candidates, THREADS, bytes_of(&work))?;
        sort(&self.order, work.found, self.most, self.most)?;
        run(Kernel::MatrixOverlap, of_candidates, THREADS, bytes_of(&work))?;
        run(Kernel::MatrixDecay, of_candidates, THREADS, bytes_of(&work))?;
        run(Kernel::GreedyNms, self.limits.classes.max(1), GREEDY_THREADS, bytes_of(&work))?;
        sort(&self.kept_keys, work.kept, self.most, self.most)?;
        run(Kernel::Answer, of_candidates, THREADS, bytes_of(&work))
    }

    fn work(&self, slot: usize) -> Work {
        let places = Parameters::new(self.limits.pictures, self.words);
        let Slot { parameters, answer, counts, .. } = &self.slots[slot];
        let found = self.counts.address();
        Work {
            head: parameters.address(),
            requests: parameters.address() + places.requests as u64,
            allowed: parameters.address() + places.allowed as u64,
            found,
            kept: found + u64::from(self.limits.pictures) * 4,
            keys: self.keys.address(),
            order: self.order.address(),
            boxes: self.boxes.address(),
            largest: self.largest.address(),
            kept_keys: self.kept_keys.address(),
            kept_boxes: self.kept_boxes.address(),
            answer: answer.pointer() as u64,
            answer_counts: counts.pointer() as u64,
            capacity: self.capacity,
            most: self.most,
            words: self.words,
            unused: 0,
        }
    }
}

impl Method {
    /// As the kernels know it.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::MatrixLinear => 0,
            Self::MatrixGaussian => 1,
            Self::Greedy => 2,
            Self::Candidates => 3,
        }
    }
}

/// Where each of the parameters lies in what is sent.
struct Parameters {
    requests: usize,
    allowed: usize,
    bytes: usize,
}

impl Parameters {
    fn new(pictures: u32, words: u32) -> Self {
        let requests = size_of::<layout::Head>().next_multiple_of(16);
        let allowed = (requests + pictures as usize * size_of::<Request>()).next_multiple_of(16);
        Self { requests, allowed, bytes: allowed + pictures as usize * words as usize * 4 }
    }
}
