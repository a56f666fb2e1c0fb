//! `detectd-train scenes`

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use detectd_train::dataset::Split;
use detectd_train::sample::LabelledBox;
use detectd_train::scenes::{CLASSES, render};
use detectd_vision::BoundingBox;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::cli;

/// What lies in the drawn pictures: `labels.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// Class names in the order of their ids.
    pub classes: Vec<String>,
    /// The objects of each picture, by file name.
    pub pictures: BTreeMap<String, Vec<Label>>,
}

/// An object in a picture.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// Index into the class names.
    pub class_id: u32,
    /// Its box, in the picture's pixels.
    pub bbox: BoundingBox,
}

impl From<LabelledBox> for Label {
    fn from(LabelledBox { class_id, bbox }: LabelledBox) -> Self {
        Self { class_id, bbox }
    }
}

/// Draws and writes.
pub fn run(arguments: &cli::Scenes) -> Result<()> {
    ensure!(arguments.count > 0, "--count must be at least 1");
    let folder = &arguments.out;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let first = arguments.first.unwrap_or(Split::HeldOut.seeds(1).start);
    let [width, height] = arguments.size;
    let bar = ProgressBar::new(u64::from(arguments.count))
        .with_style(ProgressStyle::with_template("drawing scenes {wide_bar} {pos}/{len}, {eta} left")?);
    let mut pictures = BTreeMap::new();
    for index in 0..u64::from(arguments.count) {
        let sample = render(first.saturating_add(index), width, height);
        let name = format!("{index:04}.png");
        let path = folder.join(&name);
        image::save_buffer(&path, sample.image.pixels(), width, height, image::ColorType::Rgb8)
            .with_context(|| format!("writing {}", path.display()))?;
        pictures.insert(name, sample.boxes.into_iter().map(Label::from).collect());
        bar.inc(1);
    }
    bar.finish_and_clear();
    let labels = Labels { classes: CLASSES.map(str::to_owned).to_vec(), pictures };
    let path = folder.join("labels.json");
    fs::write(&path, serde_json::to_vec_pretty(&labels)?).with_context(|| format!("writing {}", path.display()))?;
    println!("{} scenes of {width}x{height} and labels.json in {}", arguments.count, folder.display());
    Ok(())
}
