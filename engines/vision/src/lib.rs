//! Pictures in, boxes out, without an engine: decoding, letterbox, head decoding, NMS.

mod annotate;
mod decode;
mod detection;
mod head;
mod image;
mod letterbox;
mod nms;
mod options;
mod preprocess;
mod real;

pub use annotate::annotate;
pub use decode::{DecodeError, DecodeLimits, DecodedImage, Format, ImageInfo, RawLayout, decode, from_raw, probe};
pub use detection::{BoundingBox, Detection};
pub use head::{
    AnchorLevel, Coordinates, DecodedRows, Family, Head, HeadError, OutputData, OutputShape, OutputView, PpyoloHead,
};
pub use image::Image;
pub use letterbox::Letterbox;
pub use nms::{
    Candidates, Kept, MAX_CANDIDATES, MAX_SOFT_CANDIDATES, MatrixNmsArguments, MatrixNmsBatch, MatrixNmsOutput,
    MatrixScratch, NmsScratch, greedy_nms, matrix_nms, matrix_nms_batch, soft_nms,
};
pub use options::{DetectOptions, GreedyNms, MatrixKernel, MatrixNms, Nms, OptionsError, SoftKernel, SoftNms};
pub use preprocess::{ChannelOrder, Filter, Preprocess, PreprocessError, Resize, Resizer};
pub use real::Real;
