//! Finding the layout from shapes.

use super::shape::list;
use super::{AnchorLevel, Coordinates, Family, Head, HeadError, OutputShape, PpyoloHead, default_strides};

/// YOLOv3's anchors, which YOLOv5 and PP-YOLO kept, finest level first.
const ANCHORS_YOLOV5: [[[f32; 2]; 3]; 3] = [
    [[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]],
    [[30.0, 61.0], [62.0, 45.0], [59.0, 119.0]],
    [[116.0, 90.0], [156.0, 198.0], [373.0, 326.0]],
];
const ANCHORS_YOLOV7: [[[f32; 2]; 3]; 3] = [
    [[12.0, 16.0], [19.0, 36.0], [40.0, 28.0]],
    [[36.0, 75.0], [76.0, 55.0], [72.0, 146.0]],
    [[142.0, 110.0], [192.0, 243.0], [459.0, 401.0]],
];
const ANCHORS_PPYOLO_TINY: [[[f32; 2]; 3]; 3] = [
    [[10.0, 15.0], [24.0, 36.0], [72.0, 42.0]],
    [[35.0, 87.0], [102.0, 96.0], [60.0, 170.0]],
    [[220.0, 125.0], [128.0, 222.0], [264.0, 266.0]],
];

impl Family {
    /// The layouts that exports of this family have, with the family's own anchors and factors.
    fn heads(self) -> Vec<Head> {
        let yolov5 = |anchors| vec![Head::Yolov5, Head::Yolov5Levels { levels: levels(anchors) }, Head::BoxesScores];
        let ppyolo = |anchors, scale_x_y, conf_thresh, iou_aware_factor: Option<f32>| {
            let mut levels = levels(anchors);
            levels.reverse();
            let plain = PpyoloHead { levels, scale_x_y, conf_thresh, clip_bbox: true, iou_aware_factor: None };
            let aware = iou_aware_factor.map(|_| Head::Ppyolo(PpyoloHead { iou_aware_factor, ..plain.clone() }));
            let mut heads = vec![Head::Ppyolo(plain), Head::PaddleNms { coordinates: Coordinates::Source }];
            heads.extend(aware);
            heads
        };
        let mut heads = match self {
            Self::Yolov5 => yolov5(ANCHORS_YOLOV5),
            Self::Yolov7 => yolov5(ANCHORS_YOLOV7),
            Self::Yolov8 => vec![Head::Yolov8],
            // Whether flat rows are decoded cannot be seen; the export script's default leaves them raw.
            Self::Yolox => vec![Head::Yolox { strides: default_strides(), decoded: false, logits: false }],
            Self::Yolov3 => ppyolo(ANCHORS_YOLOV5, 1.0, 0.005, None),
            Self::Ppyolo => ppyolo(ANCHORS_YOLOV5, 1.05, 0.01, Some(0.4)),
            Self::Ppyolov2 => ppyolo(ANCHORS_YOLOV5, 1.05, 0.01, Some(0.5)),
            Self::PpyoloTiny => ppyolo(ANCHORS_PPYOLO_TINY, 1.05, 0.005, None),
        };
        heads.extend([Head::EndToEnd, Head::EfficientNms]);
        heads
    }
}

/// Layouts that need no knowledge beside the shapes.
fn plain_heads() -> Vec<Head> {
    vec![
        Head::Yolov5,
        Head::Yolov8,
        Head::BoxesScores,
        Head::EndToEnd,
        Head::EfficientNms,
        Head::PaddleNms { coordinates: Coordinates::Source },
    ]
}

fn levels(anchors: [[[f32; 2]; 3]; 3]) -> Vec<AnchorLevel> {
    let strides = default_strides();
    strides
        .into_iter()
        .zip(anchors)
        .map(|(stride, anchors)| AnchorLevel { stride, anchors: anchors.to_vec() })
        .collect()
}

impl Head {
    /// Finds the layout from the shapes of a model's outputs, for `classes` classes and an input of `input` (width,
    /// height) pixels. Without a family, only layouts that the shapes alone describe are considered.
    ///
    /// # Errors
    /// No layout fits, or several do; the message says what to write in the manifest.
    pub fn recognise(
        family: Option<Family>,
        outputs: &[OutputShape<'_>],
        classes: usize,
        input: (u32, u32),
    ) -> Result<Self, HeadError> {
        let mut fitting: Vec<Self> = family.map_or_else(plain_heads, Family::heads);
        fitting.retain(|head| head.check(outputs, classes, input).is_ok() && head.plausible(outputs, input));
        let advice = |heads: &[Self]| {
            let names: Vec<String> =
                heads.iter().map(|head| format!("head = {{ type = {:?}, … }}", head.name())).collect();
            names.join(" or ")
        };
        let reason = match fitting.as_slice() {
            [head] => return Ok(head.clone()),
            [] => format!("no known layout fits {classes} classes and an input of {}x{}", input.0, input.1),
            _ => "several layouts fit".to_owned(),
        };
        let advice = if fitting.is_empty() {
            let hint = if family.is_none() { "family = \"yolov5\" (or yolov7, yolox, ppyolo, …), or " } else { "" };
            format!("{hint}head = {{ type = … }} with its parameters")
        } else {
            advice(&fitting)
        };
        Err(HeadError::Unrecognised { outputs: list(outputs), reason, advice })
    }

    /// The number of rows, where it is known, is one that this layout has.
    fn plausible(&self, outputs: &[OutputShape<'_>], input: (u32, u32)) -> bool {
        let cells = |strides: &[u32]| -> usize {
            strides.iter().map(|stride| (input.0 / stride) as usize * (input.1 / stride) as usize).sum()
        };
        // With and without the level of stride 64.
        let counts = [cells(&[8, 16, 32]), cells(&[8, 16, 32, 64])];
        let rows = |axis: usize| outputs.first().and_then(|output| output.dims.get(axis).copied().flatten());
        match self {
            Self::Yolov5 => rows(1).is_none_or(|rows| counts.iter().any(|count| rows == 3 * count)),
            Self::Yolov8 => rows(2).is_none_or(|rows| counts.contains(&rows)),
            // Dense rows are no list of finished boxes.
            Self::EndToEnd => rows(1).is_none_or(|rows| counts.iter().all(|count| rows != *count && rows != 3 * count)),
            _ => true,
        }
    }
}
