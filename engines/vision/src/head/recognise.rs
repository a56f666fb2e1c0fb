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
            // Dense rows are no list of finished boxes, and a list of finished boxes states its six columns.
            Self::EndToEnd => {
                let dense = |rows| counts.iter().any(|count| rows == *count || rows == 3 * count);
                rows(2) == Some(6) && !rows(1).is_some_and(dense)
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognise(family: Option<Family>, shapes: &[&[usize]], classes: usize) -> Result<Head, HeadError> {
        let dims: Vec<Vec<Option<usize>>> =
            shapes.iter().map(|shape| shape.iter().map(|side| (*side > 0).then_some(*side)).collect()).collect();
        let outputs: Vec<OutputShape<'_>> = dims.iter().map(|dims| OutputShape { name: "out", dims }).collect();
        Head::recognise(family, &outputs, classes, (640, 640))
    }

    #[test]
    fn shapes_alone_tell_most_layouts() {
        let cases: [(&[&[usize]], usize, &str); 7] = [
            (&[&[1, 25_200, 85]], 80, "yolov5"),
            // One class: six numbers a row, like a finished box, but 25 200 of them.
            (&[&[1, 25_200, 6]], 1, "yolov5"),
            (&[&[1, 300, 6]], 1, "end_to_end"),
            (&[&[0, 84, 8400]], 80, "yolov8"),
            (&[&[1, 25_200, 4], &[1, 25_200, 80]], 80, "boxes_scores"),
            (&[&[1, 1], &[1, 100, 4], &[1, 100], &[1, 100]], 80, "efficient_nms"),
            (&[&[0, 6], &[0]], 80, "paddle_nms"),
        ];
        for (shapes, classes, expected) in cases {
            let head = recognise(None, shapes, classes).unwrap_or_else(|error| panic!("{expected}: {error}"));
            assert_eq!(head.name(), expected);
        }
    }

    #[test]
    fn a_family_brings_its_anchors_and_factors() {
        let levels: [&[usize]; 3] = [&[1, 255, 80, 80], &[1, 255, 40, 40], &[1, 255, 20, 20]];
        let Ok(Head::Yolov5Levels { levels: found }) = recognise(Some(Family::Yolov7), &levels, 80) else {
            panic!("levels of YOLOv7")
        };
        assert_eq!((found[0].stride, found[0].anchors[0]), (8, [12.0, 16.0]));
        let aware: [&[usize]; 3] = [&[1, 258, 20, 20], &[1, 258, 40, 40], &[1, 258, 80, 80]];
        let Ok(Head::Ppyolo(found)) = recognise(Some(Family::Ppyolov2), &aware, 80) else { panic!("PP-YOLOv2") };
        assert_eq!((found.iou_aware_factor, found.levels[0].stride), (Some(0.5), 32));
        let plain: [&[usize]; 3] = [&[1, 255, 20, 20], &[1, 255, 40, 40], &[1, 255, 80, 80]];
        let Ok(Head::Ppyolo(found)) = recognise(Some(Family::Yolov3), &plain, 80) else { panic!("YOLOv3") };
        assert_eq!((found.iou_aware_factor, found.scale_x_y), (None, 1.0));
    }

    #[test]
    fn what_is_unclear_says_what_to_write() {
        let levels: [&[usize]; 3] = [&[1, 255, 80, 80], &[1, 255, 40, 40], &[1, 255, 20, 20]];
        let message = recognise(None, &levels, 80).expect_err("no family").to_string();
        assert!(message.contains("out [1, 255, 80, 80]") && message.contains("family = \"yolov5\""), "{message}");
        // With every side open, one class and one output, several layouts fit.
        let message = recognise(None, &[&[0, 0, 6]], 1).expect_err("open sides").to_string();
        assert!(message.contains("several layouts fit") && message.contains("end_to_end"), "{message}");
    }

    #[test]
    fn a_shape_that_does_not_fit_is_named() {
        let dims = [Some(1), Some(25_200), Some(86)];
        let outputs = [OutputShape { name: "output0", dims: &dims }];
        let message = Head::Yolov5.check(&outputs, 80, (640, 640)).expect_err("81 classes").to_string();
        assert_eq!(message, "output \"output0\" must be [1, 25200, 85] for the yolov5 head, not [1, 25200, 86]");
        let message = Head::BoxesScores.check(&outputs, 80, (640, 640)).expect_err("one output").to_string();
        assert_eq!(message, "the boxes_scores head needs 2 outputs, the model has output0 [1, 25200, 86]");
    }
}
