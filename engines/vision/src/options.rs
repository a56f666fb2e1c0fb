//! What a caller may choose about the answer: thresholds, the suppression method, limits, classes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How candidates become detections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DetectOptions {
    /// Candidates below are dropped before suppression. Whether a score equal to the threshold survives is the model
    /// family's own rule: YOLOX keeps it, every other family drops it.
    pub score_threshold: f32,
    /// How overlapping candidates are thinned out.
    pub nms: Nms,
    /// Most detections in an answer, best first.
    pub max_detections: usize,
    /// Only these classes are considered, before suppression; ascending, without repeats. Absent: all.
    pub classes: Option<Vec<u32>>,
    /// Boxes of different classes suppress each other.
    pub class_agnostic: bool,
    /// A row of the head's output may yield one candidate for every class above the threshold, as evaluation does,
    /// instead of one for its best class.
    pub multi_label: bool,
}

impl Default for DetectOptions {
    fn default() -> Self {
        Self {
            score_threshold: 0.25,
            nms: Nms::default(),
            max_detections: 300,
            classes: None,
            class_agnostic: false,
            multi_label: false,
        }
    }
}

/// The suppression method and its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Nms {
    /// Matrix NMS (SOLOv2, section 3.3): every score decays by its overlap with better boxes.
    Matrix(MatrixNms),
    /// The best box drops those that overlap it too much.
    Greedy(GreedyNms),
    /// The best box lowers the scores of those that overlap it (Soft-NMS, Bodla et al. 2017).
    Soft(SoftNms),
}

impl Default for Nms {
    fn default() -> Self {
        Self::Matrix(MatrixNms::default())
    }
}

/// Parameters of Matrix NMS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MatrixNms {
    /// How overlap becomes decay.
    pub kernel: MatrixKernel,
    /// Gaussian kernel only: `decay = exp(sigma * (m^2 - v^2))`, so a larger sigma decays more.
    pub sigma: f32,
    /// A candidate stays if its decayed score is greater.
    pub post_threshold: f32,
    /// Most candidates of one class that take part, best first. Absent: all.
    pub top_k: Option<usize>,
    /// Coordinates are continuous: the extent of a box is `x2 - x1`. Otherwise they count pixels: `x2 - x1 + 1`.
    pub normalized: bool,
}

impl Default for MatrixNms {
    fn default() -> Self {
        Self { kernel: MatrixKernel::Linear, sigma: 2.0, post_threshold: 0.25, top_k: None, normalized: true }
    }
}

/// Decay kernel of Matrix NMS; `v` is the overlap with a better box, `m` that box's own largest overlap with one
/// better still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MatrixKernel {
    /// `(1 - v) / (1 - m)`.
    #[default]
    Linear,
    /// `exp(sigma * (m^2 - v^2))`.
    Gaussian,
}

/// Parameters of greedy NMS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GreedyNms {
    /// A box whose overlap with a kept one is greater is dropped.
    pub iou_threshold: f32,
    /// Most candidates of one class that take part, best first. Absent: all.
    pub top_k: Option<usize>,
    /// Below 1, the threshold is multiplied by it after each kept box while it is above 0.5.
    pub eta: f32,
}

impl Default for GreedyNms {
    fn default() -> Self {
        Self { iou_threshold: 0.45, top_k: None, eta: 1.0 }
    }
}

/// Parameters of Soft-NMS. At most 2,000 candidates of a picture take part, best first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SoftNms {
    /// How overlap lowers a score.
    pub kernel: SoftKernel,
    /// The picking stops at the first score below.
    pub minimum_score: f32,
}

impl Default for SoftNms {
    fn default() -> Self {
        Self { kernel: SoftKernel::Gaussian { sigma: 0.5 }, minimum_score: 0.25 }
    }
}

/// Decay kernel of Soft-NMS; `v` is the overlap with the box just picked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum SoftKernel {
    /// `1 - v` where `v` is greater than the threshold.
    Linear {
        /// Overlaps up to it leave the score as it is; the paper's value is 0.3.
        iou_threshold: f32,
    },
    /// `exp(-v^2 / sigma)` for every box.
    Gaussian {
        /// The paper's value is 0.5.
        sigma: f32,
    },
}

/// A parameter outside its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} must be {expected}, not {value}")]
pub struct OptionsError {
    /// The parameter, as a path (`nms.sigma`).
    pub field: &'static str,
    /// The values that are allowed.
    pub expected: &'static str,
    /// What came.
    pub value: String,
}

impl DetectOptions {
    /// Checks every parameter against its range.
    ///
    /// # Errors
    /// The first parameter out of range, with its value.
    pub fn validate(&self) -> Result<(), OptionsError> {
        unit("score_threshold", self.score_threshold)?;
        if self.max_detections == 0 {
            return Err(error("max_detections", "at least 1", self.max_detections));
        }
        if let Some(classes) = &self.classes
            && !classes.is_sorted_by(|a, b| a < b)
        {
            return Err(error("classes", "ascending, without repeats", format_args!("{classes:?}")));
        }
        match &self.nms {
            Nms::Matrix(matrix) => {
                positive("nms.sigma", matrix.sigma)?;
                unit("nms.post_threshold", matrix.post_threshold)?;
                at_least_one("nms.top_k", matrix.top_k)
            }
            Nms::Greedy(greedy) => {
                unit("nms.iou_threshold", greedy.iou_threshold)?;
                at_least_one("nms.top_k", greedy.top_k)?;
                if !(greedy.eta > 0.0 && greedy.eta <= 1.0) {
                    return Err(error("nms.eta", "above 0 and at most 1", greedy.eta));
                }
                Ok(())
            }
            Nms::Soft(soft) => {
                unit("nms.minimum_score", soft.minimum_score)?;
                match soft.kernel {
                    SoftKernel::Linear { iou_threshold } => unit("nms.iou_threshold", iou_threshold),
                    SoftKernel::Gaussian { sigma } => positive("nms.sigma", sigma),
                }
            }
        }
    }

    /// `class` passes the allow-list.
    #[must_use]
    pub fn allows(&self, class: u32) -> bool {
        self.classes.as_ref().is_none_or(|classes| classes.binary_search(&class).is_ok())
    }
}

fn error(field: &'static str, expected: &'static str, value: impl std::fmt::Display) -> OptionsError {
    OptionsError { field, expected, value: value.to_string() }
}

fn unit(field: &'static str, value: f32) -> Result<(), OptionsError> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(error(field, "between 0 and 1", value)) }
}

fn positive(field: &'static str, value: f32) -> Result<(), OptionsError> {
    if value > 0.0 && value.is_finite() { Ok(()) } else { Err(error(field, "above 0 and finite", value)) }
}

fn at_least_one(field: &'static str, value: Option<usize>) -> Result<(), OptionsError> {
    if value == Some(0) { Err(error(field, "at least 1, or absent for all", 0)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_for_every_method() {
        for nms in [Nms::default(), Nms::Greedy(GreedyNms::default()), Nms::Soft(SoftNms::default())] {
            assert_eq!(DetectOptions { nms, ..DetectOptions::default() }.validate(), Ok(()));
        }
    }

    #[test]
    fn a_bad_value_is_named_with_its_field() {
        let soft = SoftNms { kernel: SoftKernel::Gaussian { sigma: f32::NAN }, ..SoftNms::default() };
        let cases = [
            (
                DetectOptions { score_threshold: 1.5, ..DetectOptions::default() },
                "score_threshold must be between 0 and 1, not 1.5",
            ),
            (
                DetectOptions { max_detections: 0, ..DetectOptions::default() },
                "max_detections must be at least 1, not 0",
            ),
            (
                DetectOptions { classes: Some(vec![3, 1]), ..DetectOptions::default() },
                "classes must be ascending, without repeats, not [3, 1]",
            ),
            (
                DetectOptions { nms: Nms::Soft(soft), ..DetectOptions::default() },
                "nms.sigma must be above 0 and finite, not NaN",
            ),
            (
                DetectOptions {
                    nms: Nms::Greedy(GreedyNms { top_k: Some(0), ..GreedyNms::default() }),
                    ..DetectOptions::default()
                },
                "nms.top_k must be at least 1, or absent for all, not 0",
            ),
        ];
        for (options, message) in cases {
            assert_eq!(options.validate().expect_err(message).to_string(), message);
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(serde_json::from_str::<DetectOptions>(r#"{"score_treshold": 0.5}"#).is_err());
        let options: DetectOptions =
            serde_json::from_str(r#"{"nms": {"method": "soft", "kernel": {"type": "linear", "iou_threshold": 0.3}}}"#)
                .expect("valid");
        assert!(matches!(options.nms, Nms::Soft(SoftNms { kernel: SoftKernel::Linear { .. }, .. })));
    }
}
