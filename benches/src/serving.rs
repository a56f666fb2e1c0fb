//! One model, served and in a bare loop, on the same pictures.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use detectd::engines::Engines;
use detectd::repository::layout::read_model;
use detectd_engine::{DetectScratch, Detector, Model, Picture};
use detectd_proto::detect::v1 as wire;
use detectd_vision::{DecodeLimits, Resizer, decode};
use prost::Message as _;

use crate::load::{Load, Mode, Report};
use crate::server::Server;
use crate::table::median;

/// A model of a repository, with the pictures to run it on.
pub struct Bench {
    name: String,
    /// The model, on the engine that its manifest names.
    pub model: Arc<dyn Model>,
    /// As many as the daemon opens.
    pub instances: usize,
    /// Of each instance.
    pub threads: usize,
    /// The largest batch that the daemon forms.
    pub max_batch: usize,
    encoded: Vec<Vec<u8>>,
    prepared: Vec<Picture>,
}

impl Bench {
    /// Loads a model. The pictures are those of a folder, or the model's golden ones.
    ///
    /// # Errors
    /// The model cannot be loaded, or there are no pictures.
    pub fn new(repository: &Path, name: &str, pictures: Option<&Path>) -> Result<Self> {
        let folder = read_model(repository, name).map_err(|error| anyhow!(error))?;
        let version = *folder.versions.last().context("the model has no version")?;
        let files = folder.read_version(version).map_err(|error| anyhow!(error))?;
        let manifest = &folder.manifest;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (instances, threads) = manifest.instances.resolve(manifest.device, cores);
        let options =
            manifest.load_options(&files.file, files.labels.len(), threads).map_err(|error| anyhow!(error))?;
        let model = Engines::built_in().load(&manifest.engine, &options)?;
        let max_batch = manifest.policy(model.spec().batch).max_batch;
        let golden = folder.path.join(version.to_string()).join("golden");
        let encoded = read_pictures(pictures.unwrap_or(&golden))?;
        let mut bench =
            Self { name: name.to_owned(), model, instances, threads, max_batch, encoded, prepared: Vec::new() };
        let mut resizer = Resizer::default();
        bench.prepared = bench
            .encoded
            .iter()
            .map(|bytes| prepare(bytes, bench.detector()?, &mut resizer, &mut Buffers::default()))
            .collect::<Result<_>>()?;
        Ok(bench)
    }

    /// How pictures are prepared for it, and how its outputs become boxes.
    ///
    /// # Errors
    /// It is no detector.
    pub fn detector(&self) -> Result<&Detector> {
        self.model.spec().detector.as_ref().context("the model is no detector")
    }

    /// The pictures' files.
    #[must_use]
    pub fn encoded(&self) -> &[Vec<u8>] {
        &self.encoded
    }

    /// Pictures that are in flight at once when the daemon is saturated.
    #[must_use]
    pub fn saturating(&self) -> usize {
        self.instances * self.max_batch * 2
    }

    /// Seconds of one core to decode and resize one picture, the mean, and of one execution with it, the median. One
    /// follows the other as in a server, so that neither finds the caches as it left them.
    ///
    /// # Errors
    /// The engine fails.
    pub fn single_seconds(&self) -> Result<(f64, f64)> {
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
    ///
    /// # Errors
    /// The engine fails.
    pub fn bare_rate(&self, seconds: f64) -> Result<f64> {
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

    /// Loads the daemon with so many requests at once.
    ///
    /// # Errors
    /// The daemon answers with errors.
    pub async fn load(&self, server: &Server, seconds: f64, concurrency: usize) -> Result<Report> {
        let bodies = self.encoded.iter().map(|bytes| {
            let image = wire::Image { source: Some(wire::image::Source::Encoded(bytes.clone().into())) };
            let model = self.name.clone();
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
            duration: Duration::from_secs_f64(seconds),
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
