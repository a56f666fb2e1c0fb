//! Models are swapped under load: does a request fail, does an answer mix two versions, does anyone wait longer?

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::{Parser, Subcommand};
use detectd::config::Control;
use detectd_benches::load::{Load, Mode};
use detectd_benches::server::{Server, run_swapping_daemon};
use detectd_benches::table::{self, median};
use detectd_proto::detect::v1 as wire;
use detectd_proto::detect::v1::admin_service_client::AdminServiceClient;
use detectd_proto::detect::v1::detect_service_client::DetectServiceClient;
use hdrhistogram::Histogram;
use prost::Message as _;
use serde_json::json;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// Swaps the bundled detector for copies of itself, whose labels name their version, under an open-loop load at a share
/// of what the daemon can do. Pairs of runs, without swaps and with them; watched folders and loads by name in turn. After
/// each pair, how long going back to the version before takes. The last line is one JSON object.
#[derive(Parser)]
struct Arguments {
    /// The model repository that the detector is taken from.
    #[arg(long, default_value = "deploy/models")]
    repository: PathBuf,
    /// The model in it.
    #[arg(long, default_value = "workbench")]
    model: String,
    /// Swaps over all runs.
    #[arg(long, default_value_t = 1000)]
    swaps: usize,
    /// Paired runs.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds from the beginning of one swap to that of the next, at least.
    #[arg(long, default_value_t = 1000)]
    interval_ms: u64,
    /// Seconds of each run without swaps.
    #[arg(long, default_value_t = 60)]
    calm_s: u64,
    /// The load, as a share of the rate at saturation.
    #[arg(long, default_value_t = 0.6)]
    share: f64,
    #[command(subcommand)]
    server: Option<Internal>,
}

/// The server under test, which this program starts by itself.
#[derive(Subcommand)]
enum Internal {
    #[command(hide = true)]
    Daemon { repository: PathBuf, control: String },
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.server {
        Some(Internal::Daemon { repository, control }) => {
            let control = if control == "watch" { Control::Watch } else { Control::Explicit };
            run_swapping_daemon(repository, control).await
        }
        None => compare(&arguments).await,
    }
}

#[derive(Default)]
struct Totals {
    requests: u64,
    failed: u64,
    mixed: u64,
    swaps: usize,
}

async fn compare(arguments: &Arguments) -> Result<()> {
    let mut totals = Totals::default();
    let (mut ratios, mut calm_p99, mut swap_p99, mut cpu_ms) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut rollback_ms = Vec::new();
    let mut curves: Vec<Vec<f64>> = Vec::new();
    let mut rows = Vec::new();
    for round in 0..arguments.rounds {
        let control = if round % 2 == 0 { "watch" } else { "explicit" };
        let swaps = arguments.swaps.div_ceil(arguments.rounds).min(arguments.swaps - totals.swaps.min(arguments.swaps));
        let bench = Bench::start(arguments, control).await?;
        let rate = bench.capacity().await? * arguments.share;
        // What was still queued at saturation must not count as waiting here.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let least = Duration::from_secs(arguments.calm_s);
        let calm = bench.run(rate, Swapping { count: 0, interval: Duration::ZERO, least }).await?;
        let interval = Duration::from_millis(arguments.interval_ms);
        let run = bench.run(rate, Swapping { count: swaps, interval, least: Duration::from_secs(20) }).await?;
        rollback_ms.push(bench.rollback_ms().await?);
        let p99 = |run: &Run| run.latency_us.value_at_quantile(0.99) as f64 / 1000.0;
        ratios.push(p99(&run) / p99(&calm));
        calm_p99.push(p99(&calm));
        swap_p99.push(p99(&run));
        // What the same requests cost without swaps is taken off.
        let per_request = calm.cpu.as_secs_f64() / calm.requests.max(1) as f64;
        let loading = run.cpu.as_secs_f64() - per_request * run.requests as f64;
        cpu_ms.push(loading * 1000.0 / swaps.max(1) as f64);
        for run in [&calm, &run] {
            totals.requests += run.requests;
            totals.failed += run.failed;
            totals.mixed += run.mixed;
        }
        totals.swaps += swaps;
        rows.push(vec![
            control.to_owned(),
            swaps.to_string(),
            format!("{rate:.1}"),
            format!("{:.1}", p99(&calm)),
            format!("{:.1}", p99(&run)),
            format!("{:.2}", p99(&run) / p99(&calm)),
            format!("{:.0}", cpu_ms.last().copied().unwrap_or_default()),
            format!("{:.0}", run.memory_mb.first().copied().unwrap_or_default()),
            format!("{:.0}", run.memory_mb.last().copied().unwrap_or_default()),
        ]);
        curves.push(run.memory_mb);
    }
    let header = [
        "control",
        "swaps",
        "requests/s",
        "p99 calm, ms",
        "p99 swapping",
        "ratio",
        "cpu ms/swap",
        "MB first",
        "MB last",
    ];
    table::print(&header, &rows);
    for (curve, row) in curves.iter().zip(&rows) {
        println!("resident memory over the swaps, {}: {}", row[0], sampled(curve));
    }
    let of_curves = |pick: fn(&Vec<f64>) -> Option<&f64>| curves.iter().filter_map(pick).copied().collect::<Vec<_>>();
    println!(
        "{}",
        json!({
            "swaps": totals.swaps,
            "requests": totals.requests,
            "failed": totals.failed,
            "mixed_answers": totals.mixed,
            "p99_ratio": median(&ratios),
            "p99_calm_ms": median(&calm_p99),
            "p99_swapping_ms": median(&swap_p99),
            "cpu_ms_per_swap": median(&cpu_ms),
            "rollback_ms": median(&rollback_ms),
            "rss_start_mb": median(&of_curves(|curve| curve.first())),
            "rss_end_mb": median(&of_curves(|curve| curve.last())),
        })
    );
    ensure!(totals.failed == 0 && totals.mixed == 0, "requests failed or were answered by two versions");
    Ok(())
}

/// About ten values of a curve, for a line of text.
fn sampled(curve: &[f64]) -> String {
    let step = curve.len().div_ceil(10).max(1);
    curve.iter().step_by(step).map(|value| format!("{value:.0}")).collect::<Vec<_>>().join(" ")
}

struct Bench {
    server: Server,
    explicit: bool,
    folder: PathBuf,
    source: PathBuf,
    labels: Vec<String>,
    bodies: Vec<Bytes>,
    channels: Vec<Channel>,
    _root: tempfile::TempDir,
}

struct Swapping {
    count: usize,
    interval: Duration,
    least: Duration,
}

struct Run {
    requests: u64,
    failed: u64,
    mixed: u64,
    latency_us: Histogram<u64>,
    cpu: Duration,
    memory_mb: Vec<f64>,
}

impl Bench {
    async fn start(arguments: &Arguments, control: &str) -> Result<Self> {
        let root = tempfile::tempdir()?;
        let model = arguments.repository.join(&arguments.model);
        let newest =
            fs::read_dir(&model)?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
        let source = model.join(newest.max().context("the model has no version")?.to_string());
        let folder = root.path().join(&arguments.model);
        fs::create_dir_all(&folder)?;
        fs::copy(model.join("model.toml"), folder.join("model.toml"))?;
        let labels: Vec<_> = fs::read_to_string(source.join("labels.txt"))?.lines().map(str::to_owned).collect();
        let bodies = pictures(&source.join("golden"))?;
        put(&source, &folder, &labels, 1)?;
        let server = Server::start(&["daemon", &root.path().display().to_string(), control])?;
        let endpoint = Endpoint::from_shared(server.url.clone())?.tcp_nodelay(true);
        let mut channels = Vec::new();
        for _ in 0..4 {
            channels.push(endpoint.connect().await?);
        }
        let bench =
            Self { server, explicit: control == "explicit", folder, source, labels, bodies, channels, _root: root };
        if bench.explicit {
            bench.load().await?;
        }
        Ok(bench)
    }

    /// Requests a second at saturation.
    async fn capacity(&self) -> Result<f64> {
        let load = Load {
            url: self.server.url.clone(),
            method: "/detect.v1.DetectService/Detect",
            bodies: self.bodies.clone(),
            mode: Mode::Closed(16),
            connections: 4,
            warm_up: Duration::from_secs(2),
            duration: Duration::from_secs(5),
        };
        Ok(load.run().await?.rate())
    }

    async fn load(&self) -> Result<()> {
        let model = self.name();
        let request = wire::LoadModelRequest { model, ..wire::LoadModelRequest::default() };
        AdminServiceClient::new(self.channels[0].clone()).load_model(request).await?;
        Ok(())
    }

    fn name(&self) -> String {
        self.folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Sends `rate` requests a second until the swaps are done.
    async fn run(&self, rate: f64, swapping: Swapping) -> Result<Run> {
        let done = Arc::new(AtomicBool::new(false));
        let before = self.server.cpu()?;
        let (run, memory_mb) = tokio::join!(self.send(rate, Arc::clone(&done)), async {
            let result = self.swap(&swapping).await;
            done.store(true, Ordering::Release);
            result
        });
        Ok(Run { memory_mb: memory_mb?, cpu: self.server.cpu()? - before, ..run? })
    }

    async fn send(&self, rate: f64, done: Arc<AtomicBool>) -> Result<Run> {
        let mut calls = JoinSet::new();
        let start = Instant::now();
        let mut run = Run {
            requests: 0,
            failed: 0,
            mixed: 0,
            latency_us: Histogram::new(3)?,
            cpu: Duration::ZERO,
            memory_mb: Vec::new(),
        };
        while !done.load(Ordering::Acquire) {
            let due = start + Duration::from_secs_f64(run.requests as f64 / rate);
            tokio::time::sleep_until(due.into()).await;
            let index = run.requests as usize;
            let request = wire::DetectRequest::decode(self.bodies[index % self.bodies.len()].clone())?;
            let mut client = DetectServiceClient::new(self.channels[index % self.channels.len()].clone());
            calls.spawn(async move { client.detect(request).await.map(|answer| (answer.into_inner(), due.elapsed())) });
            run.requests += 1;
            while let Some(call) = calls.try_join_next() {
                count(&mut run, call?)?;
            }
        }
        while let Some(call) = calls.join_next().await {
            count(&mut run, call?)?;
        }
        Ok(run)
    }

    /// Swaps, and returns the resident memory after each, in megabytes.
    async fn swap(&self, swapping: &Swapping) -> Result<Vec<f64>> {
        let start = Instant::now();
        let mut memory = vec![self.server.resident_mb()?];
        for _ in 0..swapping.count {
            let began = Instant::now();
            let old = self.answering().await?;
            self.put(old + 1).await?;
            if self.explicit {
                self.load().await?;
            }
            while self.answering().await? == old {
                ensure!(began.elapsed() < Duration::from_secs(60), "version {} does not come into service", old + 1);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::fs::remove_dir_all(self.folder.join(old.to_string())).await?;
            tokio::time::sleep_until((began + swapping.interval).into()).await;
            memory.push(self.server.resident_mb()?);
        }
        tokio::time::sleep_until((start + swapping.least).into()).await;
        Ok(memory)
    }

    /// Milliseconds that going back to a version that is kept warm takes.
    async fn rollback_ms(&self) -> Result<f64> {
        let manifest = self.folder.join("model.toml");
        let kept = format!("{}\n[rollout]\nkeep_previous_s = 600\n", fs::read_to_string(&manifest)?);
        fs::write(manifest, kept)?;
        let old = self.answering().await?;
        self.put(old + 1).await?;
        if self.explicit {
            self.load().await?;
        }
        let began = Instant::now();
        while self.answering().await? == old {
            ensure!(began.elapsed() < Duration::from_secs(60), "version {} does not come into service", old + 1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let request = wire::RollbackRequest { model: self.name(), ..wire::RollbackRequest::default() };
        let mut admin = AdminServiceClient::new(self.channels[0].clone());
        let began = Instant::now();
        admin.rollback(request).await?;
        let took = began.elapsed();
        ensure!(self.answering().await? == old, "the version before does not answer");
        Ok(took.as_secs_f64() * 1000.0)
    }

    /// Copies the version into place under another number, beside the task that sends requests.
    async fn put(&self, version: u64) -> Result<()> {
        let (source, folder, labels) = (self.source.clone(), self.folder.clone(), self.labels.clone());
        tokio::task::spawn_blocking(move || put(&source, &folder, &labels, version)).await?
    }

    async fn answering(&self) -> Result<u64> {
        let mut admin = AdminServiceClient::new(self.channels[0].clone());
        let request = wire::GetRolloutRequest { model: self.name() };
        Ok(admin.get_rollout(request).await?.into_inner().answering)
    }
}

/// An answer is good when every label names the version that says it answered.
fn count(run: &mut Run, call: Result<(wire::DetectResponse, Duration), tonic::Status>) -> Result<()> {
    match call {
        Ok((answer, latency)) => {
            run.latency_us.record(u64::try_from(latency.as_micros())?)?;
            let prefix = format!("{}/", answer.version);
            run.mixed += u64::from(!answer.detections.iter().all(|found| found.label.starts_with(&prefix)));
        }
        Err(status) => {
            eprintln!("a request failed: {status}");
            run.failed += 1;
        }
    }
    Ok(())
}

/// Copies a version into place as `version`, with labels that name it.
fn put(source: &Path, folder: &Path, labels: &[String], version: u64) -> Result<()> {
    let incoming = folder.join(".incoming");
    fs::create_dir_all(&incoming)?;
    fs::copy(source.join("model.onnx"), incoming.join("model.onnx"))?;
    let labels: Vec<_> = labels.iter().map(|label| format!("{version}/{label}")).collect();
    fs::write(incoming.join("labels.txt"), labels.join("\n"))?;
    fs::rename(incoming, folder.join(version.to_string()))?;
    Ok(())
}

fn pictures(folder: &Path) -> Result<Vec<Bytes>> {
    let mut paths: Vec<_> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let pictures = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension != "json"));
    pictures
        .map(|path| {
            let source = wire::image::Source::Encoded(fs::read(path)?.into());
            let image = Some(wire::Image { source: Some(source) });
            Ok(wire::DetectRequest { image, ..wire::DetectRequest::default() }.encode_to_vec().into())
        })
        .collect()
}
