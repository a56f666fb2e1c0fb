//! YOLOv5's loss: boxes by CIoU, objectness by the CIoU reached, classes by cross-entropy.

use std::f64::consts::PI;

use anyhow::{Result, ensure};
use detectd_libtorch::network::Detect;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Reduction, Tensor};

use super::targets::{Matches, Target, matches};

/// Weights of the loss's parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossSettings {
    /// Weight of the box loss for three levels.
    #[serde(rename = "box")]
    pub bbox: f64,
    /// Weight of the objectness loss for pictures of 640x640.
    pub obj: f64,
    /// Weight of the class loss for 80 classes.
    pub cls: f64,
    /// Label smoothing: a true class is `1 - e/2`, a false one `e/2`.
    pub label_smoothing: f64,
    /// A target and a prior match if their sides differ by less than this factor.
    pub anchor_t: f32,
}

impl Default for LossSettings {
    fn default() -> Self {
        Self { bbox: 0.05, obj: 1.0, cls: 0.5, label_smoothing: 0.0, anchor_t: 4.0 }
    }
}

/// The loss for one network.
#[derive(Debug)]
pub struct Loss {
    detect: Detect,
    settings: LossSettings,
    /// Weight of each level's objectness.
    balance: Vec<f64>,
    anchor_ratio: f32,
}

/// A loss and its parts.
#[derive(Debug)]
pub struct LossValue {
    /// The sum of the parts times the batch size, to be differentiated.
    pub total: Tensor,
    /// Box, objectness and class loss, weighted, as means over the batch.
    pub parts: [f64; 3],
}

/// Keeps the divisions of CIoU finite.
const EPSILON: f64 = 1e-7;

impl Loss {
    /// A loss for pictures of `width` x `height`.
    pub fn new(detect: Detect, settings: &LossSettings, width: usize, height: usize) -> Result<Self> {
        ensure!(!detect.anchors.is_empty(), "the model file leaves its anchors blank; training needs them");
        let levels = detect.strides.len();
        let (per_level, classes, area) =
            (3.0 / levels as f64, detect.classes as f64, (width * height) as f64 / (640.0 * 640.0));
        let balance = match levels {
            3 => vec![4.0, 1.0, 0.4],
            _ => [4.0, 1.0, 0.25, 0.06, 0.02].into_iter().cycle().take(levels).collect(),
        };
        let scaled = LossSettings {
            bbox: settings.bbox * per_level,
            obj: settings.obj * area * per_level,
            cls: settings.cls * classes / 80.0 * per_level,
            ..settings.clone()
        };
        Ok(Self { detect, anchor_ratio: settings.anchor_t, settings: scaled, balance })
    }

    /// The loss of raw outputs (as [`detectd_libtorch::network::Network::forward`] gives them) for `targets`.
    pub fn compute(&self, levels: &[Tensor], targets: &[Target]) -> Result<LossValue> {
        ensure!(levels.len() == self.balance.len(), "{} outputs, expected {}", levels.len(), self.balance.len());
        let options = (Kind::Float, Device::Cpu);
        let mut bbox_loss = Tensor::f_zeros([1], options)?;
        let mut obj_loss = Tensor::f_zeros([1], options)?;
        let mut cls_loss = Tensor::f_zeros([1], options)?;
        let batch = levels.first().map_or(0, |level| level.size()[0]);
        let anchors = i64::try_from(self.detect.anchors_per_level)?;
        for (index, raw) in levels.iter().enumerate() {
            let (_, _, height, width) = raw.size4()?;
            let outputs = i64::try_from(self.detect.outputs_per_anchor())?;
            let level = raw.f_view([batch, anchors, outputs, height, width])?.f_permute([0, 1, 3, 4, 2])?;
            let found = matches(
                &self.detect,
                index,
                usize::try_from(width)?,
                usize::try_from(height)?,
                targets,
                self.anchor_ratio,
            );
            let mut objectness = vec![0.0_f32; usize::try_from(batch * anchors * height * width)?];
            if !found.is_empty() {
                let predicted = select(&level, &found)?;
                let overlap = self.overlap(&predicted, &found, index)?;
                bbox_loss = bbox_loss.f_add(&overlap.f_rsub_scalar(1.0)?.f_mean(Kind::Float)?)?;
                write_objectness(&mut objectness, &overlap, &found, [anchors, height, width])?;
                if self.detect.classes > 1 {
                    let logits = predicted.f_slice(1, 5, None, 1)?;
                    cls_loss = cls_loss.f_add(&self.class_loss(&logits, &found)?)?;
                }
            }
            let wanted = Tensor::f_from_slice(&objectness)?.f_view([batch, anchors, height, width])?;
            let logits = level.f_select(4, 4)?;
            let loss = cross_entropy(&logits, &wanted)?;
            obj_loss = obj_loss.f_add(&loss.f_mul_scalar(self.balance[index])?)?;
        }
        let parts = [
            bbox_loss.f_mul_scalar(self.settings.bbox)?,
            obj_loss.f_mul_scalar(self.settings.obj)?,
            cls_loss.f_mul_scalar(self.settings.cls)?,
        ];
        let total = parts[0].f_add(&parts[1])?.f_add(&parts[2])?.f_mul_scalar(batch as f64)?;
        let value = |tensor: &Tensor| f64::try_from(tensor.detach().f_sum(Kind::Float)?);
        Ok(LossValue { total, parts: [value(&parts[0])?, value(&parts[1])?, value(&parts[2])?] })
    }

    /// CIoU of each matched prediction with its target, [matches].
    fn overlap(&self, predicted: &Tensor, found: &Matches, level: usize) -> Result<Tensor> {
        let stride = self.detect.strides[level] as f64;
        let priors = &self.detect.anchors[level];
        let prior: Vec<f32> = found
            .anchor
            .iter()
            .flat_map(|anchor| {
                let (width, height) = priors[*anchor as usize];
                [(width / stride) as f32, (height / stride) as f32]
            })
            .collect();
        let prior = Tensor::f_from_slice(&prior)?.f_view([-1, 2])?;
        let target = Tensor::f_from_slice(found.bbox.as_flattened())?.f_view([-1, 4])?;
        let activated = predicted.f_slice(1, 0, 4, 1)?.f_sigmoid()?.f_mul_scalar(2.0)?;
        let centre = activated.f_slice(1, 0, 2, 1)?.f_sub_scalar(0.5)?;
        let side = activated.f_slice(1, 2, 4, 1)?.f_square()?.f_mul(&prior)?;
        ciou(&Tensor::f_cat(&[centre, side], 1)?, &target)
    }

    /// Mean binary cross-entropy over matches and classes.
    fn class_loss(&self, logits: &Tensor, found: &Matches) -> Result<Tensor> {
        let smoothing = self.settings.label_smoothing;
        let wanted = logits.f_full_like(0.5 * smoothing)?.detach();
        let class_id = Tensor::f_from_slice(&found.class_id)?.f_view([-1, 1])?;
        let wanted = wanted.f_scatter_value(1, &class_id, 1.0 - 0.5 * smoothing)?;
        cross_entropy(logits, &wanted)
    }
}

/// The outputs at the matched cells: [matches, 5 + classes].
fn select(level: &Tensor, found: &Matches) -> Result<Tensor> {
    let index = |numbers: &[i64]| Tensor::f_from_slice(numbers).map(Some);
    Ok(level.f_index(&[index(&found.image)?, index(&found.anchor)?, index(&found.row)?, index(&found.column)?])?)
}

/// A matched cell's objectness is the overlap it reached; of several in one cell, the last counts.
fn write_objectness(wanted: &mut [f32], overlap: &Tensor, found: &Matches, sides: [i64; 3]) -> Result<()> {
    let [anchors, height, width] = sides;
    let overlap = Vec::<f32>::try_from(overlap.detach())?;
    for (index, overlap) in overlap.into_iter().enumerate() {
        let anchor = found.image[index] * anchors + found.anchor[index];
        let cell = (anchor * height + found.row[index]) * width + found.column[index];
        wanted[usize::try_from(cell)?] = overlap.max(0.0);
    }
    Ok(())
}

fn cross_entropy(logits: &Tensor, wanted: &Tensor) -> Result<Tensor> {
    Ok(logits.f_binary_cross_entropy_with_logits::<Tensor>(wanted, None, None, Reduction::Mean)?)
}

/// Complete IoU (Zheng et al. 2020) of boxes [n, 4] as centre and sides: IoU - rho^2 / c^2 - alpha v, where alpha
/// carries no gradient.
pub(super) fn ciou(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let column = |boxes: &Tensor, index: i64| boxes.f_select(1, index);
    let edges = |boxes: &Tensor, axis: i64| -> Result<(Tensor, Tensor)> {
        let (centre, half) = (column(boxes, axis)?, column(boxes, axis + 2)?.f_div_scalar(2.0)?);
        Ok((centre.f_sub(&half)?, centre.f_add(&half)?))
    };
    let (a_left, a_right) = edges(a, 0)?;
    let (a_top, a_bottom) = edges(a, 1)?;
    let (b_left, b_right) = edges(b, 0)?;
    let (b_top, b_bottom) = edges(b, 1)?;
    let (a_width, a_height) = (column(a, 2)?, column(a, 3)?);
    let (b_width, b_height) = (column(b, 2)?, column(b, 3)?);

    let width = a_right.f_minimum(&b_right)?.f_sub(&a_left.f_maximum(&b_left)?)?.f_clamp_min(0.0)?;
    let height = a_bottom.f_minimum(&b_bottom)?.f_sub(&a_top.f_maximum(&b_top)?)?.f_clamp_min(0.0)?;
    let intersection = width.f_mul(&height)?;
    let union = a_width.f_mul(&a_height)?.f_add(&b_width.f_mul(&b_height)?)?.f_sub(&intersection)?;
    let iou = intersection.f_div(&union.f_add_scalar(EPSILON)?)?;

    let hull_width = a_right.f_maximum(&b_right)?.f_sub(&a_left.f_minimum(&b_left)?)?;
    let hull_height = a_bottom.f_maximum(&b_bottom)?.f_sub(&a_top.f_minimum(&b_top)?)?;
    let diagonal = hull_width.f_square()?.f_add(&hull_height.f_square()?)?.f_add_scalar(EPSILON)?;
    let dx = column(a, 0)?.f_sub(&column(b, 0)?)?;
    let dy = column(a, 1)?.f_sub(&column(b, 1)?)?;
    let distance = dx.f_square()?.f_add(&dy.f_square()?)?;

    let angle = |width: &Tensor, height: &Tensor| width.f_div(&height.f_add_scalar(EPSILON)?)?.f_atan();
    let v = angle(&b_width, &b_height)?.f_sub(&angle(&a_width, &a_height)?)?.f_square()?;
    let v = v.f_mul_scalar(4.0 / (PI * PI))?;
    let alpha = {
        let (v, iou) = (v.detach(), iou.detach());
        v.f_div(&v.f_sub(&iou)?.f_add_scalar(1.0 + EPSILON)?)?
    };
    Ok(iou.f_sub(&distance.f_div(&diagonal)?)?.f_sub(&v.f_mul(&alpha)?)?)
}

#[cfg(test)]
mod tests {
    use detectd_libtorch::network::{Architecture, ModelYaml, Plan, Scale};
    use serde::Deserialize;

    use super::*;

    /// What `fixtures/loss_reference.py` has computed independently.
    #[derive(Deserialize)]
    struct Reference {
        classes: usize,
        side: usize,
        smoothing: f64,
        raw: Vec<Raw>,
        targets: Vec<[f64; 6]>,
        matches: Vec<Vec<[f64; 9]>>,
        parts: [f64; 3],
        total: f64,
        gradients: Vec<(usize, i64, i64, i64, i64, f64)>,
    }

    #[derive(Deserialize)]
    struct Raw {
        shape: Vec<i64>,
        values: Vec<f32>,
    }

    fn reference() -> (Reference, Loss, Vec<Target>) {
        let reference: Reference = serde_json::from_str(include_str!("fixtures/loss.json")).expect("the fixture");
        let model = ModelYaml::released(Architecture::V6, Scale::N, reference.classes).expect("a released model");
        let detect = Plan::new(&model).expect("a plan").detect;
        let settings = LossSettings { label_smoothing: reference.smoothing, ..LossSettings::default() };
        let loss = Loss::new(detect, &settings, reference.side, reference.side).expect("a loss");
        let targets = reference.targets.iter().map(|[image, class_id, bbox @ ..]| Target {
            image: *image as usize,
            class_id: *class_id as usize,
            bbox: bbox.map(|v| v as f32),
        });
        let targets = targets.collect();
        (reference, loss, targets)
    }

    #[test]
    fn targets_match_as_in_the_reference() {
        let (reference, loss, targets) = reference();
        for (level, expected) in reference.matches.iter().enumerate() {
            let cells = reference.side / loss.detect.strides[level];
            let found = matches(&loss.detect, level, cells, cells, &targets, 4.0);
            assert_eq!(found.len(), expected.len(), "level {level}");
            for (index, [image, anchor, row, column, class_id, bbox @ ..]) in expected.iter().enumerate() {
                let whole = [found.image[index], found.anchor[index], found.row[index], found.column[index]];
                assert_eq!(whole.map(|v| v as f64), [*image, *anchor, *row, *column], "level {level}, match {index}");
                assert_eq!(found.class_id[index] as f64, *class_id);
                let close = found.bbox[index].iter().zip(bbox).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5);
                assert!(close, "level {level}, match {index}: {:?} is not {bbox:?}", found.bbox[index]);
            }
        }
    }

    #[test]
    fn loss_and_gradient_equal_the_reference() {
        let (reference, loss, targets) = reference();
        let levels: Vec<Tensor> = reference
            .raw
            .iter()
            .map(|raw| Tensor::from_slice(&raw.values).view(&raw.shape[..]).set_requires_grad(true))
            .collect();
        let value = loss.compute(&levels, &targets).expect("a loss");
        for (part, expected) in value.parts.iter().zip(reference.parts) {
            assert!((part / expected - 1.0).abs() < 1e-5, "{part} is not {expected}");
        }
        let total = f64::try_from(&value.total).expect("one number");
        assert!((total / reference.total - 1.0).abs() < 1e-5, "{total} is not {}", reference.total);

        value.total.backward();
        for (level, image, channel, row, column, expected) in reference.gradients {
            let found = levels[level].grad().double_value(&[image, channel, row, column]);
            let close = (found - expected).abs() < 1e-6 + 1e-3 * expected.abs();
            assert!(close, "level {level} at {:?}: {found} is not {expected}", (image, channel, row, column));
        }
    }

    #[test]
    fn a_batch_without_objects_teaches_objectness_only() {
        let (reference, loss, _) = reference();
        let levels: Vec<Tensor> =
            reference.raw.iter().map(|raw| Tensor::from_slice(&raw.values).view(&raw.shape[..])).collect();
        let [bbox, objectness, class] = loss.compute(&levels, &[]).expect("a loss").parts;
        assert_eq!((bbox, class), (0.0, 0.0));
        assert!(objectness > 0.0);
    }
}
