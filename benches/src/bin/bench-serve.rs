//! Pictures to boxes through the daemon, against the same engine in a bare loop, in one run.

use std::path::PathBuf;
use std::thread;

use anyhow::Result;
use clap::{Parser, Subcommand};
use detectd_benches::server::{Server, run_daemon};
use detectd_benches::serving::Bench;
use detectd_benches::table::{self, median};
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
    let bench = Bench::new(&arguments.repository, &arguments.model, arguments.pictures.as_deref())?;
    let server = Server::start(&["daemon", &arguments.repository.display().to_string()])?;
    let saturating = bench.saturating();
    let (mut bare, mut served, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    let (mut decode_ms, mut engine_ms, mut latency_ms) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let (decode, execution) = bench.single_seconds()?;
        let alone = bench.load(&server, arguments.seconds, 1).await?;
        let engine_rate = bench.bare_rate(arguments.seconds)?;
        let cores = thread::available_parallelism().map_or(1, usize::from) as f64;
        // With every core busy with one or the other, the times of one picture add up.
        let bare_rate = 1.0 / (1.0 / engine_rate + decode / cores);
        let report = bench.load(&server, arguments.seconds, saturating).await?;
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
