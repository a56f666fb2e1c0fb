//! Pictures in, boxes out, with a network in between that an engine runs on the same device.

use std::time::Instant;

use detectd_engine::{DetectScratch, Detected, EngineError, ModelSpec, Picture, Tensor, boxes_on_cpu, check_pictures};
use detectd_vision::{DetectOptions, Detection, Image, Letterbox};

use crate::postprocess::{Asked, Launching, Limits, Postprocess};
use crate::request::detections;
use crate::{DeviceOutput, InputLayout, Letterboxes, Queue, describe, is_known};

/// A network of an engine on the device.
pub trait Network {
    /// What comes of one execution; keeps the outputs where they are.
    type Outputs;

    /// What the engine says of its model: a detector that takes decoded pictures.
    fn spec(&self) -> &ModelSpec;

    /// Where the input of a batch is to be written. It stays there until the next call.
    ///
    /// # Errors
    /// No memory.
    fn input(&mut self, executed: usize) -> Result<InputLayout, EngineError>;

    /// Runs the network on the input, in the order of the queue, for pictures that lie in it so.
    ///
    /// # Errors
    /// Failures of the engine.
    fn run(&mut self, letterboxes: &[Letterbox]) -> Result<Self::Outputs, EngineError>;

    /// The outputs on the device; `None` where they are not all of floats.
    ///
    /// # Errors
    /// Failures of the engine.
    fn on_device<'a>(&'a self, outputs: &'a Self::Outputs) -> Result<Option<Vec<DeviceOutput<'a>>>, EngineError>;

    /// The outputs, on the host.
    ///
    /// # Errors
    /// Failures of the engine.
    fn on_host(&self, outputs: &Self::Outputs) -> Result<Vec<Tensor>, EngineError>;
}

/// The device's part of one instance.
pub struct DeviceDetector<Q: Queue> {
    copies: Q,
    queue: Q,
    letterboxes: Letterboxes<Q>,
    /// Made when the first outputs show how many rows there are.
    postprocess: Option<(Limits, Postprocess<Q>)>,
    pictures: usize,
    slot: usize,
    launching: Launching,
    fallbacks: u64,
}

impl<Q: Queue> DeviceDetector<Q> {
    /// For batches of up to `pictures`. What is copied to the device is copied by `copies`; all else, the network
    /// included, runs in the order of `queue`.
    ///
    /// # Errors
    /// A model that is no detector; failures of the device.
    pub fn new(
        copies: Q,
        queue: Q,
        spec: &ModelSpec,
        pictures: usize,
        launching: Launching,
    ) -> Result<Self, EngineError> {
        let Some(detector) = &spec.detector else {
            return Err(EngineError::Shape("the model is no detector: it takes tensors only".into()));
        };
        let letterboxes = Letterboxes::new(&copies, &detector.preprocess, pictures)?;
        let (postprocess, slot, fallbacks) = (None, 0, 0);
        Ok(Self { copies, queue, letterboxes, postprocess, pictures, slot, launching, fallbacks })
    }

    /// Pictures whose boxes were made on the CPU, because they had more candidates than there is room for.
    #[must_use]
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks
    }

    /// [`detectd_engine::Engine::detect`] for a model that takes decoded pictures. The time of the device's work counts as
    /// that of the network, where it is waited for.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// The input and the outputs that `network` names are memory of the queue's device, as large as it says, and what it
    /// runs is in the order of the queue.
    #[expect(unsafe_code)]
    pub unsafe fn detect<N: Network>(
        &mut self,
        network: &mut N,
        pictures: &[Picture],
        options: &[DetectOptions],
        scratch: &mut DetectScratch,
    ) -> Result<Detected, EngineError> {
        if pictures.is_empty() {
            return Ok(Detected::default());
        }
        let start = Instant::now();
        check_pictures(network.spec(), pictures, options)?;
        self.slot = (self.slot + 1) % 2;
        let images: Vec<&Image> = pictures.iter().filter_map(decoded).collect();
        self.letterboxes.send(&self.copies, self.slot, &images)?;
        let input = network.input(network.spec().batch.executed(pictures.len()))?;
        // SAFETY: promised by the caller.
        let letterboxes = unsafe { self.letterboxes.run(&self.queue, self.slot, &input)?.to_vec() };
        let assembled = Instant::now();
        let outputs = network.run(&letterboxes)?;
        // SAFETY: promised by the caller.
        let device = unsafe { self.on_device(network, &outputs, &letterboxes, options)? };
        let computed = Instant::now();
        let detections = match device {
            Some(answers) if answers.iter().all(Option::is_some) => answers.into_iter().flatten().collect(),
            partial => {
                // A head with NMS in the graph, or a picture with too many candidates.
                let tensors = network.on_host(&outputs)?;
                let all = boxes_on_cpu(network.spec(), &tensors, &letterboxes, options, scratch)?;
                let known = partial.unwrap_or_else(|| vec![None; all.len()]);
                known.into_iter().zip(all).map(|(known, all)| known.unwrap_or(all)).collect()
            }
        };
        let (assemble, compute) = (assembled - start, computed - assembled);
        Ok(Detected { detections, assemble, compute, postprocess: computed.elapsed() })
    }

    /// The boxes of each picture as the device makes them; `None` for one that it cannot do, or for all.
    ///
    /// # Safety
    /// As [`Self::detect`].
    #[expect(unsafe_code)]
    unsafe fn on_device<N: Network>(
        &mut self,
        network: &N,
        outputs: &N::Outputs,
        letterboxes: &[Letterbox],
        options: &[DetectOptions],
    ) -> Result<Option<Vec<Option<Vec<Detection>>>>, EngineError> {
        let Some(detector) = network.spec().detector.as_ref().filter(|detector| is_known(&detector.head)) else {
            return Ok(None);
        };
        let Some(described) = network.on_device(outputs)? else { return Ok(None) };
        let size = (detector.preprocess.width, detector.preprocess.height);
        let head = describe(&detector.head, &described, detector.classes, size)
            .map_err(|error| EngineError::Backend(error.to_string()))?;
        let limits = Limits { pictures: self.pictures as u32, rows: head.rows, classes: head.classes };
        let postprocess = match self.postprocess.take() {
            Some((made_for, postprocess)) if made_for == limits => postprocess,
            other => {
                // The old buffers go first.
                drop(other);
                Postprocess::new(&self.queue, limits)?
            }
        };
        let (_, postprocess) = self.postprocess.insert((limits, postprocess));
        let asked: Vec<Asked> = options
            .iter()
            .zip(letterboxes)
            .map(|(options, letterbox)| Asked::new(&detector.head, options, letterbox))
            .collect();
        // SAFETY: the caller vouches for the outputs, which live until the answer has come.
        unsafe { postprocess.run(&self.queue, self.slot, &head, &asked, self.launching)? };
        let answers = postprocess.answer(&self.queue, self.slot)?;
        let answers = answers.iter().zip(options).zip(letterboxes).map(|((answer, options), letterbox)| {
            self.fallbacks += u64::from(answer.overflowed);
            (!answer.overflowed).then(|| detections(&answer.kept, &detector.head, options, letterbox))
        });
        Ok(Some(answers.collect()))
    }
}

fn decoded(picture: &Picture) -> Option<&Image> {
    match picture {
        Picture::Decoded(image) => Some(image),
        Picture::Encoded(_) | Picture::Letterboxed { .. } => None,
    }
}
