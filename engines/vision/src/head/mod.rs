//! How the raw outputs of a detector become boxes: one variant per layout in use.

mod cells;
mod error;
mod finished;
mod formula;
mod recognise;
mod shape;
mod sink;
mod view;

pub use error::HeadError;
pub use sink::DecodedRows;
pub use view::{OutputData, OutputShape, OutputView};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::cells::YoloxLevel;
use self::view::of_image;
use crate::nms::{self, MAX_CANDIDATES};
use crate::{Candidates, DetectOptions, Detection, Letterbox, NmsScratch, Real, Resize};

/// The layout of a model's outputs and the formulas that turn them into boxes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnchorLevel {
    /// Input pixels per cell.
    pub stride: u32,
    /// Width and height of each anchor, in input pixels.
    pub anchors: Vec<[f32; 2]>,
}

/// Parameters of the head of YOLOv3 and PP-YOLO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Coordinates {
    /// Pixels of the network's input.
    #[default]
    Input,
    /// Pixels of the picture itself.
    Source,
}

/// A model family, where it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
        let classes = self.check_batch(outputs, image, letterbox.input())?;
        out.coordinates = self.coordinates(letterbox);
        match self {
            Self::PaddleNms { .. } => finished::paddle(outputs, image, options, out)?,
            Self::EndToEnd => finished::end_to_end(of_image(&outputs[0], image)?, options, out),
            Self::EfficientNms => finished::efficient_nms(outputs, image, options, out)?,
            _ => {
                let keeps_equal = matches!(self, Self::Yolox { .. });
                let mut filter = sink::Filter { options, classes, keeps_equal, out };
                self.walk(outputs, image, letterbox, &mut filter)?;
            }
        }
        out.truncate_to_best(MAX_CANDIDATES);
        Ok(())
    }

    /// Every row of picture `image` of the batch, decoded, before any threshold: what a faster implementation is
    /// compared with.
    ///
    /// # Errors
    /// As [`Self::candidates`]; also a head with NMS in the graph, which has no such rows.
    pub fn decode<T: Real>(
        &self,
        outputs: &[OutputView<'_>],
        image: usize,
        letterbox: &Letterbox,
    ) -> Result<DecodedRows<T>, HeadError> {
        let classes = self.check_batch(outputs, image, letterbox.input())?;
        let mut rows = DecodedRows { classes, ..DecodedRows::default() };
        self.walk(outputs, image, letterbox, &mut rows)?;
        Ok(rows)
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
        let mut candidates = std::mem::take(&mut scratch.candidates);
        candidates.clear();
        let result = self.candidates(outputs, image, letterbox, options, &mut candidates);
        let detections = result.map(|()| {
            let kept = if self.has_nms() {
                nms::best(&candidates, options.max_detections)
            } else {
                nms::suppress(&candidates, options, scratch)
            };
            kept.into_iter().map(|kept| candidates.detection(kept, letterbox)).collect()
        });
        scratch.candidates = candidates;
        detections
    }

    /// What the candidates' corners are measured in.
    #[must_use]
    pub fn coordinates(&self, letterbox: &Letterbox) -> Coordinates {
        match self {
            // The formula takes the picture's size, if the whole input is picture.
            Self::Ppyolo(_) if letterbox.resize() == Resize::Stretch => Coordinates::Source,
            Self::PaddleNms { coordinates } => *coordinates,
            _ => Coordinates::Input,
        }
    }

    /// The number of classes of `outputs`; `None` where the layout does not say.
    #[must_use]
    pub fn class_count(&self, outputs: &[OutputView<'_>]) -> Option<usize> {
        let dims: Vec<Vec<Option<usize>>> =
            outputs.iter().map(|output| output.shape.iter().copied().map(Some).collect()).collect();
        let shapes: Vec<OutputShape<'_>> =
            outputs.iter().zip(&dims).map(|(output, dims)| OutputShape { name: output.name, dims }).collect();
        self.classes_of(&shapes)
    }

    /// Checks the outputs of a batch and returns the number of classes, 0 where the layout does not say.
    fn check_batch(&self, outputs: &[OutputView<'_>], image: usize, input: (u32, u32)) -> Result<usize, HeadError> {
        let dims: Vec<Vec<Option<usize>>> =
            outputs.iter().map(|output| output.shape.iter().copied().map(Some).collect()).collect();
        let shapes: Vec<OutputShape<'_>> =
            outputs.iter().zip(&dims).map(|(output, dims)| OutputShape { name: output.name, dims }).collect();
        let classes = self.classes_of(&shapes);
        // Where the layout tells the classes but these shapes do not, any number shows the mismatch.
        self.check(&shapes, classes.unwrap_or(1).max(1), input)?;
        let batch = match self {
            Self::PaddleNms { .. } => outputs[1].shape[0],
            _ => outputs[0].shape[0],
        };
        if image >= batch {
            return Err(HeadError::Image { image, batch });
        }
        Ok(classes.unwrap_or(0))
    }

    /// Passes every row to `sink`. The shapes have been checked.
    fn walk<T: Real>(
        &self,
        outputs: &[OutputView<'_>],
        image: usize,
        letterbox: &Letterbox,
        sink: &mut impl sink::Sink<T>,
    ) -> Result<(), HeadError> {
        let input = letterbox.input();
        let grid = |stride: u32| [(input.0 / stride) as usize, (input.1 / stride) as usize];
        let mut first = 0;
        match self {
            Self::Yolov5Levels { levels } => {
                for (output, level) in outputs.iter().zip(levels) {
                    let (data, permuted) = (of_image(output, image)?, output.shape.len() == 5);
                    first += cells::yolov5_level(data, permuted, level, grid(level.stride), first, sink);
                }
            }
            Self::Yolov5 => cells::finished(of_image(&outputs[0], image)?, outputs[0].shape[2], sink),
            Self::Yolox { strides, decoded, logits } => {
                let planes = outputs[0].shape.len() == 4;
                let mut rest = of_image(&outputs[0], image)?;
                for (index, stride) in strides.iter().copied().enumerate() {
                    let grid = grid(stride);
                    let count = grid[0] * grid[1];
                    let data = if planes {
                        of_image(&outputs[index], image)?
                    } else {
                        let (level, after) = rest.split_at(count * outputs[0].shape[2]);
                        rest = after;
                        level
                    };
                    let (decoded, logits) = (*decoded, *logits);
                    cells::yolox_level(data, YoloxLevel { planes, decoded, logits, stride, grid, first }, sink);
                    first += count;
                }
            }
            Self::Yolov8 => cells::yolov8(of_image(&outputs[0], image)?, outputs[0].shape[2], sink),
            Self::BoxesScores => {
                cells::boxes_scores(of_image(&outputs[0], image)?, of_image(&outputs[1], image)?, sink);
            }
            Self::Ppyolo(head) => {
                let picture = match self.coordinates(letterbox) {
                    Coordinates::Source => letterbox.source(),
                    Coordinates::Input => input,
                };
                for (output, level) in outputs.iter().zip(&head.levels) {
                    let data = of_image(output, image)?;
                    first += cells::ppyolo_level(data, head, level, grid(level.stride), picture, first, sink);
                }
            }
            Self::PaddleNms { .. } | Self::EndToEnd | Self::EfficientNms => {
                let (expected, value) = ("a head without NMS in the graph", self.name().to_owned());
                return Err(HeadError::Parameter { field: "type", expected, value });
            }
        }
        Ok(())
    }
}
