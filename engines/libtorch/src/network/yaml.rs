use serde::{Deserialize, Serialize};

use super::NetworkError;

/// A model file: the rows, and the numbers that scale them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelYaml {
    /// Number of classes.
    pub nc: usize,
    /// Scales the number of repeats.
    pub depth_multiple: f64,
    /// Scales the number of channels.
    pub width_multiple: f64,
    /// Box priors.
    pub anchors: Anchors,
    /// The first rows.
    pub(super) backbone: Vec<Row>,
    /// The rows after them; numbered on.
    pub(super) head: Vec<Row>,
}

/// Box priors as the file gives them.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Anchors {
    /// So many per level, to be chosen later.
    Blank(usize),
    /// Per level: width, height, width, height... in pixels.
    Pixels(Vec<Vec<f64>>),
}

/// `[from, number, module, arguments]`
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Row(pub From, pub usize, pub String, pub Vec<Argument>);

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum From {
    One(i64),
    Many(Vec<i64>),
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub(super) enum Argument {
    Flag(bool),
    Number(i64),
    Name(String),
    Numbers(Vec<i64>),
    None(()),
}

/// A released architecture of YOLOv5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// v5.0: Focus stem and SPP.
    V5,
    /// v6.0 to v7.0: 6x6 stem and SPPF.
    V6,
}

/// A released size of YOLOv5: a pair of multiples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// nano
    N,
    /// small
    S,
    /// medium
    M,
    /// large
    L,
    /// extra large
    X,
}

impl Scale {
    /// Depth and width multiple.
    #[must_use]
    pub fn multiples(self) -> (f64, f64) {
        match self {
            Self::N => (0.33, 0.25),
            Self::S => (0.33, 0.50),
            Self::M => (0.67, 0.75),
            Self::L => (1.0, 1.0),
            Self::X => (1.33, 1.25),
        }
    }
}

impl ModelYaml {
    /// Reads a model file's text.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let model: Self = serde_norway::from_str(text)?;
        if !(model.depth_multiple > 0.0 && model.depth_multiple <= 8.0) {
            return Err(NetworkError::Model(format!("depth_multiple must be in (0, 8], not {}", model.depth_multiple)));
        }
        if !(model.width_multiple > 0.0 && model.width_multiple <= 8.0) {
            return Err(NetworkError::Model(format!("width_multiple must be in (0, 8], not {}", model.width_multiple)));
        }
        if !(1..=10_000).contains(&model.nc) {
            return Err(NetworkError::Model(format!("nc must be between 1 and 10000, not {}", model.nc)));
        }
        if model.rows().count() > 1_000 {
            return Err(NetworkError::Model("more than 1000 rows".into()));
        }
        model.anchors_per_level()?;
        Ok(model)
    }

    /// A released model with `nc` classes.
    pub fn released(architecture: Architecture, scale: Scale, nc: usize) -> Result<Self, NetworkError> {
        let text = match architecture {
            Architecture::V5 => include_str!("../../models/yolov5-v5.0.yaml"),
            Architecture::V6 => include_str!("../../models/yolov5-v6.yaml"),
        };
        let mut model = Self::parse(text)?;
        (model.depth_multiple, model.width_multiple) = scale.multiples();
        model.nc = nc;
        Ok(model)
    }

    /// All rows in order, backbone first.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.backbone.iter().chain(&self.head)
    }

    /// How many box priors each level has.
    pub(super) fn anchors_per_level(&self) -> Result<usize, NetworkError> {
        match &self.anchors {
            Anchors::Blank(count) if (1..=100).contains(count) => Ok(*count),
            Anchors::Blank(count) => {
                Err(NetworkError::Model(format!("anchors must be between 1 and 100 a level, not {count}")))
            }
            Anchors::Pixels(levels) => {
                let length = levels.first().map_or(0, Vec::len);
                if length == 0 || !length.is_multiple_of(2) || levels.iter().any(|level| level.len() != length) {
                    let lengths: Vec<usize> = levels.iter().map(Vec::len).collect();
                    return Err(NetworkError::Model(format!(
                        "anchors must be as many width, height pairs on each level; the lists have {lengths:?} numbers"
                    )));
                }
                if levels.iter().flatten().any(|v| !(v.is_finite() && *v > 0.0)) {
                    return Err(NetworkError::Model("anchors must be positive numbers of pixels".into()));
                }
                Ok(length / 2)
            }
        }
    }
}
