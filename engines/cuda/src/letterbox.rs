//! Decoded pictures to a network's input, on the device. The twin of [`Preprocess::run`].

use bytemuck::bytes_of;
use detectd_vision::{ChannelOrder, Filter, Image, Letterbox, Preprocess};

use crate::layout::{LetterboxArguments, Number, Source, Tap};
use crate::resize::Axis;
use crate::upload::Upload;
use crate::{CudaError, Kernel, Launch, Queue};

const THREADS: u32 = 256;
/// Sizes whose taps are kept.
const KEPT_AXES: usize = 16;

/// Where an input lies on the device, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLayout {
    /// Its address.
    pub address: u64,
    /// Its numbers.
    pub number: Number,
    /// Interleaved, `[N, H, W, 3]` in memory; otherwise in planes, `[N, 3, H, W]`.
    pub interleaved: bool,
    /// Bytes from the address on.
    pub bytes: usize,
}

/// Sends pictures to the device and runs the letterbox kernel: two slots, so that a batch is sent while the one before
/// is computed with.
pub struct Letterboxes<Q: Queue> {
    preprocess: Preprocess,
    pictures: usize,
    slots: [Slot<Q>; 2],
    axes: Vec<((u32, u32, Filter), Axis)>,
}

struct Slot<Q: Queue> {
    upload: Upload<Q>,
    /// The kernel has read what was sent.
    read: Q::Event,
    geometry: Vec<Letterbox>,
    sources: usize,
    taps: usize,
}

impl<Q: Queue> Letterboxes<Q> {
    /// For batches of up to `pictures`.
    ///
    /// # Errors
    /// Failures of the device.
    pub fn new(queue: &Q, preprocess: &Preprocess, pictures: usize) -> Result<Self, CudaError> {
        let slot = || {
            let (upload, read) = (Upload::new(queue, 0)?, queue.event()?);
            Ok(Slot { upload, read, geometry: Vec::new(), sources: 0, taps: 0 })
        };
        Ok(Self { preprocess: preprocess.clone(), pictures, slots: [slot()?, slot()?], axes: Vec::new() })
    }

    /// Sends the pictures of a batch by `copies`, without waiting for them. Each slot's turn comes when the batch that
    /// was sent in it before has been letterboxed.
    ///
    /// # Errors
    /// Too many pictures; failures of the device.
    pub fn send(&mut self, copies: &Q, slot: usize, images: &[&Image]) -> Result<(), CudaError> {
        if images.is_empty() || images.len() > self.pictures {
            let most = self.pictures;
            return Err(CudaError::Shape(format!("a batch of {} pictures, expected 1 to {most}", images.len())));
        }
        let geometry: Vec<Letterbox> =
            images.iter().map(|image| Letterbox::new((image.width(), image.height()), &self.preprocess)).collect();
        let axes = self.axes_of(&geometry);
        let mut sources: Vec<Source> = Vec::with_capacity(images.len());
        let mut taps: Vec<Tap> = Vec::new();
        let mut at = 0;
        for (letterbox, [across, down]) in geometry.iter().zip(&axes) {
            let ((width, height), (columns, rows)) = (letterbox.source(), letterbox.content());
            let (left, top) = letterbox.offset();
            let (first_across, first_down) = (taps.len() as u32, (taps.len() + across.taps.len()) as u32);
            taps.extend(across.taps.iter().chain(&down.taps));
            let (across, down, across_bits, down_bits) = (first_across, first_down, across.bits, down.bits);
            let pixels = at as u64;
            at += aligned(width as usize * height as usize * 3);
            sources.push(Source {
                pixels,
                width,
                height,
                columns,
                rows,
                left,
                top,
                across,
                down,
                across_bits,
                down_bits,
            });
        }
        let slot = &mut self.slots[slot % 2];
        (slot.sources, slot.taps) = (at, at + aligned(size_of_val(&*sources)));
        let bytes = slot.taps + size_of_val(&*taps);
        if bytes > slot.upload.capacity() {
            copies.synchronize(&slot.read)?;
            slot.upload.reserve(copies, bytes)?;
        }
        for source in &mut sources {
            source.pixels += slot.upload.address();
        }
        copies.wait(&slot.read)?;
        let (sources_at, taps_at) = (slot.sources, slot.taps);
        slot.upload.send(copies, bytes, |target| {
            let mut rest = &mut target[..sources_at];
            for image in images {
                let length = image.pixels().len();
                let (pixels, after) = rest.split_at_mut(aligned(length));
                pixels[..length].copy_from_slice(image.pixels());
                rest = after;
            }
            target[sources_at..][..size_of_val(&*sources)].copy_from_slice(bytemuck::cast_slice(&sources));
            target[taps_at..].copy_from_slice(bytemuck::cast_slice(&taps));
        })?;
        slot.geometry = geometry;
        Ok(())
    }

    /// Writes the input of the batch that was sent in `slot`, when it has arrived. Gives the geometry of each picture.
    ///
    /// # Errors
    /// An input that is too small; failures of the device.
    ///
    /// # Safety
    /// The input is memory of this device, nothing else is done with it until the kernel is done, and it lives so long.
    #[expect(unsafe_code)]
    pub unsafe fn run(&mut self, queue: &Q, slot: usize, input: &InputLayout) -> Result<&[Letterbox], CudaError> {
        let slot = &mut self.slots[slot % 2];
        let arguments = arguments(&self.preprocess, input, slot.upload.address(), slot.sources, slot.taps);
        let needed = slot.geometry.len() * self.preprocess.input_len() * input.number.bytes();
        if input.bytes < needed {
            return Err(CudaError::Shape(format!("an input of {} bytes, the batch needs {needed}", input.bytes)));
        }
        queue.wait(slot.upload.sent())?;
        let places = self.preprocess.width * self.preprocess.height;
        let blocks = [places.div_ceil(THREADS), slot.geometry.len() as u32];
        let launch = Launch { kernel: Kernel::Letterbox, blocks, threads: THREADS, arguments: bytes_of(&arguments) };
        // SAFETY: sources, taps and pixels lie in the upload, which is reserved anew after `read` only; taps stay within
        // their pictures; the input holds the batch, and the caller vouches for it.
        unsafe {
            queue.launch(&launch)?;
        }
        queue.record(&slot.read)?;
        Ok(&slot.geometry)
    }

    /// The axes of each picture.
    fn axes_of(&mut self, geometry: &[Letterbox]) -> Vec<[Axis; 2]> {
        let filter = self.preprocess.filter;
        let mut axis = |old: u32, new: u32| {
            let key = (old, new, filter);
            let known = self.axes.iter().position(|(other, _)| *other == key);
            // What was used last is at the end.
            let entry = match known {
                Some(at) => self.axes.remove(at),
                None => (key, Axis::new(old, new, filter)),
            };
            if self.axes.len() >= KEPT_AXES {
                self.axes.remove(0);
            }
            self.axes.push(entry.clone());
            entry.1
        };
        let both = |letterbox: &Letterbox| {
            let ((width, height), (columns, rows)) = (letterbox.source(), letterbox.content());
            [axis(width, columns), axis(height, rows)]
        };
        geometry.iter().map(both).collect()
    }
}

/// Every structure's alignment.
fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(16)
}

fn arguments(
    preprocess: &Preprocess,
    input: &InputLayout,
    upload: u64,
    sources: usize,
    taps: usize,
) -> LetterboxArguments {
    let (width, height) = (u64::from(preprocess.width), u64::from(preprocess.height));
    // (pixel * scale - mean) / std, as one multiplication and one addition, as on the CPU.
    let factor = preprocess.std.map(|std| preprocess.scale / std);
    let bias: [f32; 3] = std::array::from_fn(|channel| -preprocess.mean[channel] / preprocess.std[channel]);
    let padding = std::array::from_fn(|channel| f32::from(preprocess.pad) * factor[channel] + bias[channel]);
    let (plane, row, column) = if input.interleaved { (1, 3 * width, 3) } else { (width * height, width, 1) };
    LetterboxArguments {
        sources: upload + sources as u64,
        taps: upload + taps as u64,
        input: input.address,
        picture: 3 * width * height,
        plane,
        row,
        column,
        width: preprocess.width,
        height: preprocess.height,
        kind: input.number.code(),
        from: match preprocess.channels {
            ChannelOrder::Rgb => [0, 1, 2],
            ChannelOrder::Bgr => [2, 1, 0],
        },
        factor,
        bias,
        padding,
        unused: 0,
    }
}
