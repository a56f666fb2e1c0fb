//! Which shapes a head's outputs have.

use super::{AnchorLevel, Head, HeadError, OutputShape};

/// One dimension of a pattern.
#[derive(Clone, Copy)]
enum Side {
    /// The batch: the same in every output.
    Batch,
    /// Rows, or boxes: the same in every output.
    Rows,
    /// Exactly this.
    Exactly(usize),
}

use Side::{Batch, Exactly, Rows};

impl Head {
    /// Checks that a model's outputs have this layout, for `classes` classes and an input of `input` (width, height)
    /// pixels.
    ///
    /// # Errors
    /// The first output that does not fit, with what was expected and what came.
    pub fn check(&self, outputs: &[OutputShape<'_>], classes: usize, input: (u32, u32)) -> Result<(), HeadError> {
        self.check_parameters(input)?;
        if classes == 0 {
            return Err(parameter("classes", "at least 1", 0));
        }
        let patterns = self.patterns(outputs, classes, input);
        if patterns.len() != outputs.len() {
            let got = if outputs.is_empty() { "none".to_owned() } else { list(outputs) };
            let expected = match patterns.len() {
                1 => "one output".to_owned(),
                count => format!("{count} outputs"),
            };
            return Err(HeadError::Count { head: self.name(), expected, got });
        }
        let (mut batch, mut rows) = (None, None);
        for (output, pattern) in outputs.iter().zip(&patterns) {
            let fits = output.dims.len() == pattern.len()
                && output.dims.iter().zip(pattern).all(|(dim, side)| match (dim, side) {
                    (None, _) => true,
                    (Some(dim), Exactly(side)) => dim == side,
                    (Some(dim), Batch) => *batch.get_or_insert(*dim) == *dim,
                    (Some(dim), Rows) => *rows.get_or_insert(*dim) == *dim,
                });
            if !fits {
                return Err(HeadError::Shape {
                    head: self.name(),
                    output: output.name.to_owned(),
                    expected: describe(pattern, batch, rows),
                    got: shape(output.dims),
                });
            }
        }
        Ok(())
    }

    /// The name in a manifest.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Yolov5Levels { .. } => "yolov5_levels",
            Self::Yolov5 => "yolov5",
            Self::BoxesScores => "boxes_scores",
            Self::Yolox { .. } => "yolox",
            Self::Yolov8 => "yolov8",
            Self::Ppyolo(_) => "ppyolo",
            Self::PaddleNms { .. } => "paddle_nms",
            Self::EndToEnd => "end_to_end",
            Self::EfficientNms => "efficient_nms",
        }
    }

    /// The number of classes that the outputs of a batch have; `None` if the layout does not say.
    pub(super) fn classes_of(&self, outputs: &[OutputShape<'_>]) -> Option<usize> {
        let side = |output: usize, from_end: usize| {
            let dims = outputs.get(output)?.dims;
            dims[dims.len().checked_sub(from_end)?]
        };
        let rank = outputs.first().map_or(0, |output| output.dims.len());
        match self {
            Self::Yolov5Levels { levels } if rank == 4 => {
                (side(0, 3)? / levels.first()?.anchors.len().max(1)).checked_sub(5)
            }
            Self::Yolov5Levels { .. } | Self::Yolov5 => side(0, 1)?.checked_sub(5),
            Self::Yolox { .. } => side(0, if rank == 4 { 3 } else { 1 })?.checked_sub(5),
            Self::BoxesScores => side(1, 1),
            Self::Yolov8 => side(0, 2)?.checked_sub(4),
            Self::Ppyolo(head) => {
                let elements = side(0, 3)? / head.levels.first()?.anchors.len().max(1);
                elements.checked_sub(if head.iou_aware_factor.is_some() { 6 } else { 5 })
            }
            Self::PaddleNms { .. } | Self::EndToEnd | Self::EfficientNms => None,
        }
    }

    fn patterns(&self, outputs: &[OutputShape<'_>], classes: usize, input: (u32, u32)) -> Vec<Vec<Side>> {
        let rank = outputs.first().map_or(0, |output| output.dims.len());
        let across = |stride: u32| Exactly((input.0 / stride) as usize);
        let down = |stride: u32| Exactly((input.1 / stride) as usize);
        match self {
            Self::Yolov5Levels { levels } => levels
                .iter()
                .map(|AnchorLevel { stride, anchors }| {
                    let (across, down) = (across(*stride), down(*stride));
                    if rank == 5 {
                        vec![Batch, Exactly(anchors.len()), down, across, Exactly(classes + 5)]
                    } else {
                        vec![Batch, Exactly(anchors.len() * (classes + 5)), down, across]
                    }
                })
                .collect(),
            Self::Yolov5 => vec![vec![Batch, Rows, Exactly(classes + 5)]],
            Self::BoxesScores => vec![vec![Batch, Rows, Exactly(4)], vec![Batch, Rows, Exactly(classes)]],
            Self::Yolox { strides, .. } if rank == 4 => {
                strides.iter().map(|stride| vec![Batch, Exactly(classes + 5), down(*stride), across(*stride)]).collect()
            }
            Self::Yolox { strides, .. } => {
                let rows = strides.iter().map(|stride| (input.0 / stride) as usize * (input.1 / stride) as usize).sum();
                vec![vec![Batch, Exactly(rows), Exactly(classes + 5)]]
            }
            Self::Yolov8 => vec![vec![Batch, Exactly(classes + 4), Rows]],
            Self::Ppyolo(head) => {
                let elements = classes + if head.iou_aware_factor.is_some() { 6 } else { 5 };
                let pattern = |level: &AnchorLevel| {
                    vec![Batch, Exactly(level.anchors.len() * elements), down(level.stride), across(level.stride)]
                };
                head.levels.iter().map(pattern).collect()
            }
            Self::PaddleNms { .. } => vec![vec![Rows, Exactly(6)], vec![Batch]],
            Self::EndToEnd => vec![vec![Batch, Rows, Exactly(6)]],
            Self::EfficientNms => {
                vec![vec![Batch, Exactly(1)], vec![Batch, Rows, Exactly(4)], vec![Batch, Rows], vec![Batch, Rows]]
            }
        }
    }

    /// Checks strides, anchors and factors, so that decoding can rely on them.
    fn check_parameters(&self, input: (u32, u32)) -> Result<(), HeadError> {
        let stride = |stride: u32| {
            if stride == 0 || !input.0.is_multiple_of(stride) || !input.1.is_multiple_of(stride) {
                return Err(parameter("stride", "a divisor of the input's width and height", stride));
            }
            Ok(())
        };
        let levels = |levels: &[AnchorLevel]| {
            if levels.is_empty() {
                return Err(parameter("levels", "at least one level", "none"));
            }
            for level in levels {
                stride(level.stride)?;
                let good = |side: &f32| side.is_finite() && *side > 0.0;
                if level.anchors.is_empty() || !level.anchors.iter().flatten().all(good) {
                    return Err(parameter(
                        "anchors",
                        "at least one, of positive sides",
                        format_args!("{:?}", level.anchors),
                    ));
                }
            }
            Ok(())
        };
        match self {
            Self::Yolov5Levels { levels: given } => levels(given),
            Self::Yolox { strides, .. } => {
                if strides.is_empty() {
                    return Err(parameter("strides", "at least one", "none"));
                }
                strides.iter().try_for_each(|value| stride(*value))
            }
            Self::Ppyolo(head) => {
                levels(&head.levels)?;
                if !(head.scale_x_y.is_finite() && head.scale_x_y >= 1.0) {
                    return Err(parameter("scale_x_y", "at least 1", head.scale_x_y));
                }
                if !(0.0..=1.0).contains(&head.conf_thresh) {
                    return Err(parameter("conf_thresh", "between 0 and 1", head.conf_thresh));
                }
                match head.iou_aware_factor {
                    Some(factor) if !(0.0..=1.0).contains(&factor) => {
                        Err(parameter("iou_aware_factor", "between 0 and 1", factor))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

fn parameter(field: &'static str, expected: &'static str, value: impl std::fmt::Display) -> HeadError {
    HeadError::Parameter { field, expected, value: value.to_string() }
}

/// Names and shapes, for messages.
pub(super) fn list(outputs: &[OutputShape<'_>]) -> String {
    let each: Vec<String> = outputs.iter().map(|output| format!("{} {}", output.name, shape(output.dims))).collect();
    each.join(", ")
}

fn shape(dims: &[Option<usize>]) -> String {
    let sides: Vec<String> = dims.iter().map(|dim| dim.map_or_else(|| "?".to_owned(), |dim| dim.to_string())).collect();
    format!("[{}]", sides.join(", "))
}

fn describe(pattern: &[Side], batch: Option<usize>, rows: Option<usize>) -> String {
    let known = |value: Option<usize>, name: &str| value.map_or_else(|| name.to_owned(), |value| value.to_string());
    let sides: Vec<String> = pattern
        .iter()
        .map(|side| match side {
            Batch => known(batch, "batch"),
            Rows => known(rows, "rows"),
            Exactly(side) => side.to_string(),
        })
        .collect();
    format!("[{}]", sides.join(", "))
}
