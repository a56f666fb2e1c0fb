//! From an image as it came to a picture as the engine takes it. Runs on the CPU pool.

use bytes::Bytes;
use detectd_engine::{ModelSpec, Picture, Stage};
use detectd_vision::{DecodeError, DecodeLimits, Image, Letterbox, Resizer, decode, from_raw, probe as probe_header};

use super::ImageSource;
use crate::buffers::BufferPool;
use crate::error::Error;

/// A picture, and the size of the image it came from.
pub struct Prepared {
    pub picture: Picture,
    pub size: (u32, u32),
}

/// Why an image cannot be used.
pub struct Failure {
    pub error: Error,
    /// Set when the image could not be decoded: its format, for the metric.
    pub decode_format: Option<&'static str>,
}

/// What one thread of the pool keeps from image to image.
#[derive(Default)]
pub struct Scratch {
    resizer: Resizer,
    pixels: Vec<u8>,
}

/// For an engine that decodes by itself: checks the header only.
pub fn probe(bytes: Bytes, limits: &DecodeLimits) -> Result<Prepared, Failure> {
    let info = probe_header(&bytes)?;
    if u64::from(info.width) * u64::from(info.height) > limits.max_pixels {
        let (format, width, height, limit) = (info.format, info.width, info.height, limits.max_pixels);
        return Err(DecodeError::TooManyPixels { format, width, height, limit }.into());
    }
    Ok(Prepared { picture: Picture::Encoded(bytes), size: (info.width, info.height) })
}

/// An encoded image on this thread, as far as the model's engine asks.
pub fn now(bytes: Bytes, spec: &ModelSpec, buffers: &BufferPool, limits: &DecodeLimits) -> Result<Prepared, Failure> {
    if spec.takes == Stage::Encoded {
        return probe(bytes, limits);
    }
    prepare(&ImageSource::Encoded(bytes), spec, buffers, limits, &mut Scratch::default())
}

/// Decodes, and resizes if the model's engine asks for it.
pub fn prepare(
    source: &ImageSource,
    spec: &ModelSpec,
    buffers: &BufferPool,
    limits: &DecodeLimits,
    scratch: &mut Scratch,
) -> Result<Prepared, Failure> {
    let image = match source {
        ImageSource::Prepared(values) => return take_prepared(values, spec, buffers),
        ImageSource::Encoded(bytes) => decode(bytes, limits, std::mem::take(&mut scratch.pixels))?.image,
        ImageSource::Raw { data, width, height, layout, stride } => {
            from_raw(data, *width, *height, *layout, *stride, limits)?
        }
    };
    let size = (image.width(), image.height());
    match (spec.takes, &spec.detector) {
        (Stage::Letterboxed, Some(detector)) => {
            let mut input = buffers.take();
            let letterbox = detector
                .preprocess
                .run(&image, &mut input, &mut scratch.resizer)
                .map_err(|error| Failure { error: Error::invalid(error.to_string()), decode_format: None })?;
            scratch.keep(image);
            Ok(Prepared { picture: Picture::Letterboxed { input, letterbox }, size })
        }
        _ => Ok(Prepared { picture: Picture::Decoded(image), size }),
    }
}

/// Checks an input that the caller prepared, and copies it into a pooled buffer.
fn take_prepared(values: &[u8], spec: &ModelSpec, buffers: &BufferPool) -> Result<Prepared, Failure> {
    let refuse = |message: String| Failure { error: Error::invalid(message), decode_format: None };
    let (Stage::Letterboxed, Some(detector)) = (spec.takes, &spec.detector) else {
        let engine = &spec.engine;
        return Err(refuse(format!("the engine `{engine}` prepares images by itself: send them as they are")));
    };
    let preprocess = &detector.preprocess;
    let expected = preprocess.input_len();
    if values.len() != expected * size_of::<f32>() {
        return Err(refuse(format!("a prepared image: expected {expected} FP32 values, got {} bytes", values.len())));
    }
    let mut input = buffers.take();
    let (numbers, _) = values.as_chunks();
    for (index, (value, &bytes)) in input.iter_mut().zip(numbers).enumerate() {
        *value = f32::from_le_bytes(bytes);
        if !value.is_finite() {
            return Err(refuse(format!("a prepared image: expected numbers, got {value} as value {index}")));
        }
    }
    let size = (preprocess.width, preprocess.height);
    let letterbox = Letterbox::new(size, preprocess);
    Ok(Prepared { picture: Picture::Letterboxed { input, letterbox }, size })
}

/// A thread keeps no more than this of a decoded image's memory.
const MAX_KEPT_BYTES: usize = 32 << 20;

impl Scratch {
    fn keep(&mut self, image: Image) {
        let pixels = image.into_pixels();
        if pixels.capacity() <= MAX_KEPT_BYTES {
            self.pixels = pixels;
        }
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Self { decode_format: Some(error.format()), error: Error::invalid(format!("image: {error}")) }
    }
}
