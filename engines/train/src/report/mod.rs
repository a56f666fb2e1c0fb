//! The report of a training run: curves, figures for each class and sample pictures, as files and as one page.

mod chart;
mod page;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use detectd_vision::{Detection, Image, annotate};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use serde::{Deserialize, Serialize};

use crate::evaluation::Metrics;
use chart::{Chart, Series};

/// What one epoch of training reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochFigures {
    /// The epoch's number, from 1.
    pub epoch: usize,
    /// Mean box, objectness and class loss over the training batches.
    pub training_loss: [f64; 3],
    /// The same over the held-out pictures.
    pub held_out_loss: [f64; 3],
    /// Precision on the held-out pictures.
    pub precision: f64,
    /// Recall on the held-out pictures.
    pub recall: f64,
    /// Mean average precision at IoU 0.5.
    pub map50: f64,
    /// Mean average precision over IoU 0.5 to 0.95.
    pub map50_95: f64,
    /// Learning rate at the end of the epoch.
    pub learning_rate: f64,
}

/// A held-out picture and what the model found in it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// What is written under it.
    pub caption: String,
    /// The picture as it went into the model.
    pub image: Image,
    /// What was found, in the picture's pixels.
    pub detections: Vec<Detection>,
}

/// All that goes into a report.
#[derive(Clone, Debug)]
pub struct Report {
    /// The heading.
    pub title: String,
    /// Class names in the order of their ids.
    pub classes: Vec<String>,
    /// Settings and circumstances worth knowing, by name.
    pub facts: Vec<(String, String)>,
    /// All epochs in order.
    pub epochs: Vec<EpochFigures>,
    /// The final model on the held-out pictures.
    pub metrics: Metrics,
    /// Sample pictures.
    pub pictures: Vec<Picture>,
}

impl Report {
    /// Writes `report.html`, which needs no other file, and its parts one by one: `losses.svg`, `accuracy.svg`,
    /// `learning_rate.svg`, `precision_recall.svg`, `metrics.json` and `pictures/*.png`. `folder` is made if need be.
    ///
    /// # Errors
    /// If something cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let pictures_folder = folder.join("pictures");
        fs::create_dir_all(&pictures_folder).with_context(|| format!("creating {}", pictures_folder.display()))?;
        let charts = self.charts();
        let mut drawn = Vec::new();
        for (name, chart) in &charts {
            let svg = chart.svg().with_context(|| format!("drawing {name}.svg"))?;
            save(&folder.join(format!("{name}.svg")), svg.as_bytes())?;
            drawn.push(svg);
        }
        let mut pictures = Vec::new();
        for (index, picture) in self.pictures.iter().enumerate() {
            let mut image = picture.image.clone();
            annotate(&mut image, &picture.detections, &self.classes);
            let png = png(&image)?;
            save(&pictures_folder.join(format!("{index:02}.png")), &png)?;
            pictures.push((picture.caption.as_str(), png));
        }
        let metrics = serde_json::to_vec_pretty(&self.metrics).context("writing the metrics as JSON")?;
        save(&folder.join("metrics.json"), &metrics)?;
        save(&folder.join("report.html"), page::html(self, &drawn, &pictures).as_bytes())
    }

    /// The name of a class, its number if it has none.
    fn class_name(&self, class_id: u32) -> String {
        self.classes.get(class_id as usize).map_or_else(|| class_id.to_string(), Clone::clone)
    }

    fn charts(&self) -> [(&'static str, Chart); 4] {
        let curve = |name: &str, value: &dyn Fn(&EpochFigures) -> f64| {
            Series::new(name, self.epochs.iter().map(|epoch| (epoch.epoch as f64, value(epoch))).collect())
        };
        let losses = ["box", "objectness", "class"].into_iter().enumerate().flat_map(|(part, name)| {
            [
                curve(&format!("{name}, training"), &|epoch| epoch.training_loss[part]),
                curve(&format!("{name}, held out"), &|epoch| epoch.held_out_loss[part]),
            ]
        });
        let losses = Chart::new("Losses", "epoch", "loss", losses.collect());
        let accuracy = vec![
            curve("mAP 0.5", &|epoch| epoch.map50),
            curve("mAP 0.5:0.95", &|epoch| epoch.map50_95),
            curve("precision", &|epoch| epoch.precision),
            curve("recall", &|epoch| epoch.recall),
        ];
        let accuracy = Chart::new("Held-out accuracy", "epoch", "", accuracy).of_shares();
        let rate = curve("learning rate", &|epoch| epoch.learning_rate);
        let rate = Chart::new("Learning rate", "epoch", "learning rate", vec![rate]);
        let precision_recall = self.metrics.per_class.iter().map(|class| {
            let name = format!("{} {:.3}", self.class_name(class.class_id), class.ap50);
            let steps = class.curve.len().saturating_sub(1).max(1) as f64;
            let points = class.curve.iter().enumerate().map(|(index, value)| (index as f64 / steps, *value)).collect();
            Series::new(&name, points)
        });
        let precision_recall =
            Chart::new("Precision over recall, IoU 0.5", "recall", "precision", precision_recall.collect()).of_shares();
        [("losses", losses), ("accuracy", accuracy), ("learning_rate", rate), ("precision_recall", precision_recall)]
    }
}

fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

fn png(image: &Image) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(image.pixels(), image.width(), image.height(), ExtendedColorType::Rgb8)
        .context("encoding a picture as PNG")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
