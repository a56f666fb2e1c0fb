//! Pictures in, boxes out, without an engine: decoding, letterbox, head decoding, NMS.

mod detection;
mod image;

pub use detection::{BoundingBox, Detection};
pub use image::Image;
