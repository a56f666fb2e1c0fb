//! Pixels that come without an encoding.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{DecodeError, DecodeLimits, Format};
use crate::Image;

/// How raw pixels lie in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawLayout {
    /// Interleaved red, green, blue.
    Rgb8Hwc,
    /// Interleaved blue, green, red.
    Bgr8Hwc,
    /// Interleaved red, green, blue, alpha; alpha is ignored.
    Rgba8Hwc,
    /// Interleaved blue, green, red, alpha; alpha is ignored.
    Bgra8Hwc,
    /// One grey byte.
    Gray8,
    /// A red, a green and a blue plane.
    Rgb8Chw,
    /// A blue, a green and a red plane.
    Bgr8Chw,
}

impl RawLayout {
    /// Bytes from one pixel to the next in a row.
    fn step(self) -> usize {
        match self {
            Self::Rgb8Hwc | Self::Bgr8Hwc => 3,
            Self::Rgba8Hwc | Self::Bgra8Hwc => 4,
            Self::Gray8 | Self::Rgb8Chw | Self::Bgr8Chw => 1,
        }
    }

    /// Planes that follow each other.
    fn planes(self) -> usize {
        if matches!(self, Self::Rgb8Chw | Self::Bgr8Chw) { 3 } else { 1 }
    }

    /// Where red, green and blue are: the offset in a pixel, or the plane.
    fn order(self) -> [usize; 3] {
        match self {
            Self::Rgb8Hwc | Self::Rgba8Hwc | Self::Rgb8Chw => [0, 1, 2],
            Self::Bgr8Hwc | Self::Bgra8Hwc | Self::Bgr8Chw => [2, 1, 0],
            Self::Gray8 => [0, 0, 0],
        }
    }
}

impl fmt::Display for RawLayout {
    /// The word of the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rgb8Hwc => "RGB",
            Self::Bgr8Hwc => "BGR",
            Self::Rgba8Hwc => "RGBA",
            Self::Bgra8Hwc => "BGRA",
            Self::Gray8 => "GRAY",
            Self::Rgb8Chw => "RGB_PLANAR",
            Self::Bgr8Chw => "BGR_PLANAR",
        })
    }
}

/// Takes raw pixels. `stride` is the bytes from one row to the next (of each plane, for planes); `None`: no gap.
///
/// # Errors
/// A buffer that is not `stride * height` long (`3 * stride * height` for planes), the last row's gap left out or not;
/// a stride shorter than a row; more pixels than `limits` allow; a side of 0.
pub fn from_raw(
    data: &[u8],
    width: u32,
    height: u32,
    layout: RawLayout,
    stride: Option<usize>,
    limits: &DecodeLimits,
) -> Result<Image, DecodeError> {
    if width == 0 || height == 0 {
        return Err(DecodeError::RawSide { width, height });
    }
    let limit = limits.max_pixels;
    if u64::from(width) * u64::from(height) > limit {
        return Err(DecodeError::TooManyPixels { format: Format::Raw, width, height, limit });
    }
    let row = width as usize * layout.step();
    let stride = stride.unwrap_or(row);
    if stride < row {
        return Err(DecodeError::RawStride { width, layout, row, stride });
    }
    let lines = height as usize * layout.planes();
    // In 128 bits: the stride comes from outside.
    let full = stride as u128 * lines as u128;
    let least = full - (stride - row) as u128;
    let length = data.len() as u128;
    if length != full && length != least {
        let expected = u64::try_from(full).unwrap_or(u64::MAX);
        return Err(DecodeError::RawLength { width, height, layout, stride, expected, got: data.len() });
    }
    let mut pixels = Vec::with_capacity(width as usize * height as usize * 3);
    let [red, green, blue] = layout.order();
    for y in 0..height as usize {
        if layout.planes() == 3 {
            let line = |plane: usize| &data[(plane * height as usize + y) * stride..][..row];
            for ((r, g), b) in line(red).iter().zip(line(green)).zip(line(blue)) {
                pixels.extend_from_slice(&[*r, *g, *b]);
            }
        } else if layout == RawLayout::Rgb8Hwc {
            pixels.extend_from_slice(&data[y * stride..][..row]);
        } else {
            for pixel in data[y * stride..][..row].chunks_exact(layout.step()) {
                pixels.extend_from_slice(&[pixel[red], pixel[green], pixel[blue]]);
            }
        }
    }
    let wrong = DecodeError::RawLength { width, height, layout, stride, expected: 0, got: data.len() };
    Image::new(width, height, pixels).ok_or(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(data: &[u8], layout: RawLayout, stride: Option<usize>) -> Result<Vec<u8>, DecodeError> {
        from_raw(data, 2, 2, layout, stride, &DecodeLimits::default()).map(Image::into_pixels)
    }

    #[test]
    fn every_layout_becomes_rgb() {
        let rgb = vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let cases: [(RawLayout, Vec<u8>); 6] = [
            (RawLayout::Rgb8Hwc, rgb.clone()),
            (RawLayout::Bgr8Hwc, vec![3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]),
            (RawLayout::Rgba8Hwc, vec![1, 2, 3, 0, 4, 5, 6, 9, 7, 8, 9, 0, 10, 11, 12, 255]),
            (RawLayout::Bgra8Hwc, vec![3, 2, 1, 0, 6, 5, 4, 9, 9, 8, 7, 0, 12, 11, 10, 255]),
            (RawLayout::Rgb8Chw, vec![1, 4, 7, 10, 2, 5, 8, 11, 3, 6, 9, 12]),
            (RawLayout::Bgr8Chw, vec![3, 6, 9, 12, 2, 5, 8, 11, 1, 4, 7, 10]),
        ];
        for (layout, data) in cases {
            assert_eq!(take(&data, layout, None), Ok(rgb.clone()), "{layout:?}");
        }
        assert_eq!(take(&[1, 2, 3, 4], RawLayout::Gray8, None), Ok(vec![1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]));
    }

    #[test]
    fn rows_may_have_gaps_and_the_last_gap_may_be_missing() {
        let expected = Ok(vec![1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
        assert_eq!(take(&[1, 2, 0, 3, 4, 0], RawLayout::Gray8, Some(3)), expected);
        assert_eq!(take(&[1, 2, 0, 3, 4], RawLayout::Gray8, Some(3)), expected);
    }

    #[test]
    fn a_buffer_of_another_length_is_refused() {
        let error = take(&[0; 11], RawLayout::Rgb8Hwc, None).expect_err("one byte short");
        assert_eq!(error.to_string(), "2x2 RGB pixels with 6 bytes a row need 12 bytes, 11 came");
        for (data, stride) in [(&[0; 12][..], Some(5)), (&[0; 12], Some(usize::MAX)), (&[], None), (&[0; 14], Some(7))]
        {
            assert!(take(data, RawLayout::Rgb8Hwc, stride).is_err() == (stride != Some(7)), "{stride:?}");
        }
        let limits = DecodeLimits { max_pixels: 3 };
        let error = from_raw(&[0; 4], 2, 2, RawLayout::Gray8, None, &limits).expect_err("over the limit");
        assert_eq!(error.to_string(), "the raw picture is 2x2: 4 pixels, the limit is 3");
        let error = from_raw(&[], 0, 5, RawLayout::Gray8, None, &limits).expect_err("no pixels");
        assert_eq!(error.to_string(), "a raw picture of 0x5: a side is 0, each must be at least 1");
        let error = take(&[0; 12], RawLayout::Rgb8Hwc, Some(5)).expect_err("too close");
        assert_eq!(
            error.to_string(),
            "the row stride is too small: a row of 2 RGB pixels needs 6 bytes, the stride is 5"
        );
    }
}
