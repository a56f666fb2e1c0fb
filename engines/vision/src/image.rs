//! A decoded picture.

use std::fmt;

/// A picture as 8-bit RGB, row-major, interleaved (HWC), without padding between rows.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl Image {
    /// Wraps `pixels`, which must hold exactly `width * height * 3` bytes; `None` otherwise or if a side is 0.
    #[must_use]
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Option<Self> {
        let expected = (width as usize).checked_mul(height as usize)?.checked_mul(3)?;
        (expected > 0 && pixels.len() == expected).then_some(Self { width, height, pixels })
    }

    /// A picture of one colour. Sides of 0 are raised to 1.
    #[must_use]
    pub fn filled(width: u32, height: u32, rgb: [u8; 3]) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let pixels = rgb.repeat(width as usize * height as usize);
        Self { width, height, pixels }
    }

    /// Width in pixels, at least 1.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels, at least 1.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The bytes: `height` rows of `width` RGB triples.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The bytes, to be written.
    pub fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }

    /// Gives the buffer back, so that a pool can use it again.
    #[must_use]
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({}x{} RGB8)", self.width, self.height)
    }
}
