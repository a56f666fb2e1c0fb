//! Walks over the cells of a head's outputs.

use super::formula::{self, YoloBox, logit_below, sigmoid};
use super::sink::Sink;
use super::{AnchorLevel, PpyoloHead};
use crate::Real;

/// The numbers of one picture and one anchor: element `e` of cell `c` is `data[c * cell + e * element]`.
struct Block<'a> {
    data: &'a [f32],
    cell: usize,
    element: usize,
}

impl<'a> Block<'a> {
    /// A plane per element.
    fn planes(data: &'a [f32], cells: usize) -> Self {
        Self { data, cell: 1, element: cells }
    }

    /// A row per cell.
    fn rows(data: &'a [f32], elements: usize) -> Self {
        Self { data, cell: elements, element: 1 }
    }

    fn at(&self, cell: usize, element: usize) -> f32 {
        self.data[cell * self.cell + element * self.element]
    }

    fn real<T: Real>(&self, cell: usize, element: usize) -> T {
        T::from_f32(self.at(cell, element))
    }
}

/// The common form of a row: four numbers of the box, the objectness, the classes.
struct Rows<T, O, C, B> {
    /// Index of the first row in the head's order.
    first: usize,
    cells: usize,
    /// Raw objectness below which a row can be left out.
    gate: f32,
    /// Raw objectness of a cell to probability.
    objectness: O,
    /// Raw class number to probability.
    class: C,
    /// The cell and its four numbers to corners.
    corners: B,
    real: std::marker::PhantomData<T>,
}

impl<T, O, C, B> Rows<T, O, C, B>
where
    T: Real,
    O: Fn(usize, T) -> T,
    C: Fn(T) -> T,
    B: Fn(usize, [T; 4]) -> [T; 4],
{
    fn walk(&self, block: &Block<'_>, sink: &mut impl Sink<T>) {
        for cell in 0..self.cells {
            let raw = block.at(cell, 4);
            if raw < self.gate {
                continue;
            }
            let objectness = (self.objectness)(cell, T::from_f32(raw));
            if !sink.wants(objectness) {
                continue;
            }
            let corners = (self.corners)(cell, std::array::from_fn(|element| block.real(cell, element)));
            sink.take(self.first + cell, corners, objectness, &|class| (self.class)(block.real(cell, 5 + class)));
        }
    }
}

/// One level of YOLOv5 or v7, logits. `data` holds one picture: `[na*(5+nc), ny, nx]`, or `[na, ny, nx, 5+nc]` if
/// `permuted`. Returns the number of rows.
pub(super) fn yolov5_level<T: Real>(
    data: &[f32],
    permuted: bool,
    level: &AnchorLevel,
    grid: [usize; 2],
    first: usize,
    sink: &mut impl Sink<T>,
) -> usize {
    let cells = grid[0] * grid[1];
    let per_anchor = data.len() / level.anchors.len();
    for (index, (numbers, anchor)) in data.chunks_exact(per_anchor).zip(&level.anchors).enumerate() {
        let block = if permuted { Block::rows(numbers, per_anchor / cells) } else { Block::planes(numbers, cells) };
        Rows {
            first: first + index * cells,
            cells,
            gate: logit_below(sink.least_objectness()),
            objectness: |_, raw| sigmoid(raw),
            class: sigmoid,
            corners: |cell, logits| formula::yolov5(logits, [cell % grid[0], cell / grid[0]], level.stride, *anchor),
            real: std::marker::PhantomData,
        }
        .walk(&block, sink);
    }
    level.anchors.len() * cells
}

/// Rows of centre, size, objectness and classes that need no formula: `[rows, 5+nc]`.
pub(super) fn finished<T: Real>(data: &[f32], elements: usize, sink: &mut impl Sink<T>) {
    Rows {
        first: 0,
        cells: data.len() / elements,
        gate: sink.least_objectness(),
        objectness: |_, raw| raw,
        class: |raw| raw,
        corners: |_, numbers| formula::corners(numbers),
        real: std::marker::PhantomData,
    }
    .walk(&Block::rows(data, elements), sink);
}

/// How a level of YOLOX is stored.
#[derive(Clone, Copy)]
pub(super) struct YoloxLevel {
    /// `[5+nc, ny, nx]`; otherwise `[ny*nx, 5+nc]`.
    pub planes: bool,
    /// Centre and size are in pixels already.
    pub decoded: bool,
    /// Objectness and classes are logits.
    pub logits: bool,
    pub stride: u32,
    pub grid: [usize; 2],
    /// Index of the first row.
    pub first: usize,
}

/// One level of YOLOX.
pub(super) fn yolox_level<T: Real>(data: &[f32], level: YoloxLevel, sink: &mut impl Sink<T>) {
    let cells = level.grid[0] * level.grid[1];
    let block = if level.planes { Block::planes(data, cells) } else { Block::rows(data, data.len() / cells) };
    let least = sink.least_objectness();
    let probability = |raw: T| if level.logits { sigmoid(raw) } else { raw };
    Rows {
        first: level.first,
        cells,
        gate: if level.logits { logit_below(least) } else { least },
        objectness: |_, raw| probability(raw),
        class: probability,
        corners: |cell, numbers| {
            if level.decoded {
                formula::corners(numbers)
            } else {
                formula::yolox(numbers, [cell % level.grid[0], cell / level.grid[0]], level.stride)
            }
        },
        real: std::marker::PhantomData,
    }
    .walk(&block, sink);
}

/// One level of PP-YOLO or Paddle's YOLOv3; `data` holds one picture. Rows under the confidence threshold are passed on
/// as zeros. Returns the number of rows.
pub(super) fn ppyolo_level<T: Real>(
    data: &[f32],
    head: &PpyoloHead,
    level: &AnchorLevel,
    grid: [usize; 2],
    picture: (u32, u32),
    first: usize,
    sink: &mut impl Sink<T>,
) -> usize {
    let cells = grid[0] * grid[1];
    let anchors = level.anchors.len();
    // The IoU logits of all anchors come before everything else.
    let (iou, numbers) = data.split_at(if head.iou_aware_factor.is_some() { anchors * cells } else { 0 });
    let yolo_box = YoloBox { grid, stride: level.stride, picture, scale_x_y: head.scale_x_y, clip: head.clip_bbox };
    let threshold = T::from_f32(head.conf_thresh);
    // A row under the threshold yields nothing, unless every row is asked for. The IoU factor only lowers a confidence.
    let gate = match sink.least_objectness() {
        f32::NEG_INFINITY => f32::NEG_INFINITY,
        least => {
            let least = least.max(head.conf_thresh);
            match head.iou_aware_factor {
                None => logit_below(least),
                Some(factor) if factor < 1.0 => logit_below(least.powf(1.0 / (1.0 - factor))),
                Some(_) => f32::NEG_INFINITY,
            }
        }
    };
    for (index, (numbers, anchor)) in numbers.chunks_exact(numbers.len() / anchors).zip(&level.anchors).enumerate() {
        let confidence = |cell: usize, raw: T| {
            let confidence = match head.iou_aware_factor {
                Some(factor) => formula::iou_aware(raw, T::from_f32(iou[index * cells + cell]), factor),
                None => sigmoid(raw),
            };
            if confidence < threshold { T::zero() } else { confidence }
        };
        let block = Block::planes(numbers, cells);
        Rows {
            first: first + index * cells,
            cells,
            gate,
            objectness: confidence,
            class: sigmoid,
            corners: |cell, logits| {
                if confidence(cell, block.real(cell, 4)) == T::zero() {
                    [T::zero(); 4]
                } else {
                    formula::yolo_box(logits, [cell % grid[0], cell / grid[0]], *anchor, &yolo_box)
                }
            },
            real: std::marker::PhantomData,
        }
        .walk(&block, sink);
    }
    anchors * cells
}

/// YOLOv8's columns: `[4+nc, rows]` of centre, size and classes.
pub(super) fn yolov8<T: Real>(data: &[f32], rows: usize, sink: &mut impl Sink<T>) {
    /// Rows whose best class is found together, plane by plane.
    const TOGETHER: usize = 256;
    if rows == 0 {
        return;
    }
    let block = Block::planes(data, rows);
    let classes = data.len() / rows - 4;
    let least = sink.least_objectness();
    let mut best = [f32::NEG_INFINITY; TOGETHER];
    for start in (0..rows).step_by(TOGETHER) {
        let count = TOGETHER.min(rows - start);
        best.fill(f32::NEG_INFINITY);
        for class in 0..classes {
            let plane = &data[(4 + class) * rows + start..][..count];
            for (best, value) in best.iter_mut().zip(plane) {
                *best = if *value > *best { *value } else { *best };
            }
        }
        for (offset, best) in best[..count].iter().enumerate() {
            let row = start + offset;
            if *best >= least && sink.wants(T::from_f32(*best)) {
                let numbers = std::array::from_fn(|element| block.real(row, element));
                sink.take(row, formula::corners(numbers), T::one(), &|class| block.real(row, 4 + class));
            }
        }
    }
}

/// Corners `[rows, 4]` and scores `[rows, nc]`.
pub(super) fn boxes_scores<T: Real>(boxes: &[f32], scores: &[f32], sink: &mut impl Sink<T>) {
    if boxes.is_empty() {
        return;
    }
    let classes = scores.len() / (boxes.len() / 4);
    for (row, (corners, scores)) in boxes.chunks_exact(4).zip(scores.chunks_exact(classes)).enumerate() {
        let best = scores.iter().fold(f32::NEG_INFINITY, |best, score| if *score > best { *score } else { best });
        if sink.wants(T::from_f32(best)) {
            let corners = std::array::from_fn(|corner| T::from_f32(corners[corner]));
            sink.take(row, corners, T::one(), &|class| T::from_f32(scores[class]));
        }
    }
}
