//! Golden pictures: what a version must find, before it may serve.
//!
//! `<version>/golden/expected.json` names pictures in the same folder and the boxes that the version found in them when
//! it was published, with the manifest's default options. A picture that the list does not name is not run; pictures
//! without a list are half of a copy, and refused.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use bytes::Bytes;
use detectd_engine::{DetectScratch, Engine};
use detectd_vision::{BoundingBox, DecodeLimits, DetectOptions, Detection};
use serde::Deserialize;

use super::manifest::GoldenSettings;
use crate::buffers::BufferPool;
use crate::pipeline::prepare;

/// A file beyond this size is no golden picture and no list of boxes.
const MAX_BYTES: u64 = 64 << 20;

#[derive(Deserialize)]
struct Picture {
    width: u32,
    height: u32,
    detections: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    class_id: u32,
    score: f32,
    bbox: Corners,
}

#[derive(Deserialize)]
struct Corners {
    x1: f32,
    y1: f32,
    x2: f32,
    y2: f32,
}

/// Runs the golden pictures of the version that lies in `folder` on `engine`. A version without a folder of them passes.
/// Returns how many there are.
///
/// # Errors
/// A picture is missing, fails, or has other boxes; it is named. Or there are pictures, but no list.
pub fn verify(
    folder: &Path,
    engine: &mut dyn Engine,
    options: &DetectOptions,
    buffers: &BufferPool,
    settings: &GoldenSettings,
) -> Result<usize, String> {
    let list = folder.join("golden").join("expected.json");
    if !list.is_file() {
        return match any_file(&folder.join("golden"))? {
            None => Ok(0),
            Some(name) => Err(format!(
                "{}: there is no such file, which tells what is to be found in golden/{name}",
                list.display()
            )),
        };
    }
    let pictures: BTreeMap<String, Picture> =
        serde_json::from_slice(&read(&list)?).map_err(|error| format!("{}: {error}", list.display()))?;
    for (name, picture) in &pictures {
        if name.contains(['/', '\\']) || name == ".." {
            return Err(format!("{}: `{name}` is no file's name", list.display()));
        }
        let path = folder.join("golden").join(name);
        let at = |reason: &dyn std::fmt::Display| format!("golden picture {}: {reason}", path.display());
        let (found, size) = detect(read(&path)?.into(), engine, options, buffers).map_err(|reason| at(&reason))?;
        if size != (picture.width, picture.height) {
            let expected = (picture.width, picture.height);
            return Err(at(&format_args!("it is {size:?} pixels, expected {expected:?}")));
        }
        compare(&picture.detections, &found, options.score_threshold, settings).map_err(|reason| at(&reason))?;
    }
    Ok(pictures.len())
}

/// The boxes of one picture, and its size.
fn detect(
    bytes: Bytes,
    engine: &mut dyn Engine,
    options: &DetectOptions,
    buffers: &BufferPool,
) -> Result<(Vec<Detection>, (u32, u32)), String> {
    let prepared = prepare::now(bytes, engine.spec(), buffers, &DecodeLimits::default())
        .map_err(|failure| failure.error.message)?;
    let (pictures, options) = ([prepared.picture], [options.clone()]);
    let detected =
        engine.detect(&pictures, &options, &mut DetectScratch::default()).map_err(|error| error.to_string())?;
    buffers.give_back(pictures.into());
    let found = detected.detections.into_iter().next().ok_or("no answer came")?;
    Ok((found, prepared.size))
}

/// The name of something in `folder` that is not hidden; `None` also where there is no such folder.
fn any_file(folder: &Path) -> Result<Option<String>, String> {
    let at = |error: io::Error| format!("{}: {error}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        entries => entries.map_err(at)?,
    };
    for entry in entries {
        let name = entry.map_err(at)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let at = |reason: &dyn std::fmt::Display| format!("{}: {reason}", path.display());
    let size = fs::metadata(path).map_err(|error| at(&error))?.len();
    if size > MAX_BYTES {
        return Err(at(&format_args!("{size} bytes, at most {MAX_BYTES} are read")));
    }
    fs::read(path).map_err(|error| at(&error))
}

/// Every clear box on either side has its like on the other.
fn compare(
    expected: &[Expected],
    found: &[Detection],
    threshold: f32,
    settings: &GoldenSettings,
) -> Result<(), String> {
    let clear = |score: f32| score > threshold + settings.max_score_difference;
    let expected: Vec<Detection> = expected
        .iter()
        .map(|Expected { class_id, score, bbox: Corners { x1, y1, x2, y2 } }| Detection {
            class_id: *class_id,
            score: *score,
            bbox: BoundingBox::new(*x1, *y1, *x2, *y2),
        })
        .collect();
    let like = |one: &Detection, other: &Detection| {
        one.class_id == other.class_id
            && one.bbox.iou(&other.bbox) >= settings.min_iou
            && (one.score - other.score).abs() <= settings.max_score_difference
    };
    for (these, those, what) in
        [(&expected[..], found, "was expected, but not found"), (found, &expected, "was found, but not expected")]
    {
        if let Some(alone) = these.iter().find(|one| clear(one.score) && !those.iter().any(|other| like(one, other))) {
            let BoundingBox { x1, y1, x2, y2 } = alone.bbox;
            return Err(format!(
                "class {} with score {:.3} in ({x1:.1}, {y1:.1}, {x2:.1}, {y2:.1}) {what}",
                alone.class_id, alone.score
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(class_id: u32, score: f32, x1: f32) -> Expected {
        Expected { class_id, score, bbox: Corners { x1, y1: 0.0, x2: x1 + 100.0, y2: 100.0 } }
    }

    fn found(class_id: u32, score: f32, x1: f32) -> Detection {
        Detection { class_id, score, bbox: BoundingBox::new(x1, 0.0, x1 + 100.0, 100.0) }
    }

    #[test]
    fn clear_boxes_must_agree_on_both_sides() {
        let settings = GoldenSettings::default();
        let run = |expected: &[Expected], found: &[Detection]| compare(expected, found, 0.25, &settings);
        assert_eq!(run(&[expected(1, 0.9, 0.0)], &[found(1, 0.85, 5.0)]), Ok(()));
        assert_eq!(run(&[expected(1, 0.3, 0.0)], &[]), Ok(()), "near the threshold it may be missing");
        let moved = run(&[expected(1, 0.9, 0.0)], &[found(1, 0.9, 20.0)]).unwrap_err();
        assert!(moved.contains("class 1") && moved.contains("not found"), "{moved}");
        assert!(run(&[expected(1, 0.9, 0.0)], &[found(2, 0.9, 0.0)]).is_err(), "another class");
        assert!(run(&[expected(1, 0.9, 0.0)], &[found(1, 0.5, 0.0)]).is_err(), "another score");
        let more = run(&[expected(1, 0.9, 0.0)], &[found(1, 0.9, 0.0), found(3, 0.8, 300.0)]).unwrap_err();
        assert!(more.contains("class 3") && more.contains("not expected"), "{more}");
    }
}
