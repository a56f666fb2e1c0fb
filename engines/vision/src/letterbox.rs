//! Where a picture lies in a network's input, and the way back.

use crate::{BoundingBox, Preprocess, Real, Resize};

/// The geometry of one picture in one input. Made by [`Preprocess::run`], needed to map boxes back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Letterbox {
    source: (u32, u32),
    input: (u32, u32),
    resize: Resize,
    content: (u32, u32),
    scale: (f64, f64),
    pad: (f64, f64),
    offset: (u32, u32),
}

impl Letterbox {
    /// The geometry of a picture of `source` (width, height) pixels. Sides of 0 are taken as 1.
    #[must_use]
    pub fn new(source: (u32, u32), preprocess: &Preprocess) -> Self {
        let source = (source.0.max(1), source.1.max(1));
        let input = (preprocess.width.max(1), preprocess.height.max(1));
        let ratio = |axis: fn((u32, u32)) -> u32| f64::from(axis(input)) / f64::from(axis(source));
        let (horizontal, vertical) = (ratio(|size| size.0), ratio(|size| size.1));
        let gain = horizontal.min(vertical);
        let (width, height) = (f64::from(source.0) * gain, f64::from(source.1) * gain);
        let (content, scale, pad, offset) = match preprocess.resize {
            Resize::Letterbox => {
                // Half to even, like the reference's `round`. A side is at least one pixel: a thinner strip would vanish.
                let side = |length: f64, limit: u32| (length.round_ties_even() as u32).clamp(1, limit);
                let content = (side(width, input.0), side(height, input.1));
                let pad = ((f64::from(input.0) - width) / 2.0, (f64::from(input.1) - height) / 2.0);
                // The reference splits an odd rest as round(d/2 - 0.1) before and round(d/2 + 0.1) after.
                let before = |rest: u32| (f64::from(rest) / 2.0 - 0.1).round_ties_even().max(0.0) as u32;
                (content, (gain, gain), pad, (before(input.0 - content.0), before(input.1 - content.1)))
            }
            Resize::LetterboxTopLeft => {
                let side = |length: f64, limit: u32| (length as u32).clamp(1, limit);
                ((side(width, input.0), side(height, input.1)), (gain, gain), (0.0, 0.0), (0, 0))
            }
            Resize::Stretch => (input, (horizontal, vertical), (0.0, 0.0), (0, 0)),
        };
        Self { source, input, resize: preprocess.resize, content, scale, pad, offset }
    }

    /// Size of the picture: width, height.
    #[must_use]
    pub fn source(&self) -> (u32, u32) {
        self.source
    }

    /// Size of the input: width, height.
    #[must_use]
    pub fn input(&self) -> (u32, u32) {
        self.input
    }

    /// How the picture was fitted.
    #[must_use]
    pub fn resize(&self) -> Resize {
        self.resize
    }

    /// Size of the resized picture inside the input: width, height.
    #[must_use]
    pub fn content(&self) -> (u32, u32) {
        self.content
    }

    /// The resized picture's first column and row in the input.
    #[must_use]
    pub fn offset(&self) -> (u32, u32) {
        self.offset
    }

    /// Input pixels per source pixel, horizontally and vertically.
    #[must_use]
    pub fn scale(&self) -> (f64, f64) {
        self.scale
    }

    /// Padding left and above as boxes are mapped back with it: computed from the sizes before rounding, so it may
    /// differ from [`Self::offset`] by a fraction of a pixel.
    #[must_use]
    pub fn pad(&self) -> (f64, f64) {
        self.pad
    }

    /// Half of the padding that is really there: the input's size less the rounded size of the picture. Evaluation in
    /// the YOLOv5 repository maps boxes back with this one.
    #[must_use]
    pub fn rounded_pad(&self) -> (f64, f64) {
        match self.resize {
            Resize::Letterbox => {
                let half = |input: u32, content: u32| f64::from(input - content) / 2.0;
                (half(self.input.0, self.content.0), half(self.input.1, self.content.1))
            }
            Resize::LetterboxTopLeft | Resize::Stretch => (0.0, 0.0),
        }
    }

    /// A box in the picture's pixels, in the input's pixels.
    #[must_use]
    pub fn map(&self, bbox: BoundingBox) -> BoundingBox {
        let x = |x: f32| (f64::from(x) * self.scale.0 + self.pad.0) as f32;
        let y = |y: f32| (f64::from(y) * self.scale.1 + self.pad.1) as f32;
        BoundingBox { x1: x(bbox.x1), y1: y(bbox.y1), x2: x(bbox.x2), y2: y(bbox.y2) }
    }

    /// A box in the input's pixels, in the picture's pixels, clipped to the picture.
    #[must_use]
    pub fn unmap(&self, bbox: BoundingBox) -> BoundingBox {
        let [x1, y1, x2, y2] = self.unmap_corners([bbox.x1, bbox.y1, bbox.x2, bbox.y2], self.pad);
        BoundingBox { x1, y1, x2, y2 }
    }

    /// A box in the picture's pixels, clipped to the picture.
    #[must_use]
    pub fn clip(&self, bbox: BoundingBox) -> BoundingBox {
        let (width, height) = (self.source.0 as f32, self.source.1 as f32);
        let (x, y) = (|x: f32| x.clamp(0.0, width), |y: f32| y.clamp(0.0, height));
        BoundingBox { x1: x(bbox.x1), y1: y(bbox.y1), x2: x(bbox.x2), y2: y(bbox.y2) }
    }

    /// [`Self::unmap`] on `[x1, y1, x2, y2]` of either precision, with the padding given.
    #[must_use]
    pub fn unmap_corners<T: Real>(&self, corners: [T; 4], pad: (f64, f64)) -> [T; 4] {
        let axis = |value: T, pad: f64, scale: f64, limit: u32| {
            T::from_f64(((value.as_f64() - pad) / scale).clamp(0.0, f64::from(limit)))
        };
        let [x1, y1, x2, y2] = corners;
        [
            axis(x1, pad.0, self.scale.0, self.source.0),
            axis(y1, pad.1, self.scale.1, self.source.1),
            axis(x2, pad.0, self.scale.0, self.source.0),
            axis(y2, pad.1, self.scale.1, self.source.1),
        ]
    }
}
