//! Golden pictures: held-out scenes with the boxes that the model finds in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use detectd_vision::{DecodeLimits, DetectOptions, Detection, decode};
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ImageEncoder, ImageError};
use serde::Serialize;
use tch::Kind;

use crate::dataset::Split;
use crate::scenes::{CLASSES, render};
use crate::training::{Predictor, TrainedModel};

/// Name, width, height. They come after the 10,000 scenes that figures may be measured on.
const PICTURES: [(&str, u32, u32); 6] = [
    ("bench-480x480.png", 480, 480),
    ("bench-640x480.jpg", 640, 480),
    ("bench-480x640.jpg", 480, 640),
    ("bench-800x600.jpg", 800, 600),
    ("bench-1024x1024.jpg", 1024, 1024),
    ("bench-320x320.png", 320, 320),
];

/// Number of the first golden scene within the held-out ones.
const FIRST: u64 = 10_000;

/// `expected.json`: per picture, what the model finds with the default options.
#[derive(Serialize)]
struct Found {
    width: u32,
    height: u32,
    detections: Vec<Named>,
}

#[derive(Serialize)]
struct Named {
    label: &'static str,
    #[serde(flatten)]
    detection: Detection,
}

/// Writes the pictures and `expected.json`.
pub fn write(model: &TrainedModel, folder: &Path) -> Result<()> {
    fs::create_dir(folder).with_context(|| format!("creating {}", folder.display()))?;
    let folded = model.network.folded()?;
    let mut predictor = Predictor::new(&folded, model.settings.input, Kind::Float);
    let first = Split::HeldOut.seeds(1).start + FIRST;
    let mut expected = BTreeMap::new();
    for ((name, width, height), seed) in PICTURES.into_iter().zip(first..) {
        let scene = render(seed, width, height);
        let encoded = encode(name, scene.image.pixels(), width, height).with_context(|| format!("encoding {name}"))?;
        let path = folder.join(name);
        fs::write(&path, &encoded).with_context(|| format!("writing {}", path.display()))?;
        // The boxes are those of the file, as the daemon will decode it.
        let decoded =
            decode(&encoded, &DecodeLimits::default(), Vec::new()).with_context(|| format!("decoding {name}"))?;
        let found = predictor.detect(&[&decoded.image], &DetectOptions::default())?.pop().unwrap_or_default();
        ensure!(!found.is_empty(), "the model finds nothing in {name}: it is not fit to be published");
        let detections = found.into_iter().map(|detection| Named { label: label(detection.class_id), detection });
        expected.insert(name, Found { width, height, detections: detections.collect() });
    }
    let path = folder.join("expected.json");
    let text = serde_json::to_string_pretty(&expected)?;
    fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

fn label(class_id: u32) -> &'static str {
    CLASSES.get(class_id as usize).copied().unwrap_or("?")
}

fn encode(name: &str, pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, ImageError> {
    let mut encoded = Vec::new();
    if name.ends_with(".jpg") {
        JpegEncoder::new_with_quality(&mut encoded, 90).write_image(pixels, width, height, ExtendedColorType::Rgb8)?;
    } else {
        PngEncoder::new(&mut encoded).write_image(pixels, width, height, ExtendedColorType::Rgb8)?;
    }
    Ok(encoded)
}
