//! mAP of a served detector on held-out scenes: through the embedded engine directly, and through the daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::{Parser, Subcommand};
use detectd::repository::layout::read_model;
use detectd_benches::server::{Server, run_daemon};
use detectd_benches::table;
use detectd_engine::{DetectScratch, Picture};
use detectd_proto::detect::v1 as wire;
use detectd_proto::detect::v1::detect_service_client::DetectServiceClient;
use detectd_train::dataset::{Scenes, Split};
use detectd_train::evaluation::{Evaluator, Metrics};
use detectd_train::sample::Sample;
use detectd_vision::{BoundingBox, DetectOptions, Detection, GreedyNms, Nms, Resizer};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use toml::Table;

/// Measures a model of the repository on held-out scenes, once on the engine itself and once through the daemon. The
/// last line is one JSON object.
#[derive(Parser)]
struct Arguments {
    /// The model repository.
    #[arg(long, default_value = "deploy/models")]
    repository: PathBuf,
    /// The model in it.
    #[arg(long, default_value = "workbench")]
    model: String,
    /// How many held-out scenes.
    #[arg(long, default_value_t = 1000)]
    count: u32,
    /// The scenes' side, in pixels.
    #[arg(long, default_value_t = 480)]
    side: u32,
    /// What `detectd-train evaluate --json` says of the network on the same scenes, to be shown beside them.
    #[arg(long)]
    network: Option<PathBuf>,
    #[command(subcommand)]
    server: Option<Internal>,
}

/// The server under test, which this program starts by itself.
#[derive(Subcommand)]
enum Internal {
    #[command(hide = true)]
    Daemon { repository: PathBuf },
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Internal::Daemon { repository }) = &arguments.server {
        return run_daemon(repository).await;
    }
    let scenes = Scenes {
        first: Split::HeldOut.seeds(arguments.count).start,
        count: arguments.count as usize,
        sizes: vec![[arguments.side, arguments.side]],
    };
    let samples = Arc::new(scenes.draw(None, thread::available_parallelism().map_or(1, usize::from))?);
    let engine = on_engine(&arguments, &samples)?;
    let daemon = through_daemon(&arguments, &samples).await?;
    let network = match &arguments.network {
        Some(path) => Some(network(path)?),
        None => None,
    };
    let row =
        |name: &str, map50: f64, map50_95: f64| vec![name.to_owned(), format!("{map50:.4}"), format!("{map50_95:.4}")];
    let mut rows = vec![row("engine", engine.map50, engine.map50_95), row("daemon", daemon.map50, daemon.map50_95)];
    if let Some((map50, map50_95)) = network {
        rows.insert(0, row("network", map50, map50_95));
    }
    table::print(&[&format!("{} held-out scenes", samples.len()), "mAP50", "mAP50-95"], &rows);
    println!(
        "{}",
        json!({
            "map50": network.map(|(map50, _)| map50),
            "map50_95": network.map(|(_, map50_95)| map50_95),
            "engine_map50": engine.map50,
            "engine_map50_95": engine.map50_95,
            "daemon_map50": daemon.map50,
            "daemon_map50_95": daemon.map50_95,
        })
    );
    Ok(())
}

/// As mAP is measured: nearly every box, several classes for one place, greedy NMS.
fn options() -> DetectOptions {
    DetectOptions {
        score_threshold: 0.001,
        nms: Nms::Greedy(GreedyNms { iou_threshold: 0.65, ..GreedyNms::default() }),
        max_detections: 300,
        multi_label: true,
        ..DetectOptions::default()
    }
}

fn on_engine(arguments: &Arguments, samples: &[Sample]) -> Result<Metrics> {
    let folder = read_model(&arguments.repository, &arguments.model).map_err(|error| anyhow!(error))?;
    let files = folder.read_version(*folder.versions.last().context("no version")?).map_err(|error| anyhow!(error))?;
    let classes = files.labels.len();
    let manifest = &folder.manifest;
    let load = manifest.load_options(&files.file, classes, 0).map_err(|error| anyhow!(error))?;
    let model = detectd_onnx::load(&load)?;
    let preprocess = &model.spec().detector.as_ref().context("the model is no detector")?.preprocess;
    let mut engine = model.open()?;
    let mut scratch = DetectScratch::default();
    let mut resizer = Resizer::default();
    let mut evaluator = Evaluator::new(classes);
    for sample in samples {
        let mut input = vec![0.0; preprocess.input_len()];
        let letterbox = preprocess.run(&sample.image, &mut input, &mut resizer)?;
        let mut found =
            engine.detect(&[Picture::Letterboxed { input, letterbox }], &[options()], &mut scratch)?.detections;
        evaluator.add(&found.pop().unwrap_or_default(), &sample.boxes);
    }
    Ok(evaluator.finish())
}

async fn through_daemon(arguments: &Arguments, samples: &Arc<Vec<Sample>>) -> Result<Metrics> {
    let repository = tempfile::tempdir()?;
    copy_for_evaluation(&arguments.repository.join(&arguments.model), &repository.path().join(&arguments.model))?;
    let server = Server::start(&["daemon", &repository.path().display().to_string()])?;
    let client = DetectServiceClient::connect(server.url.clone()).await?.max_decoding_message_size(64 << 20);
    let classes = client.clone().get_model(wire::GetModelRequest::default()).await?.into_inner().labels.len();
    let mut answers = vec![None; samples.len()];
    let mut calls = JoinSet::new();
    for index in 0..samples.len() {
        // Enough to keep the daemon's batches full.
        while calls.len() >= 16 {
            store(&mut answers, calls.join_next().await.context("a call")??)?;
        }
        let (mut client, samples) = (client.clone(), Arc::clone(samples));
        calls.spawn(async move { (index, client.detect(request(&samples[index])).await) });
    }
    while let Some(call) = calls.join_next().await {
        store(&mut answers, call?)?;
    }
    let mut evaluator = Evaluator::new(classes);
    for (answer, sample) in answers.into_iter().zip(samples.iter()) {
        evaluator.add(&answer.context("a scene without an answer")?, &sample.boxes);
    }
    Ok(evaluator.finish())
}

fn request(sample: &Sample) -> wire::DetectRequest {
    let image = &sample.image;
    let raw = wire::RawImage {
        data: image.pixels().to_vec().into(),
        width: image.width(),
        height: image.height(),
        layout: wire::PixelLayout::Rgb.into(),
        row_stride: 0,
    };
    let image = wire::Image { source: Some(wire::image::Source::Raw(raw)) };
    wire::DetectRequest { image: Some(image), ..wire::DetectRequest::default() }
}

type Call = (usize, Result<tonic::Response<wire::DetectResponse>, tonic::Status>);

fn store(answers: &mut [Option<Vec<Detection>>], (index, answer): Call) -> Result<()> {
    let detections = answer?.into_inner().detections;
    let detections = detections.into_iter().map(|detection| {
        let bbox = detection.r#box.context("a detection without a box")?;
        let bbox = BoundingBox::new(bbox.x1, bbox.y1, bbox.x2, bbox.y2);
        Ok(Detection { class_id: detection.class_id, score: detection.score, bbox })
    });
    answers[index] = Some(detections.collect::<Result<_>>()?);
    Ok(())
}

/// The same model, with the options that mAP is measured with as its default: `multi_label` is no request's choice.
fn copy_for_evaluation(from: &Path, to: &Path) -> Result<()> {
    let manifest = fs::read_to_string(from.join("model.toml")).with_context(|| from.display().to_string())?;
    let mut manifest: Table = manifest.parse()?;
    manifest.insert("options".into(), toml::Value::try_from(options())?);
    fs::create_dir_all(to)?;
    fs::write(to.join("model.toml"), manifest.to_string())?;
    let mut copied = 0;
    for version in fs::read_dir(from)? {
        let version = version?;
        if !version.path().is_dir() {
            continue;
        }
        copy_folder(&version.path(), &to.join(version.file_name()))?;
        copied += 1;
    }
    ensure!(copied > 0, "{}: there is no version", from.display());
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn network(path: &Path) -> Result<(f64, f64)> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let last = text.lines().rev().find(|line| line.starts_with('{')).unwrap_or(&text);
    let value: Value = serde_json::from_str(last).with_context(|| path.display().to_string())?;
    match (value["map50"].as_f64(), value["map50_95"].as_f64()) {
        (Some(map50), Some(map50_95)) => Ok((map50, map50_95)),
        _ => bail!("{}: expected `map50` and `map50_95`", path.display()),
    }
}
