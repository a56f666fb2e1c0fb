//! Pictures to boxes on libtorch: through the daemon against the bare TorchScript loop, in fp32 and bf16, and whether
//! the boxes are those of the embedded engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::{Parser, Subcommand};
use detectd_benches::server::{Server, run_daemon};
use detectd_benches::serving::Bench;
use detectd_benches::table::{self, median};
use detectd_engine::{DetectScratch, Engine, Picture};
use detectd_train::dataset::{Scenes, Split};
use detectd_train::export::{Options, Output, write_torchscript};
use detectd_train::scenes::CLASSES;
use detectd_train::training::TrainedModel;
use detectd_vision::{DetectOptions, Detection, Resizer};
use serde_json::json;
use tch::{CModule, Kind, Tensor};

/// Measures the bundled detector as TorchScript on the CPU: the daemon at saturation against a bare loop of the module's
/// forward plus the measured cost of decoding and resizing, and the boxes against those of the embedded engine. The last
/// line is one JSON object.
#[derive(Parser)]
struct Arguments {
    /// The model repository with the ONNX file.
    #[arg(long, default_value = "deploy/models")]
    repository: PathBuf,
    /// The model in it.
    #[arg(long, default_value = "workbench")]
    model: String,
    /// The same network's weights.
    #[arg(long, default_value = "deploy/training/workbench.safetensors")]
    weights: PathBuf,
    /// Held-out scenes to compare boxes on.
    #[arg(long, default_value_t = 200)]
    scenes: usize,
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Measurements of each kind, taken in turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
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
    match &arguments.server {
        Some(Internal::Daemon { repository }) => run_daemon(repository).await,
        None => compare(&arguments).await,
    }
}

async fn compare(arguments: &Arguments) -> Result<()> {
    let root = tempfile::tempdir()?;
    write_models(arguments, root.path())?;
    let pictures = arguments.repository.join(&arguments.model).join("1/golden");
    let bench = |name: &str| Bench::new(root.path(), name, Some(&pictures));
    let agreement = agreement(&bench("onnx")?, &bench("fp32")?, arguments.scenes)?;

    let (fp32, bf16) = (bench("fp32")?, bench("bf16")?);
    let server = Server::start(&["daemon", &root.path().display().to_string()])?;
    let saturating = fp32.saturating();
    let file = root.path().join("fp32/1/model.pt");
    let (mut bare, mut served, mut served_bf16, mut ratio) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let (decode, _) = fp32.single_seconds()?;
        let module_rate = module_rate(&fp32, &file, arguments.seconds)?;
        let cores = thread::available_parallelism().map_or(1, usize::from) as f64;
        // With every core busy with one or the other, the times of one picture add up.
        let bare_rate = 1.0 / (1.0 / module_rate + decode / cores);
        let rate = fp32.load(&server, arguments.seconds, saturating).await?.rate();
        bare.push(bare_rate);
        served.push(rate);
        ratio.push(rate / bare_rate);
        served_bf16.push(bf16.load(&server, arguments.seconds, saturating).await?.rate());
    }
    let figure = |values: &[f64]| format!("{:.2}", median(values));
    table::print(
        &["", "median"],
        &[
            vec!["TorchScript alone plus decoding, fp32, images/s".into(), figure(&bare)],
            vec![format!("served at concurrency {saturating}, fp32, images/s"), figure(&served)],
            vec!["ratio, pair by pair".into(), format!("{:.3}", median(&ratio))],
            vec![format!("served at concurrency {saturating}, bf16, images/s"), figure(&served_bf16)],
            vec!["scenes with the same boxes as the embedded engine".into(), agreement.to_string()],
        ],
    );
    println!("{} instances of {} threads, batches up to {}", fp32.instances, fp32.threads, fp32.max_batch);
    println!(
        "{}",
        json!({
            "ratio": median(&ratio),
            "images_per_s_fp32": median(&served),
            "images_per_s_bf16": median(&served_bf16),
            "agree": agreement.same == agreement.scenes,
            "agreeing_scenes": agreement.same,
            "scenes": agreement.scenes,
            "boxes": agreement.boxes,
            "lowest_iou": agreement.lowest_iou,
            "largest_score_difference": agreement.largest_score_difference,
            "bare_images_per_s_fp32": median(&bare),
        })
    );
    Ok(())
}

/// A repository of one network three times: as the ONNX file, and as TorchScript in two precisions.
fn write_models(arguments: &Arguments, root: &Path) -> Result<()> {
    let published = arguments.repository.join(&arguments.model).join("1");
    let network = TrainedModel::read(&arguments.weights)?;
    let side = network.settings.input as usize;
    let options = Options { width: side, height: side, batch: None, output: Output::Decoded, labels: &CLASSES };
    let libtorch = "family = \"yolov5\"\nengine = \"libtorch\"\n";
    for (name, manifest) in [
        ("onnx", "family = \"yolov5\"\n".to_owned()),
        ("fp32", libtorch.to_owned()),
        ("bf16", format!("{libtorch}precision = \"bf16\"\n")),
    ] {
        let version = root.join(name).join("1");
        fs::create_dir_all(&version)?;
        fs::write(root.join(name).join("model.toml"), manifest)?;
        fs::copy(published.join("labels.txt"), version.join("labels.txt"))?;
        match name {
            "onnx" => drop(fs::copy(published.join("model.onnx"), version.join("model.onnx"))?),
            _ => write_torchscript(&network.network, &options, &version.join("model.pt"))?,
        }
    }
    Ok(())
}

/// Pictures a second of the module alone, loaded by the binding, on full batches that lie ready: with as many threads
/// beside each other as the daemon has instances.
fn module_rate(bench: &Bench, file: &Path, seconds: f64) -> Result<f64> {
    let detector = bench.detector()?;
    let (height, width) = (i64::from(detector.preprocess.height), i64::from(detector.preprocess.width));
    let batch = bench.max_batch;
    let inputs: Vec<f32> = (0..batch)
        .flat_map(|index| match &bench.prepared()[index % bench.prepared().len()] {
            Picture::Letterboxed { input, .. } => input.clone(),
            _ => Vec::new(),
        })
        .collect();
    let module = CModule::load(file)?;
    let run = || -> Result<f64> {
        tch::set_num_threads(i32::try_from(bench.threads)?);
        let _guard = tch::no_grad_guard();
        // Channels last, as it is fastest.
        let input = Tensor::f_from_slice(&inputs)?.f_view([i64::try_from(batch)?, 3, height, width])?;
        let input = input.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?;
        ensure!(input.f_kind()? == Kind::Float, "floats");
        drop(module.forward_ts(&[&input])?);
        let start = Instant::now();
        let mut pictures = 0;
        while start.elapsed().as_secs_f64() < seconds {
            drop(std::hint::black_box(module.forward_ts(&[&input])?));
            pictures += batch;
        }
        Ok(pictures as f64 / start.elapsed().as_secs_f64())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..bench.instances).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?).sum()
    })
}

/// How far two engines agree.
struct Agreement {
    scenes: usize,
    same: usize,
    boxes: usize,
    lowest_iou: f32,
    largest_score_difference: f32,
}

impl std::fmt::Display for Agreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} of {} ({} boxes, IoU from {:.4}, scores within {:.5})",
            self.same, self.scenes, self.boxes, self.lowest_iou, self.largest_score_difference
        )
    }
}

/// Runs held-out scenes on both. A scene is the same when each box has its counterpart: the same class, an IoU above
/// 0.95, scores within 0.01. A box near the score threshold may be on one side of it only.
fn agreement(one: &Bench, other: &Bench, scenes: usize) -> Result<Agreement> {
    const IOU: f32 = 0.95;
    const SCORE: f32 = 0.01;
    let mut agreement = Agreement { scenes, same: 0, boxes: 0, lowest_iou: 1.0, largest_score_difference: 0.0 };
    let options = DetectOptions::default();
    let lowest = options.score_threshold + SCORE;
    let mut engines = [one.model.open()?, other.model.open()?];
    let preprocess = &one.detector()?.preprocess;
    let mut resizer = Resizer::default();
    let held_out = Scenes { first: Split::HeldOut.seeds(1).start, count: scenes, sizes: vec![[480, 480]] };
    for sample in held_out.draw(None, thread::available_parallelism().map_or(1, usize::from))? {
        let image = sample.image;
        let mut input = vec![0.0; preprocess.input_len()];
        let letterbox = preprocess.run(&image, &mut input, &mut resizer)?;
        let picture = [Picture::Letterboxed { input, letterbox }];
        let detect = |engine: &mut Box<dyn Engine>| -> Result<Vec<Detection>> {
            let found = engine.detect(&picture, std::slice::from_ref(&options), &mut DetectScratch::default())?;
            found.detections.into_iter().next().context("an answer")
        };
        let [first, second] = &mut engines;
        let found = [detect(first)?, detect(second)?];
        let mut same = true;
        for (boxes, others) in [(&found[0], &found[1]), (&found[1], &found[0])] {
            for detection in boxes.iter().filter(|detection| detection.score >= lowest) {
                let nearest = others
                    .iter()
                    .filter(|other| other.class_id == detection.class_id)
                    .map(|other| (detection.bbox.iou(&other.bbox), (detection.score - other.score).abs()))
                    .max_by(|a, b| a.0.total_cmp(&b.0));
                let (iou, difference) = nearest.unwrap_or((0.0, 1.0));
                agreement.boxes += 1;
                agreement.lowest_iou = agreement.lowest_iou.min(iou);
                agreement.largest_score_difference = agreement.largest_score_difference.max(difference);
                same &= iou > IOU && difference <= SCORE;
            }
        }
        agreement.same += usize::from(same);
    }
    Ok(agreement)
}
