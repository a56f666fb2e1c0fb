//! From a head of `detectd-vision` and where a model's outputs lie to what the kernels read.

use detectd_vision::{AnchorLevel, Coordinates, Head, Letterbox, OutputShape, PpyoloHead};

use crate::CudaError;
use crate::layout::{self, Level, MOST_ANCHORS, MOST_LEVELS, Number, Numbers};

/// One output of a batch, on the device, in rows without gaps.
#[derive(Clone, Copy, Debug)]
pub struct DeviceOutput<'a> {
    /// The tensor's name, for messages.
    pub name: &'a str,
    /// Its shape; the batch comes first.
    pub shape: &'a [usize],
    /// Its address.
    pub address: u64,
    /// Its numbers.
    pub number: Number,
}

impl DeviceOutput<'_> {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.number.bytes()
    }
}

const CORNERS: u32 = 0;
const CENTRE: u32 = 1;
const YOLOV5_BOX: u32 = 2;
const YOLOX_BOX: u32 = 3;
const YOLO_BOX: u32 = 4;

const NO_OBJECTNESS: u32 = 0;
const PROBABILITY: u32 = 1;
const LOGIT: u32 = 2;
const IOU_AWARE: u32 = 3;

/// Whether the kernels know this head. Those with NMS in the graph give so few rows that the CPU takes them, and no
/// network in use has more levels or anchors than the kernels have room for.
#[must_use]
pub fn is_known(head: &Head) -> bool {
    let fits = |levels: &[AnchorLevel]| {
        levels.len() <= MOST_LEVELS && levels.iter().all(|level| level.anchors.len() <= MOST_ANCHORS)
    };
    match head {
        Head::Yolov5Levels { levels } => fits(levels),
        Head::Ppyolo(head) => fits(&head.levels),
        Head::Yolox { strides, .. } => strides.len() <= MOST_LEVELS,
        Head::Yolov5 | Head::Yolov8 | Head::BoxesScores => true,
        Head::PaddleNms { .. } | Head::EndToEnd | Head::EfficientNms => false,
    }
}

/// The width and height that the boxes of a picture are decoded in, where the head's formula needs them.
#[must_use]
pub fn picture_size(head: &Head, letterbox: &Letterbox) -> [u32; 2] {
    let (width, height) = match head.coordinates(letterbox) {
        Coordinates::Source => letterbox.source(),
        Coordinates::Input => letterbox.input(),
    };
    [width, height]
}

/// Describes the outputs of a batch. `input` is the width and height of the network's input.
///
/// # Errors
/// [`CudaError::Shape`]: a head that [`is_known`] denies, outputs that do not have its layout or differ in their numbers,
/// more rows and classes than an index can count.
pub fn describe(
    head: &Head,
    outputs: &[DeviceOutput<'_>],
    classes: usize,
    input: (u32, u32),
) -> Result<layout::Head, CudaError> {
    if !is_known(head) {
        return Err(CudaError::Shape(format!("the {} head is not decoded on the device", head.name())));
    }
    let dims: Vec<Vec<Option<usize>>> =
        outputs.iter().map(|output| output.shape.iter().copied().map(Some).collect()).collect();
    let shapes: Vec<OutputShape<'_>> =
        outputs.iter().zip(&dims).map(|(output, dims)| OutputShape { name: output.name, dims }).collect();
    head.check(&shapes, classes, input).map_err(|error| CudaError::Shape(error.to_string()))?;
    let number = outputs[0].number;
    if let Some(other) = outputs.iter().find(|output| output.number != number) {
        let message = format!("output {:?} is {:?}, the first one {number:?}", other.name, other.number);
        return Err(CudaError::Shape(message));
    }
    let grid = |stride: u32| (input.0 / stride.max(1), input.1 / stride.max(1));
    let mut description =
        layout::Head { classes: count(classes)?, kind: number.code(), scale_x_y: 1.0, ..layout::Head::default() };
    let levels = match head {
        Head::Yolov5Levels { levels } => {
            description.box_form = YOLOV5_BOX;
            (description.objectness_form, description.class_logits) = (LOGIT, 1);
            anchored(levels, outputs, 5, 0, grid)?
        }
        Head::Yolov5 => {
            description.box_form = CENTRE;
            description.objectness_form = PROBABILITY;
            vec![of_rows(&outputs[0], 4, 5)?]
        }
        Head::Yolov8 => {
            description.box_form = CENTRE;
            vec![columns(&outputs[0])?]
        }
        Head::BoxesScores => {
            description.box_form = CORNERS;
            vec![Level { classes: of_rows(&outputs[1], 0, 0)?.classes, ..of_rows(&outputs[0], 0, 0)? }]
        }
        Head::Yolox { strides, decoded, logits } => {
            description.box_form = if *decoded { CENTRE } else { YOLOX_BOX };
            description.objectness_form = if *logits { LOGIT } else { PROBABILITY };
            description.class_logits = u32::from(*logits);
            description.keeps_equal = 1;
            yolox(strides, outputs, grid)?
        }
        Head::Ppyolo(head) => {
            description.box_form = YOLO_BOX;
            description.objectness_form = if head.iou_aware_factor.is_some() { IOU_AWARE } else { LOGIT };
            description.class_logits = 1;
            let PpyoloHead { scale_x_y, conf_thresh, iou_aware_factor, clip_bbox, .. } = *head;
            (description.scale_x_y, description.least_confidence) = (scale_x_y, conf_thresh);
            (description.iou_factor, description.clips) = (iou_aware_factor.unwrap_or(0.0), u32::from(clip_bbox));
            anchored(&head.levels, outputs, 5, usize::from(iou_aware_factor.is_some()), grid)?
        }
        Head::PaddleNms { .. } | Head::EndToEnd | Head::EfficientNms => Vec::new(),
    };
    let mut rows = 0;
    for (at, mut level) in levels.into_iter().enumerate() {
        // How many rows a level has was noted where its first row comes.
        let count = level.first_row;
        level.first_row = rows;
        rows = rows.checked_add(count).ok_or_else(too_many)?;
        description.levels[at] = level;
        description.level_count += 1;
    }
    description.rows = rows;
    rows.checked_mul(description.classes).ok_or_else(too_many)?;
    debug_assert!(description.objectness_form != NO_OBJECTNESS || description.least_confidence == 0.0);
    Ok(description)
}

/// Levels of `[N, na*(iou + 5+nc), ny, nx]`, or `[N, na, ny, nx, 5+nc]`. The IoU branch's planes come first.
fn anchored(
    levels: &[AnchorLevel],
    outputs: &[DeviceOutput<'_>],
    before_classes: u32,
    iou_planes: usize,
    grid: impl Fn(u32) -> (u32, u32),
) -> Result<Vec<Level>, CudaError> {
    let level = |(output, level): (&DeviceOutput<'_>, &AnchorLevel)| {
        let (across, down) = grid(level.stride);
        let (cells, anchors) = (across * down, count(level.anchors.len())?);
        let picture = per_picture(output)?;
        let iou_numbers = u64::from(anchors) * u64::from(cells) * iou_planes as u64;
        let elements = count((picture - iou_numbers) as usize / (anchors * cells).max(1) as usize)?;
        let data = output.address + iou_numbers * output.number.bytes() as u64;
        let (cell, element) = if output.shape.len() == 5 { (elements, 1) } else { (1, cells) };
        let numbers = |first| Numbers { data, picture, anchor: elements * cells, cell, element, first };
        let mut sides = [[0.0; 2]; MOST_ANCHORS];
        sides[..level.anchors.len()].copy_from_slice(&level.anchors);
        Ok(Level {
            bounds: numbers(0),
            objectness: numbers(4),
            iou: Numbers { data: output.address, picture, anchor: cells, cell: 1, element: 1, first: 0 },
            classes: numbers(before_classes),
            first_row: anchors * cells,
            across,
            cells,
            stride: level.stride as f32,
            anchors: sides,
        })
    };
    outputs.iter().zip(levels).map(level).collect()
}

/// One level of `[N, rows, elements]`.
fn of_rows(output: &DeviceOutput<'_>, objectness: u32, classes: u32) -> Result<Level, CudaError> {
    let (rows, elements) = (count(output.shape[1])?, count(output.shape[2])?);
    let picture = per_picture(output)?;
    let numbers = |first| Numbers { data: output.address, picture, anchor: 0, cell: elements, element: 1, first };
    Ok(Level {
        bounds: numbers(0),
        objectness: numbers(objectness),
        classes: numbers(classes),
        first_row: rows,
        across: rows.max(1),
        cells: rows.max(1),
        stride: 1.0,
        ..Level::default()
    })
}

/// One level of `[N, 4+nc, rows]`.
fn columns(output: &DeviceOutput<'_>) -> Result<Level, CudaError> {
    let rows = count(output.shape[2])?;
    let picture = per_picture(output)?;
    let numbers = |first| Numbers { data: output.address, picture, anchor: 0, cell: 1, element: rows, first };
    Ok(Level {
        bounds: numbers(0),
        classes: numbers(4),
        first_row: rows,
        across: rows.max(1),
        cells: rows.max(1),
        stride: 1.0,
        ..Level::default()
    })
}

/// Levels of one `[N, rows, 5+nc]`, or of one `[N, 5+nc, ny, nx]` each.
fn yolox(
    strides: &[u32],
    outputs: &[DeviceOutput<'_>],
    grid: impl Fn(u32) -> (u32, u32),
) -> Result<Vec<Level>, CudaError> {
    let planes = outputs[0].shape.len() == 4;
    let mut before = 0;
    let mut levels = Vec::with_capacity(strides.len());
    for (at, stride) in strides.iter().enumerate() {
        let (across, down) = grid(*stride);
        let cells = across * down;
        let output = &outputs[if planes { at } else { 0 }];
        let elements = count(if planes { output.shape[1] } else { output.shape[2] })?;
        let (cell, element) = if planes { (1, cells) } else { (elements, 1) };
        let skipped = if planes { 0 } else { u64::from(before) * u64::from(elements) };
        let data = output.address + skipped * output.number.bytes() as u64;
        let picture = per_picture(output)?;
        let numbers = |first| Numbers { data, picture, anchor: 0, cell, element, first };
        levels.push(Level {
            bounds: numbers(0),
            objectness: numbers(4),
            classes: numbers(5),
            first_row: cells,
            across,
            cells,
            stride: *stride as f32,
            ..Level::default()
        });
        before += cells;
    }
    Ok(levels)
}

fn per_picture(output: &DeviceOutput<'_>) -> Result<u64, CudaError> {
    let sides = output.shape.get(1..).unwrap_or_default();
    let count = sides.iter().try_fold(1_u64, |product, side| product.checked_mul(*side as u64));
    count.ok_or_else(too_many)
}

fn count(value: usize) -> Result<u32, CudaError> {
    u32::try_from(value).map_err(|_| too_many())
}

fn too_many() -> CudaError {
    CudaError::Shape("the outputs have more numbers than the kernels can count: 4294967295 rows times classes".into())
}
