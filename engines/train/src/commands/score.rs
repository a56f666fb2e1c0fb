//! `detectd-train score`

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use detectd_train::evaluation::{Evaluator, Metrics};
use detectd_train::sample::LabelledBox;
use detectd_vision::Detection;
use serde::de::DeserializeOwned;

use super::scenes::Labels;
use crate::cli;

/// Compares the two files.
pub fn run(arguments: &cli::Score) -> Result<()> {
    let labels: Labels = read(&arguments.labels)?;
    let detections: BTreeMap<String, Vec<Detection>> = read(&arguments.detections)?;
    let unknown: Vec<&String> = detections.keys().filter(|name| !labels.pictures.contains_key(*name)).collect();
    ensure!(unknown.is_empty(), "{} names no pictures of the labels: {unknown:?}", arguments.detections.display());
    let mut evaluator = Evaluator::new(labels.classes.len());
    for (name, objects) in &labels.pictures {
        let found = detections.get(name).with_context(|| {
            format!(
                "{} has no entry for {name}; a picture without detections has an empty one",
                arguments.detections.display()
            )
        })?;
        let objects: Vec<LabelledBox> =
            objects.iter().map(|label| LabelledBox { class_id: label.class_id, bbox: label.bbox }).collect();
        evaluator.add(found, &objects);
    }
    print(&evaluator.finish(), &labels.classes, arguments.json)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))
}

/// A table, or one JSON object.
pub fn print(metrics: &Metrics, classes: &[String], json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(metrics)?);
        return Ok(());
    }
    println!("{:<16} {:>8} {:>10} {:>8} {:>8} {:>9}", "class", "objects", "precision", "recall", "mAP50", "mAP50-95");
    for class in &metrics.per_class {
        let name = classes.get(class.class_id as usize).map_or("?", String::as_str);
        println!(
            "{name:<16} {:>8} {:>10.3} {:>8.3} {:>8.4} {:>9.4}",
            class.objects, class.precision, class.recall, class.ap50, class.ap50_95
        );
    }
    let objects: usize = metrics.per_class.iter().map(|class| class.objects).sum();
    println!(
        "{:<16} {objects:>8} {:>10.3} {:>8.3} {:>8.4} {:>9.4}",
        "all", metrics.precision, metrics.recall, metrics.map50, metrics.map50_95
    );
    println!("{} pictures; precision and recall at a score of {:.3}", metrics.pictures, metrics.threshold);
    Ok(())
}
