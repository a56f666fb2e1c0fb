//! Pictures to boxes through the daemon, against the same engine in a bare loop, in one run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Parser, Subcommand};
use detectd::repository::layout::read_model;
use detectd_benches::load::{Load, Mode, Report};
use detectd_benches::server::{Server, run_daemon};
use detectd_benches::table::{self, median};
use detectd_engine::{DetectScratch, Detector, DetectorOptions, LoadOptions, Model, Picture};
use detectd_proto::detect::v1 as wire;
use detectd_vision::{DecodeLimits, Resizer, decode};
use prost::Message as _;
use serde_json::json;

/// Measures the daemon at saturation against the same engine in a bare loop over prepared inputs plus the measured cost
/// of decoding and resizing, with the same instances and threads, in one run. The last line is one JSON object.
#[derive(Parser)]
struct Arguments {
    /// The model repository.
    #[arg(long, default_value = "deploy/models")]
    repository: PathBuf,
    /// The model in it.
    #[arg(long, default_value = "workbench")]
    model: String,
    /// The pictures' folder; the model's golden pictures if there is none.
    #[arg(long)]
    pictures: Option<PathBuf>,
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
    let bench = Bench::new(arguments)?;
    let server = Server::start(&["daemon", &arguments.repository.display().to_string()])?;
    let saturating = bench.instances * bench.max_batch * 2;
    let (mut bare, mut served, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    let (mut decode_ms, mut engine_ms, mut latency_ms) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let (decode, execution) = bench.single_seconds()?;
        let alone = bench.load(&server, arguments, 1).await?;
        let engine_rate = bench.bare_rate(arguments.seconds)?;
        let cores = thread::available_parallelism().map_or(1, usize::from) as f64;
        // With every core busy with one or the other, the times of one picture add up.
        let bare_rate = 1.0 / (1.0 / engine_rate + decode / cores);
        let report = bench.load(&server, arguments, saturating).await?;
        bare.push(bare_rate);
        served.push(report.rate());
        ratio.push(report.rate() / bare_rate);
        decode_ms.push(decode * 1000.0);
        engine_ms.push(execution * 1000.0);
        latency_ms.push(alone.latency_ms(0.5));
    }
    let figure = |values: &[f64]| format!("{:.3}", median(values));
    table::print(
        &["", "median"],
        &[
            vec!["engine alone plus decoding, images/s".into(), figure(&bare)],
            vec![format!("served at concurrency {saturating}, images/s"), figure(&served)],
            vec!["ratio, pair by pair".into(), figure(&ratio)],
            vec!["decode and letterbox, ms".into(), figure(&decode_ms)],
            vec!["engine at batch 1, ms".into(), figure(&engine_ms)],
            vec!["latency at concurrency 1, ms".into(), figure(&latency_ms)],
        ],
    );
    println!("{} instances of {} threads, batches up to {}", bench.instances, bench.threads, bench.max_batch);
    println!(
        "{}",
        json!({
            "bare_images_per_s": median(&bare),
            "served_images_per_s": median(&served),
            "ratio": median(&ratio),
            "decode_ms": median(&decode_ms),
            "engine_ms": median(&engine_ms),
            "latency_c1_ms": median(&latency_ms),
        })
    );
    Ok(())
}

struct Bench {
    model: Arc<dyn Model>,
    instances: usize,
    threads: usize,
    max_batch: usize,
    encoded: Vec<Vec<u8>>,
    prepared: Vec<Picture>,
}

impl Bench {
    fn new(arguments: &Arguments) -> Result<Self> {
        let folder = read_model(&arguments.repository, &arguments.model).map_err(|error| anyhow!(error))?;
        let version = *folder.versions.last().context("the model has no version")?;
        let files = folder.read_version(version).map_err(|error| anyhow!(error))?;
        let manifest = &folder.manifest;
        if manifest.engine != "onnx" {
            bail!("the bare loop runs the embedded engine, the manifest names `{}`", manifest.engine);
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (instances, threads) = manifest.instances.resolve(manifest.device, cores);
        let model = detectd_onnx::load(&LoadOptions {
            path: files.file,
            device: manifest.device,
            precision: manifest.precision,
            threads,
            max_batch: manifest.batching.max_batch_size,
            detector: Some(DetectorOptions {
                family: manifest.family,
                classes: files.labels.len(),
                input_size: manifest.input_size.map(|[width, height]| (width, height)),
                preprocess: manifest.preprocess.clone(),
                head: manifest.head.clone(),
            }),
        })?;
        let max_batch = manifest.policy(model.spec().batch).max_batch;
        let golden = folder.path.join(version.to_string()).join("golden");
        let encoded = read_pictures(arguments.pictures.as_deref().unwrap_or(&golden))?;
        let mut bench = Self { model, instances, threads, max_batch, encoded, prepared: Vec::new() };
        let mut resizer = Resizer::default();
        bench.prepared = bench
            .encoded
            .iter()
            .map(|bytes| prepare(bytes, bench.detector()?, &mut resizer, &mut Buffers::default()))
            .collect::<Result<_>>()?;
        Ok(bench)
    }

    fn detector(&self) -> Result<&Detector> {
        self.model.spec().detector.as_ref().context("the model is no detector")
    }

    /// Seconds of one core to decode and resize one picture, the mean, and of one execution with it, the median. One
    /// follows the other as in a server, so that neither finds the caches as it left them.
    fn single_seconds(&self) -> Result<(f64, f64)> {
        let mut engine = self.model.open()?;
        let (mut resizer, mut scratch, mut buffers) =
            (Resizer::default(), DetectScratch::default(), Buffers::default());
        let options = [detectd_vision::DetectOptions::default()];
        let (mut decode, mut execution) = (Vec::new(), Vec::new());
        for round in 0..(100 / self.encoded.len()).max(3) {
            for bytes in &self.encoded {
                let start = Instant::now();
                let picture = prepare(bytes, self.detector()?, &mut resizer, &mut buffers)?;
                let decoded = Instant::now();
                let pictures = [picture];
                engine.detect(&pictures, &options, &mut scratch)?;
                // The first round warms up.
                if round > 0 {
                    decode.push((decoded - start).as_secs_f64());
                    execution.push(decoded.elapsed().as_secs_f64());
                }
                let [picture] = pictures;
                if let Picture::Letterboxed { input, .. } = picture {
                    buffers.input = input;
                }
            }
        }
        Ok((decode.iter().sum::<f64>() / decode.len() as f64, median(&execution)))
    }

    /// Pictures a second of all instances, each in a loop over full batches.
    fn bare_rate(&self, seconds: f64) -> Result<f64> {
        let run = |instance: usize| -> Result<f64> {
            let mut engine = self.model.open()?;
            let mut scratch = DetectScratch::default();
            let batch: Vec<_> = (0..self.max_batch)
                .map(|index| self.prepared[(instance + index) % self.prepared.len()].clone())
                .collect();
            let options = vec![detectd_vision::DetectOptions::default(); batch.len()];
            engine.detect(&batch, &options, &mut scratch)?;
            let start = Instant::now();
            let mut pictures = 0;
            while start.elapsed().as_secs_f64() < seconds {
                std::hint::black_box(engine.detect(&batch, &options, &mut scratch)?);
                pictures += batch.len();
            }
            Ok(pictures as f64 / start.elapsed().as_secs_f64())
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.instances).map(|instance| scope.spawn(move || run(instance))).collect();
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("an instance panicked"))?).sum()
        })
    }

    async fn load(&self, server: &Server, arguments: &Arguments, concurrency: usize) -> Result<Report> {
        let bodies = self.encoded.iter().map(|bytes| {
            let image = wire::Image { source: Some(wire::image::Source::Encoded(bytes.clone().into())) };
            let model = arguments.model.clone();
            let request = wire::DetectRequest { model, image: Some(image), ..wire::DetectRequest::default() };
            request.encode_to_vec().into()
        });
        let load = Load {
            url: server.url.clone(),
            method: "/detect.v1.DetectService/Detect",
            bodies: bodies.collect(),
            mode: Mode::Closed(concurrency),
            connections: 1,
            warm_up: Duration::from_secs(1),
            duration: Duration::from_secs_f64(arguments.seconds),
        };
        let report = load.run().await?;
        if !report.errors.is_empty() {
            bail!("the daemon answered with errors: {:?}", report.errors);
        }
        Ok(report)
    }
}

/// Memory that is used again from picture to picture, as the daemon does.
#[derive(Default)]
struct Buffers {
    pixels: Vec<u8>,
    input: Vec<f32>,
}

fn prepare(bytes: &[u8], detector: &Detector, resizer: &mut Resizer, buffers: &mut Buffers) -> Result<Picture> {
    let decoded = decode(bytes, &DecodeLimits::default(), std::mem::take(&mut buffers.pixels))?;
    let mut input = std::mem::take(&mut buffers.input);
    input.resize(detector.preprocess.input_len(), 0.0);
    let letterbox = detector.preprocess.run(&decoded.image, &mut input, resizer)?;
    buffers.pixels = decoded.image.into_pixels();
    Ok(Picture::Letterboxed { input, letterbox })
}

fn read_pictures(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| {
                ["jpg", "jpeg", "png", "webp", "bmp"].contains(&extension.to_lowercase().as_str())
            })
        })
        .collect();
    paths.sort();
    if paths.is_empty() {
        bail!("{}: there are no pictures", folder.display());
    }
    paths.iter().map(|path| fs::read(path).with_context(|| path.display().to_string())).collect()
}
