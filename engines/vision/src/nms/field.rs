//! The better boxes of one class, found again by where they are.

use super::overlap::{area, maximum, minimum};
use crate::Real;

/// Boxes compared at once.
const LANES: usize = 8;
/// Boxes of a class from which on a grid pays.
const GRID_FROM: usize = 192;
/// Cells along the longer side of the finest grid.
const FINEST: usize = 64;
/// No further block.
const END: u32 = u32::MAX;

/// How much overlap with a better box lowers a score; the two forms of Matrix NMS.
pub(super) trait Kernel<T: Real> {
    /// The form's value for no decay.
    fn none() -> T;
    /// What a better box contributes, from its own largest overlap.
    fn compensation(largest: T) -> T;
    /// The form for an overlap and a better box's compensation; lower is more decay.
    fn value(overlap: T, compensation: T) -> T;
}

/// `(1 - v) / (1 - m)`, kept as a product.
pub(super) struct Linear;

impl<T: Real> Kernel<T> for Linear {
    fn none() -> T {
        T::one()
    }
    fn compensation(largest: T) -> T {
        T::one() / (T::one() - largest)
    }
    #[inline(always)]
    fn value(overlap: T, compensation: T) -> T {
        (T::one() - overlap) * compensation
    }
}

/// `m^2 - v^2`; the exponential grows with it, so it is taken once, of the least.
pub(super) struct Gaussian;

impl<T: Real> Kernel<T> for Gaussian {
    fn none() -> T {
        T::zero()
    }
    fn compensation(largest: T) -> T {
        largest * largest
    }
    #[inline(always)]
    fn value(overlap: T, compensation: T) -> T {
        compensation - overlap * overlap
    }
}

/// Some boxes, a lane each.
#[derive(Clone, Debug)]
struct Block<T> {
    x1: [T; LANES],
    y1: [T; LANES],
    x2: [T; LANES],
    y2: [T; LANES],
    area: [T; LANES],
    compensation: [T; LANES],
    filled: usize,
    /// The next block of the same cell.
    next: u32,
}

/// Running extremes, a lane each.
struct Extremes<T> {
    largest: [T; LANES],
    least: [T; LANES],
}

impl<T: Real> Block<T> {
    /// Lanes that overlap nothing and decay nothing.
    fn empty<K: Kernel<T>>(next: u32) -> Self {
        let (low, high) = ([T::neg_infinity(); LANES], [T::infinity(); LANES]);
        Self {
            x1: high,
            y1: high,
            x2: low,
            y2: low,
            area: [T::zero(); LANES],
            compensation: [K::compensation(T::zero()); LANES],
            filled: 0,
            next,
        }
    }

    fn push(&mut self, [x1, y1, x2, y2]: [T; 4], area: T, compensation: T) {
        let lane = self.filled;
        self.x1[lane] = x1;
        self.y1[lane] = y1;
        self.x2[lane] = x2;
        self.y2[lane] = y2;
        self.area[lane] = area;
        self.compensation[lane] = compensation;
        self.filled += 1;
    }

    /// Compares all lanes with one box. A comparison with NaN (two boxes without area) is false and changes nothing.
    #[inline(always)]
    fn compare<K: Kernel<T>>(&self, [x1, y1, x2, y2]: [T; 4], area: T, offset: T, extremes: &mut Extremes<T>) {
        for lane in 0..LANES {
            let disjoint = (self.x1[lane] > x2) | (self.x2[lane] < x1) | (self.y1[lane] > y2) | (self.y2[lane] < y1);
            let width = minimum(self.x2[lane], x2) - maximum(self.x1[lane], x1) + offset;
            let height = minimum(self.y2[lane], y2) - maximum(self.y1[lane], y1) + offset;
            let intersection = width * height;
            let overlap = intersection / (self.area[lane] + area - intersection);
            let overlap = if disjoint { T::zero() } else { overlap };
            extremes.largest[lane] = maximum(extremes.largest[lane], overlap);
            extremes.least[lane] = minimum(extremes.least[lane], K::value(overlap, self.compensation[lane]));
        }
    }
}

/// A grid of boxes of about one size.
#[derive(Clone, Debug)]
struct Level<T> {
    /// Cells along x and y; a single one for a plain list.
    columns: usize,
    rows: usize,
    /// Cells per unit of length.
    per_unit: T,
    /// First block of each cell.
    cells: Vec<u32>,
    blocks: Vec<Block<T>>,
}

impl<T: Real> Level<T> {
    fn new(columns: usize, rows: usize, per_unit: T) -> Self {
        Self { columns, rows, per_unit, cells: vec![END; columns * rows], blocks: Vec::new() }
    }

    /// Position in units of cells. It never falls as `value` grows, so what overlaps stays in range after rounding.
    fn position(&self, value: T, origin: T) -> T {
        (value - origin) * self.per_unit
    }

    fn index(position: T, cells: usize) -> usize {
        position.to_usize().unwrap_or(0).min(cells - 1)
    }

    fn insert<K: Kernel<T>>(&mut self, corners: [T; 4], origin: [T; 2], area: T, compensation: T) {
        let [left, top, ..] = upright(corners);
        let column = Self::index(self.position(left, origin[0]), self.columns);
        let row = Self::index(self.position(top, origin[1]), self.rows);
        self.push::<K>(row * self.columns + column, corners, area, compensation);
    }

    fn push<K: Kernel<T>>(&mut self, cell: usize, corners: [T; 4], area: T, compensation: T) {
        let head = &mut self.cells[cell];
        let full = self.blocks.get(*head as usize).is_none_or(|block| block.filled == LANES);
        if full {
            self.blocks.push(Block::empty::<K>(*head));
            *head = (self.blocks.len() - 1) as u32;
        }
        self.blocks[*head as usize].push(corners, area, compensation);
    }

    fn compare<K: Kernel<T>>(&self, corners: [T; 4], origin: [T; 2], area: T, offset: T, extremes: &mut Extremes<T>) {
        if self.cells.len() == 1 || self.blocks.is_empty() {
            return self.compare_all::<K>(corners, area, offset, extremes);
        }
        // A box lies in the cell of its top-left corner and is at most one cell long.
        let back = T::from_f32(1.001);
        let [left, top, right, bottom] = upright(corners);
        let columns = Self::index(self.position(left, origin[0]) - back, self.columns)
            ..=Self::index(self.position(right, origin[0]), self.columns);
        let rows = Self::index(self.position(top, origin[1]) - back, self.rows)
            ..=Self::index(self.position(bottom, origin[1]), self.rows);
        let cells = columns.clone().count() * rows.clone().count();
        if cells >= self.blocks.len() {
            return self.compare_all::<K>(corners, area, offset, extremes);
        }
        for row in rows {
            for head in &self.cells[row * self.columns..][columns.clone()] {
                let mut next = *head;
                while let Some(block) = self.blocks.get(next as usize) {
                    block.compare::<K>(corners, area, offset, extremes);
                    next = block.next;
                }
            }
        }
    }
}

impl<T: Real> Level<T> {
    #[inline(always)]
    fn compare_all<K: Kernel<T>>(&self, corners: [T; 4], area: T, offset: T, extremes: &mut Extremes<T>) {
        for block in &self.blocks {
            block.compare::<K>(corners, area, offset, extremes);
        }
    }
}

/// The boxes of one class in order of rank, each with its compensation. Memory grows with their number.
#[derive(Clone, Debug)]
pub(super) struct Field<T> {
    /// 0 for continuous coordinates, 1 where they count pixels.
    offset: T,
    origin: [T; 2],
    /// Longest side of a box in each level, finest first.
    sides: Vec<T>,
    levels: Vec<Level<T>>,
    boxes: usize,
}

impl<T: Real> Default for Field<T> {
    fn default() -> Self {
        Self::new(T::zero())
    }
}

impl<T: Real> Field<T> {
    fn new(offset: T) -> Self {
        let (origin, sides) = ([T::zero(); 2], vec![T::infinity()]);
        Self { offset, origin, sides, levels: vec![Level::new(1, 1, T::zero())], boxes: 0 }
    }

    /// As new, keeping the memory of a plain list.
    pub(super) fn reset(&mut self, offset: T) {
        match self.levels.as_mut_slice() {
            [list] if self.boxes <= GRID_FROM => {
                list.blocks.clear();
                list.cells.fill(END);
                (self.offset, self.boxes) = (offset, 0);
            }
            _ => *self = Self::new(offset),
        }
    }

    /// The largest overlap of `corners` with the boxes so far, and the least value of the kernel.
    pub(super) fn compare<K: Kernel<T>>(&self, corners: [T; 4]) -> (T, T) {
        let mut extremes = Extremes { largest: [T::zero(); LANES], least: [K::none(); LANES] };
        let area = area(corners, self.offset);
        for level in &self.levels {
            level.compare::<K>(corners, self.origin, area, self.offset, &mut extremes);
        }
        (fold(extremes.largest, maximum), fold(extremes.least, minimum))
    }

    /// Adds a box of the next rank with its largest overlap. `bounds` enclose every box there is.
    pub(super) fn insert<K: Kernel<T>>(&mut self, corners: [T; 4], largest: T, bounds: impl FnOnce() -> [T; 4]) {
        if self.boxes == GRID_FROM {
            self.spread::<K>(bounds());
        }
        self.boxes += 1;
        self.place::<K>(corners, K::compensation(largest));
    }

    fn place<K: Kernel<T>>(&mut self, corners: [T; 4], compensation: T) {
        let area = area(corners, self.offset);
        if let [list] = self.levels.as_mut_slice() {
            return list.push::<K>(0, corners, area, compensation);
        }
        let [left, top, right, bottom] = upright(corners);
        let side = maximum(right - left, bottom - top);
        let level = self.sides.iter().position(|limit| side <= *limit).unwrap_or(self.sides.len() - 1);
        self.levels[level].insert::<K>(corners, self.origin, area, compensation);
    }

    /// From a plain list to grids, one for each doubling of the boxes' size.
    fn spread<K: Kernel<T>>(&mut self, [left, top, right, bottom]: [T; 4]) {
        let (width, height) = (right - left, bottom - top);
        let longest = maximum(width, height);
        if !(longest.is_finite() && longest > T::zero()) {
            return;
        }
        let list = std::mem::take(&mut self.levels);
        self.origin = [left, top];
        self.sides.clear();
        let mut cells = FINEST;
        while cells > 0 {
            let side = longest / T::from_f64(cells as f64);
            let along = |length: T| (length / side).to_usize().unwrap_or(0).min(cells) + 1;
            self.sides.push(side);
            self.levels.push(Level::new(along(width), along(height), T::one() / side));
            cells /= 2;
        }
        for block in list.iter().flat_map(|level| &level.blocks) {
            for lane in 0..block.filled {
                let corners = [block.x1[lane], block.y1[lane], block.x2[lane], block.y2[lane]];
                self.place::<K>(corners, block.compensation[lane]);
            }
        }
    }
}

/// Combines all lanes, in halves: fewer steps wait for each other.
fn fold<T: Copy>(mut lanes: [T; LANES], combine: impl Fn(T, T) -> T) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = combine(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// The same extent with the corners in order: an inverted box can still meet others.
fn upright<T: Real>([x1, y1, x2, y2]: [T; 4]) -> [T; 4] {
    [minimum(x1, x2), minimum(y1, y2), maximum(x1, x2), maximum(y1, y2)]
}

/// The smallest box around all of `corners`.
pub(super) fn bounds<T: Real>(corners: &[[T; 4]]) -> [T; 4] {
    let empty = [T::infinity(), T::infinity(), T::neg_infinity(), T::neg_infinity()];
    corners.iter().fold(empty, |around, corners| {
        let [left, top, right, bottom] = upright(*corners);
        [minimum(around[0], left), minimum(around[1], top), maximum(around[2], right), maximum(around[3], bottom)]
    })
}
