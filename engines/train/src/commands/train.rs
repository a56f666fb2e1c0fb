//! `detectd-train train`

use anyhow::{Context, Result};
use detectd_libtorch::network::Cost;
use detectd_train::report::{Picture, Report};
use detectd_train::scenes::CLASSES;
use detectd_train::training::{AugmentedScenes, Predictor, Settings, Start, TrainedModel, measure, train};
use detectd_vision::{DetectOptions, Image};

use crate::cli;

/// Pictures in the report.
const PICTURES: usize = 12;

/// Draws the scenes, trains, and writes the report.
pub fn run(arguments: &cli::Train) -> Result<()> {
    let settings = Settings::read(&arguments.settings)?;
    let source = AugmentedScenes::draw(&settings)?;
    let validation = settings.validation.draw(None, settings.threads)?;
    let start = Start { resume: arguments.resume, weights: arguments.weights.as_deref() };
    let trained = train(&settings, &source, &validation, &arguments.run, start)?;

    let model = TrainedModel::read(&trained.best)?;
    let side = settings.input as usize;
    let cost = Cost::of(model.network.plan(), side, side)?;
    let mut predictor = Predictor::new(&model.network, settings.input, settings.precision.kind());
    let metrics = measure(&mut predictor, &validation, settings.batch)?;
    let chosen = &validation[..PICTURES.min(validation.len())];
    let images: Vec<&Image> = chosen.iter().map(|sample| &sample.image).collect();
    let found = predictor.detect(&images, &DetectOptions::default())?;
    let pictures = chosen.iter().zip(found).enumerate().map(|(index, (sample, detections))| Picture {
        caption: format!("scene {}", settings.validation.first + index as u64),
        image: sample.image.clone(),
        detections,
    });
    let minutes = trained.progress.seconds / 60.0;
    let report = Report {
        title: format!("Training of {}", settings.name),
        classes: CLASSES.map(str::to_owned).to_vec(),
        facts: vec![
            ("Parameters".into(), cost.parameters.to_string()),
            ("Arithmetic".into(), format!("{:.2} GFLOPs at {side}x{side}", cost.gflops())),
            ("Training scenes".into(), settings.train.count.to_string()),
            ("Best epoch".into(), trained.progress.best.map_or("none".into(), |(_, epoch)| epoch.to_string())),
            ("Time".into(), format!("{minutes:.1} minutes on {} threads", settings.threads)),
            ("Settings".into(), serde_json::to_string(&settings)?),
        ],
        epochs: trained.history.iter().map(|result| result.figures()).collect(),
        metrics,
        pictures: pictures.collect(),
    };
    let folder = arguments.run.join("report");
    report.write(&folder).context("writing the report")?;
    println!("weights of the best epoch: {}", trained.best.display());
    println!("report: {}", folder.join("report.html").display());
    Ok(())
}
