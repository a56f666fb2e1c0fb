//! JPEG to boxes on libtorch: through the daemon against the bare TorchScript loop, in fp32 and bf16, and whether the
//! boxes are those of the embedded engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::{Parser, Subcommand};
use detectd_benches::server::{Server, run_daemon};
use detectd_benches::serving::Bench;
use detectd_benches::table::{self, median};
use detectd_engine::{DetectScratch, Detector, Engine, Picture};
use detectd_train::dataset::{Scenes, Split};
use detectd_train::export::{Options, Output, write_torchscript};
use detectd_train::scenes::CLASSES;
use detectd_train::training::TrainedModel;
use detectd_vision::{DecodeLimits, DetectOptions, Detection, NmsScratch, OutputData, OutputView, Resizer, decode};
use serde_json::json;
use tch::{CModule, Tensor};

/// Measures the bundled detector as TorchScript on the CPU. Both sides take the same JPEG files, decode and letterbox them,
/// run the module on batches and make boxes with Matrix NMS, in as many instances and threads. The daemon gets its files
/// by gRPC, from callers on the same cores, who are part of its cost; the bare loop has them in memory, loads the module
/// by the binding, and does one step after the other in each of its threads. The last line is one JSON object.
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
    let pictures = root.path().join("pictures");
    jpegs(&arguments.repository.join(&arguments.model).join("1/golden"), &pictures)?;
    let models = root.path().join("models");
    write_models(arguments, &models)?;
    let bench = |name: &str| Bench::new(&models, name, Some(&pictures));
    let (fp32, bf16) = (bench("fp32")?, bench("bf16")?);
    let agreement = agreement(&bench("onnx")?, &fp32, arguments.scenes)?;

    let server = Server::start(&["daemon", &models.display().to_string()])?;
    let saturating = fp32.saturating();
    let file = models.join("fp32/1/model.pt");
    let (mut bare, mut served, mut served_bf16, mut ratio) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        // Before and after, so that a machine that gets faster or slower meanwhile favours neither.
        let before = bare_rate(&fp32, &file, arguments.seconds / 2.0)?;
        let rate = fp32.load(&server, arguments.seconds, saturating).await?.rate();
        let bare_rate = f64::midpoint(before, bare_rate(&fp32, &file, arguments.seconds / 2.0)?);
        bare.push(bare_rate);
        served.push(rate);
        ratio.push(rate / bare_rate);
        served_bf16.push(bf16.load(&server, arguments.seconds, saturating).await?.rate());
    }
    let figure = |values: &[f64]| format!("{:.2}", median(values));
    table::print(
        &["", "median"],
        &[
            vec!["bare TorchScript loop, fp32, images/s".into(), figure(&bare)],
            vec![format!("served at concurrency {saturating}, fp32, images/s"), figure(&served)],
            vec!["ratio, round by round".into(), format!("{:.3}", median(&ratio))],
            vec![format!("served at concurrency {saturating}, bf16, images/s"), figure(&served_bf16)],
        ],
    );
    println!(
        "both: JPEG files to boxes, with decoding, letterbox and Matrix NMS; {} instances of {} threads, batches up to {}",
        fp32.instances, fp32.threads, fp32.max_batch
    );
    println!(
        "the daemon: from gRPC, its callers on the same cores; the bare loop: from memory, one step after the other"
    );
    println!("scenes with the boxes of the embedded engine: {agreement}");
    println!(
        "{}",
        json!({
            "ratio": median(&ratio),
            "images_per_s_fp32": median(&served),
            "images_per_s_bf16": median(&served_bf16),
            "agree": agreement.same as f64 / agreement.scenes.max(1) as f64,
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

/// The JPEG files of a folder, in a folder of their own.
fn jpegs(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jpg") {
            fs::copy(&path, to.join(path.file_name().context("a name")?))?;
        }
    }
    Ok(())
}

/// Pictures a second from JPEG to boxes in a plain loop around the module, in as many threads beside each other as the
/// daemon has instances, on its batches.
fn bare_rate(bench: &Bench, file: &Path, seconds: f64) -> Result<f64> {
    let module = CModule::load(file)?;
    let run = |first: usize| -> Result<f64> {
        tch::set_num_threads(i32::try_from(bench.threads)?);
        let _guard = tch::no_grad_guard();
        let mut bare = Bare::new(bench, &module, first)?;
        bare.batch()?;
        ensure!(bare.boxes > 0, "the bare loop finds nothing");
        let (start, mut pictures) = (Instant::now(), 0);
        while start.elapsed().as_secs_f64() < seconds {
            pictures += bare.batch()?;
        }
        Ok(pictures as f64 / start.elapsed().as_secs_f64())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..bench.instances)
            .map(|first| {
                scope.spawn({
                    let run = &run;
                    move || run(first)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?).sum()
    })
}

/// One thread of the bare loop, with the memory that it uses again.
struct Bare<'a> {
    bench: &'a Bench,
    module: &'a CModule,
    detector: &'a Detector,
    /// The picture that comes next.
    next: usize,
    pixels: Vec<u8>,
    resizer: Resizer,
    inputs: Vec<f32>,
    rows: Vec<f32>,
    nms: NmsScratch,
    boxes: usize,
}

impl<'a> Bare<'a> {
    fn new(bench: &'a Bench, module: &'a CModule, next: usize) -> Result<Self> {
        let detector = bench.detector()?;
        Ok(Self {
            bench,
            module,
            detector,
            next,
            pixels: Vec::new(),
            resizer: Resizer::default(),
            inputs: vec![0.0; bench.max_batch * detector.preprocess.input_len()],
            rows: Vec::new(),
            nms: NmsScratch::default(),
            boxes: 0,
        })
    }

    /// Runs a batch and tells how many pictures it had.
    fn batch(&mut self) -> Result<usize> {
        let preprocess = &self.detector.preprocess;
        let mut letterboxes = Vec::with_capacity(self.bench.max_batch);
        for input in self.inputs.chunks_exact_mut(preprocess.input_len()) {
            let bytes = &self.bench.encoded()[self.next % self.bench.encoded().len()];
            self.next += 1;
            let decoded = decode(bytes, &DecodeLimits::default(), std::mem::take(&mut self.pixels))?;
            letterboxes.push(preprocess.run(&decoded.image, input, &mut self.resizer)?);
            self.pixels = decoded.image.into_pixels();
        }
        let (batch, height, width) = (letterboxes.len(), preprocess.height, preprocess.width);
        let shape = [i64::try_from(batch)?, 3, i64::from(height), i64::from(width)];
        // Channels last, as it is fastest.
        let input = Tensor::f_from_slice(&self.inputs)?.f_view(shape)?;
        let input = input.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?;
        let output = self.module.forward_ts(&[&input])?.f_contiguous()?;
        self.rows.resize(output.numel(), 0.0);
        output.f_copy_data(&mut self.rows, output.numel())?;

        let shape = output.size().into_iter().map(usize::try_from).collect::<Result<Vec<_>, _>>()?;
        let view = [OutputView { name: "rows", shape: &shape, data: OutputData::F32(&self.rows) }];
        for (index, letterbox) in letterboxes.iter().enumerate() {
            let options = DetectOptions::default();
            self.boxes += self.detector.head.detect(&view, index, letterbox, &options, &mut self.nms)?.len();
        }
        Ok(batch)
    }
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
                agreement.lowest_iou = agreement.lowest_iou.min(iou);
                agreement.largest_score_difference = agreement.largest_score_difference.max(difference);
                same &= iou > IOU && difference <= SCORE;
            }
        }
        agreement.same += usize::from(same);
        agreement.boxes += found[0].iter().filter(|detection| detection.score >= lowest).count();
    }
    Ok(agreement)
}
