//! The structures that the kernels are given, field by field as in `kernels/`. Addresses are the device's.

use bytemuck::{Pod, Zeroable};

/// Levels of a head.
pub const MOST_LEVELS: usize = 8;
/// Anchors of a level.
pub const MOST_ANCHORS: usize = 16;

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// 32-bit floats.
    Float32,
    /// Half precision.
    Float16,
    /// Brain floats.
    Bfloat16,
}

impl Number {
    /// As the kernels know it.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Float32 => 0,
            Self::Float16 => 1,
            Self::Bfloat16 => 2,
        }
    }

    /// Bytes of one.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Float16 | Self::Bfloat16 => 2,
        }
    }
}

/// How one column or row of a resized picture comes of up to four of the picture's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Tap {
    /// The first of the picture's columns or rows.
    pub first: u32,
    /// Weights of it and of those that follow, with [`Source::across_bits`] or `down_bits` bits behind the point. Where one
    /// is 0, nothing is read.
    pub weight: [i16; 4],
}

/// One picture for the letterbox kernel.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Source {
    /// Address of its pixels: rows of RGB triples.
    pub pixels: u64,
    /// Its columns.
    pub width: u32,
    /// Its rows.
    pub height: u32,
    /// Columns of the resized picture.
    pub columns: u32,
    /// Rows of the resized picture.
    pub rows: u32,
    /// Columns of padding before it.
    pub left: u32,
    /// Rows of padding above it.
    pub top: u32,
    /// Place of its columns' taps.
    pub across: u32,
    /// Place of its rows' taps.
    pub down: u32,
    /// Bits behind the point of its columns' weights.
    pub across_bits: u32,
    /// Bits behind the point of its rows' weights.
    pub down_bits: u32,
}

/// Arguments of the letterbox kernel.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct LetterboxArguments {
    /// Address of a [`Source`] for each picture.
    pub sources: u64,
    /// Address of all taps.
    pub taps: u64,
    /// Address of the input.
    pub input: u64,
    /// Numbers from one picture to the next.
    pub picture: u64,
    /// Numbers from one plane to the next.
    pub plane: u64,
    /// Numbers from one row to the next.
    pub row: u64,
    /// Numbers from one column to the next.
    pub column: u64,
    /// The input's columns.
    pub width: u32,
    /// The input's rows.
    pub height: u32,
    /// [`Number::code`] of the input.
    pub kind: u32,
    /// Which byte of a pixel goes to each plane.
    pub from: [u32; 3],
    /// Factor of each plane.
    pub factor: [f32; 3],
    /// Added to each plane.
    pub bias: [f32; 3],
    /// What each plane is padded with.
    pub padding: [f32; 3],
    /// Fills the structure up.
    pub unused: u32,
}

/// Where some of a row's numbers are: element `e` of cell `c` and anchor `a` lies at
/// `a * anchor + c * cell + (first + e) * element` from the picture's beginning.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Numbers {
    /// Address.
    pub data: u64,
    /// Numbers from one picture to the next.
    pub picture: u64,
    /// Numbers from one anchor to the next.
    pub anchor: u32,
    /// Numbers from one cell to the next.
    pub cell: u32,
    /// Numbers from one element to the next.
    pub element: u32,
    /// The first element of interest.
    pub first: u32,
}

/// One level of a head.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Level {
    /// Four numbers of the box.
    pub bounds: Numbers,
    /// One number of objectness.
    pub objectness: Numbers,
    /// One number of the IoU branch.
    pub iou: Numbers,
    /// A number for each class.
    pub classes: Numbers,
    /// Index of its first row among all.
    pub first_row: u32,
    /// Cells in a row of its grid.
    pub across: u32,
    /// Cells of its grid.
    pub cells: u32,
    /// Input pixels per cell.
    pub stride: f32,
    /// Width and height of each anchor, in input pixels.
    pub anchors: [[f32; 2]; MOST_ANCHORS],
}

/// A head and where its outputs are.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Head {
    /// Its levels.
    pub levels: [Level; MOST_LEVELS],
    /// How many there are.
    pub level_count: u32,
    /// Rows of all levels.
    pub rows: u32,
    /// Classes.
    pub classes: u32,
    /// [`Number::code`] of the outputs.
    pub kind: u32,
    /// How four numbers become a box.
    pub box_form: u32,
    /// What objectness is made of.
    pub objectness_form: u32,
    /// 1 where class numbers are logits.
    pub class_logits: u32,
    /// 1 where a score equal to the threshold passes.
    pub keeps_equal: u32,
    /// Grid Sensitive's alpha.
    pub scale_x_y: f32,
    /// Confidences below count as 0.
    pub least_confidence: f32,
    /// Weight of the IoU branch.
    pub iou_factor: f32,
    /// 1 where boxes are clipped to the picture's last pixel.
    pub clips: u32,
}

/// What is asked for one picture.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Request {
    /// Candidates score more.
    pub score_threshold: f32,
    /// [`Method`].
    pub method: u32,
    /// 1: a candidate for every class above the threshold.
    pub multi_label: u32,
    /// 1: all classes count as one.
    pub agnostic: u32,
    /// Boxes to give back.
    pub most: u32,
    /// Candidates of a class that take part.
    pub top_k: u32,
    /// Factor in the Gaussian kernel.
    pub sigma: f32,
    /// What is kept scores more after Matrix NMS.
    pub post_threshold: f32,
    /// 1 where coordinates count pixels.
    pub offset: f32,
    /// Of greedy NMS.
    pub iou_threshold: f32,
    /// Of greedy NMS.
    pub eta: f32,
    /// 1: only the allowed classes.
    pub filters: u32,
    /// Width and height that boxes of YOLOv3 and PP-YOLO are measured in.
    pub picture: [u32; 2],
}

/// What happens to candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Matrix NMS with the linear kernel.
    MatrixLinear,
    /// Matrix NMS with the Gaussian kernel.
    MatrixGaussian,
    /// Greedy NMS.
    Greedy,
    /// Nothing: the best go back as they are.
    Candidates,
}

/// A box that goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Kept {
    /// `[x1, y1, x2, y2]`.
    pub corners: [f32; 4],
    /// After suppression.
    pub score: f32,
    /// Class.
    pub label: u32,
    /// Row of the head that it comes from.
    pub row: u32,
    /// Fills the structure up.
    pub unused: u32,
}

/// Arguments of every kernel from a head's outputs to kept boxes; see `kernels/work.cuh`.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Work {
    /// Address of the [`Head`].
    pub head: u64,
    /// Address of a [`Request`] for each picture.
    pub requests: u64,
    /// Address of the bits of allowed classes, `words` for each picture.
    pub allowed: u64,
    /// Address of each picture's number of candidates.
    pub found: u64,
    /// Address of each picture's number of kept boxes.
    pub kept: u64,
    /// Address of `capacity` keys for each picture.
    pub keys: u64,
    /// Address of `most` keys for each picture, by class.
    pub order: u64,
    /// Address of `most` boxes for each picture, in order of rank.
    pub boxes: u64,
    /// Address of `most` overlaps for each picture.
    pub largest: u64,
    /// Address of `most` keys for each picture, of what is kept.
    pub kept_keys: u64,
    /// Address of `most` boxes for each picture.
    pub kept_boxes: u64,
    /// Address of `most` [`Kept`] for each picture, the host's.
    pub answer: u64,
    /// Address of two numbers for each picture, found and kept, the host's.
    pub answer_counts: u64,
    /// Keys of a picture.
    pub capacity: u32,
    /// Candidates of a picture that take part.
    pub most: u32,
    /// Words of allowed classes for each picture.
    pub words: u32,
    /// Fills the structure up.
    pub unused: u32,
}

/// Arguments of the sorting kernel.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct SortArguments {
    /// Address of `stride` keys for each picture.
    pub keys: u64,
    /// Address of each picture's number of keys.
    pub counts: u64,
    /// Keys from one picture to the next.
    pub stride: u32,
    /// No more than these of each picture.
    pub most: u32,
}

const _: () = {
    assert!(size_of::<Tap>() == 12 && size_of::<Source>() == 48 && size_of::<LetterboxArguments>() == 120);
    assert!(size_of::<Numbers>() == 32 && size_of::<Level>() == 272 && size_of::<Head>() == 2224);
    assert!(size_of::<Request>() == 56 && size_of::<Kept>() == 32 && size_of::<Work>() == 120);
    assert!(size_of::<SortArguments>() == 24);
};
