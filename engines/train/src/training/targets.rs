//! Which cells and box priors are to find which object (YOLOv5's assignment).

use detectd_libtorch::network::Detect;

/// One object of a batch, with a box in shares of the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Picture number within the batch.
    pub image: usize,
    /// Class number.
    pub class_id: usize,
    /// Centre x, centre y, width, height, each in `[0, 1]`.
    pub bbox: [f32; 4],
}

/// What one output level is to find. All lists are equally long, one entry per match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matches {
    /// Picture numbers.
    pub image: Vec<i64>,
    /// Anchor numbers.
    pub anchor: Vec<i64>,
    /// Cell rows.
    pub row: Vec<i64>,
    /// Cell columns.
    pub column: Vec<i64>,
    /// Centre x, centre y relative to the cell, width, height; in cells.
    pub bbox: Vec<[f32; 4]>,
    /// Class numbers.
    pub class_id: Vec<i64>,
}

impl Matches {
    /// Number of matches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.image.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.image.is_empty()
    }
}

/// The matches of one level of `width` x `height` cells.
///
/// A target matches a prior if neither width nor height differs by a factor of `ratio` or more. It is then expected in
/// its centre's cell and in the two neighbours that the centre is nearest to, where they exist.
#[must_use]
pub fn matches(detect: &Detect, level: usize, width: usize, height: usize, targets: &[Target], ratio: f32) -> Matches {
    let (columns, rows, stride) = (width as f32, height as f32, detect.strides[level] as f64);
    let priors: Vec<(f32, f32)> =
        detect.anchors[level].iter().map(|(w, h)| ((w / stride) as f32, (h / stride) as f32)).collect();
    let mut matches = Matches::default();
    for target in targets {
        let [x, y, w, h] = target.bbox;
        let (x, y, w, h) = (x * columns, y * rows, w * columns, h * rows);
        for (anchor, prior) in priors.iter().enumerate() {
            let factor = |side: f32, prior: f32| (side / prior).max(prior / side);
            if factor(w, prior.0).max(factor(h, prior.1)) >= ratio {
                continue;
            }
            for (dx, dy) in cells(x, y, columns, rows) {
                let column = ((x - dx) as i64).clamp(0, width as i64 - 1);
                let row = ((y - dy) as i64).clamp(0, height as i64 - 1);
                matches.image.push(target.image as i64);
                matches.anchor.push(anchor as i64);
                matches.class_id.push(target.class_id as i64);
                matches.row.push(row);
                matches.column.push(column);
                matches.bbox.push([x - column as f32, y - row as f32, w, h]);
            }
        }
    }
    matches
}

/// What to subtract from the centre to come to each of its cells: none, and half a cell towards a near neighbour.
fn cells(x: f32, y: f32, columns: f32, rows: f32) -> impl Iterator<Item = (f32, f32)> {
    let near = |v: f32| v % 1.0 < 0.5 && v > 1.0;
    [
        (true, (0.0, 0.0)),
        (near(x), (0.5, 0.0)),
        (near(y), (0.0, 0.5)),
        (near(columns - x), (-0.5, 0.0)),
        (near(rows - y), (0.0, -0.5)),
    ]
    .into_iter()
    .filter_map(|(wanted, offset)| wanted.then_some(offset))
}
