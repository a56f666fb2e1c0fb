//! Rendered data sets.
//!
//! A data set is a range of scene numbers. Training scenes count up from 0 and held-out scenes from 2³²; as neither
//! range may be longer than 2³², no scene is ever in both.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use detectd_vision::{BoundingBox, Image};
use fast_image_resize as fir;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::sample::Sample;
use crate::scenes::render;

/// Which of the two disjoint sets of scenes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What a model learns from.
    Training,
    /// What a model is judged by and never learns from.
    HeldOut,
}

impl Split {
    /// The scene numbers of the first `count` scenes. A `u32` cannot count beyond the range.
    #[must_use]
    pub fn seeds(self, count: u32) -> Range<u64> {
        let first = match self {
            Self::Training => 0,
            Self::HeldOut => 1 << 32,
        };
        first..first + u64::from(count)
    }
}

/// A range of scenes and the sizes that they are drawn in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenes {
    /// Number of the first scene.
    pub first: u64,
    /// How many.
    pub count: usize,
    /// Width and height; the scenes take turns.
    pub sizes: Vec<[u32; 2]>,
}

impl Scenes {
    /// Refuses what cannot be drawn.
    ///
    /// # Errors
    /// No scenes, no sizes, or a size out of range.
    pub fn check(&self) -> Result<()> {
        ensure!(self.count >= 1, "count must be at least 1");
        ensure!(!self.sizes.is_empty(), "sizes must name at least one size");
        let bad = self.sizes.iter().flatten().find(|side| !(32..=4096).contains(*side));
        ensure!(bad.is_none(), "sizes must be between 32 and 4096, not {bad:?}");
        ensure!(self.first.checked_add(self.count as u64).is_some(), "the scene numbers end at 2^64");
        Ok(())
    }

    /// The scene numbers.
    #[must_use]
    pub fn seeds(&self) -> Range<u64> {
        self.first..self.first.saturating_add(self.count as u64)
    }

    /// Draws all scenes on `threads` threads, in the order of their numbers; the result does not depend on how many.
    /// Those whose longer side is above `longest` are scaled down to it.
    ///
    /// # Errors
    /// As [`Self::check`]; more scenes than fit into the free memory.
    pub fn draw(&self, longest: Option<u32>, threads: usize) -> Result<Vec<Sample>> {
        self.check()?;
        self.check_memory(longest)?;
        let bar = ProgressBar::new(self.count as u64)
            .with_style(ProgressStyle::with_template("drawing scenes {wide_bar} {pos}/{len}, {eta} left")?);
        let next = AtomicUsize::new(0);
        let drawn = Mutex::new(Vec::with_capacity(self.count));
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= self.count {
                    return;
                }
                let [width, height] = self.sizes[index % self.sizes.len()];
                let mut sample = render(self.first + index as u64, width, height);
                if let Some(longest) = longest.filter(|longest| width.max(height) > *longest) {
                    sample = shrink(&sample, longest);
                }
                bar.inc(1);
                if let Ok(mut drawn) = drawn.lock() {
                    drawn.push((index, sample));
                }
            }
        };
        thread::scope(|scope| {
            for number in 0..threads.max(1) {
                let builder = thread::Builder::new().name(format!("render-{number}"));
                builder.spawn_scoped(scope, work).context("starting a rendering thread")?;
            }
            anyhow::Ok(())
        })?;
        bar.finish_and_clear();
        let mut drawn = drawn.into_inner().map_err(|_| anyhow!("a rendering thread panicked"))?;
        drawn.sort_by_key(|(index, _)| *index);
        Ok(drawn.into_iter().map(|(_, sample)| sample).collect())
    }

    fn check_memory(&self, longest: Option<u32>) -> Result<()> {
        let bytes_of = |[width, height]: [u32; 2]| {
            let scale = longest.map_or(1.0, |longest| (f64::from(longest) / f64::from(width.max(height))).min(1.0));
            f64::from(width) * scale * f64::from(height) * scale * 3.0
        };
        let bytes = self.sizes.iter().map(|size| bytes_of(*size)).sum::<f64>() / self.sizes.len() as f64;
        let needed = bytes * self.count as f64 / f64::from(1 << 20);
        if let Some(free) = free_mebibytes() {
            ensure!(
                needed * 1.1 < free,
                "{} scenes need {needed:.0} MiB and a tenth more, but only {free:.0} MiB are free: ask for fewer or \
                 smaller scenes",
                self.count
            );
        }
        Ok(())
    }
}

/// Scales a sample down, bilinearly, until its longer side is `longest`.
fn shrink(sample: &Sample, longest: u32) -> Sample {
    let (width, height) = (sample.image.width(), sample.image.height());
    let ratio = f64::from(longest) / f64::from(width.max(height));
    let side = |side: u32| (f64::from(side) * ratio).round().max(1.0) as u32;
    let (new_width, new_height) = (side(width), side(height));
    let mut image = Image::filled(new_width, new_height, [0; 3]);
    let view = fir::images::ImageRef::new(width, height, sample.image.pixels(), fir::PixelType::U8x3);
    let into = fir::images::Image::from_slice_u8(new_width, new_height, image.pixels_mut(), fir::PixelType::U8x3);
    let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear));
    let (Ok(view), Ok(mut into)) = (view, into) else { unreachable!("an Image's buffer has the size of its sides") };
    if fir::Resizer::new().resize(&view, &mut into, &options).is_err() {
        unreachable!("both sides have the same pixel type");
    }
    let (x, y) = (new_width as f32 / width as f32, new_height as f32 / height as f32);
    let scaled = |bbox: BoundingBox| BoundingBox::new(bbox.x1 * x, bbox.y1 * y, bbox.x2 * x, bbox.y2 * y);
    let mut boxes = sample.boxes.clone();
    boxes.iter_mut().for_each(|labelled| labelled.bbox = scaled(labelled.bbox));
    Sample { image, boxes }
}

/// What the system says is free; `None` where it does not say.
fn free_mebibytes() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kibibytes| kibibytes / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenes(count: usize) -> Scenes {
        Scenes { first: Split::HeldOut.seeds(1).start, count, sizes: vec![[48, 48], [96, 64]] }
    }

    #[test]
    fn splits_never_overlap() {
        assert_eq!(Split::Training.seeds(u32::MAX).end, (1 << 32) - 1);
        assert_eq!(Split::HeldOut.seeds(3), (1 << 32)..(1 << 32) + 3);
    }

    #[test]
    fn drawing_does_not_depend_on_the_number_of_threads() {
        let (one, three) = (scenes(5).draw(None, 1).unwrap(), scenes(5).draw(None, 3).unwrap());
        assert_eq!(one.len(), 5);
        for (a, b) in one.iter().zip(&three) {
            assert_eq!((&a.image, &a.boxes), (&b.image, &b.boxes));
        }
        assert_eq!((one[1].image.width(), one[1].image.height()), (96, 64));
    }

    #[test]
    fn large_scenes_are_scaled_down_with_their_boxes() {
        let (whole, small) = (scenes(6).draw(None, 2).unwrap(), scenes(6).draw(Some(48), 2).unwrap());
        assert_eq!((small[0].image.width(), small[1].image.width(), small[1].image.height()), (48, 48, 32));
        assert!(whole[3].image.width() == 96 && !whole[1].boxes.is_empty());
        for (whole, small) in whole[1].boxes.iter().zip(&small[1].boxes) {
            assert!((whole.bbox.x2 / 2.0 - small.bbox.x2).abs() < 1e-3);
            assert!((whole.bbox.y1 / 2.0 - small.bbox.y1).abs() < 1e-3);
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let refused = |scenes: Scenes| scenes.draw(None, 1).unwrap_err().to_string();
        assert!(refused(Scenes { count: 0, ..scenes(1) }).contains("count"));
        assert!(refused(Scenes { sizes: vec![], ..scenes(1) }).contains("sizes"));
        assert!(refused(Scenes { sizes: vec![[640, 9000]], ..scenes(1) }).contains("9000"));
        assert!(refused(Scenes { first: u64::MAX, ..scenes(1) }).contains("2^64"));
        if free_mebibytes().is_some() {
            let error = refused(Scenes { count: 1 << 32, sizes: vec![[1280, 1280]], ..scenes(1) });
            assert!(error.contains("4294967296 scenes") && error.contains("MiB are free"), "{error}");
        }
    }
}
