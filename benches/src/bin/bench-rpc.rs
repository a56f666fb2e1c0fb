//! What the daemon itself costs: a model that does nothing, beside a bare tonic handler, in one run.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use clap::{Parser, Subcommand};
use detectd_benches::load::{Load, Mode};
use detectd_benches::server::{Server, null_repository, run_daemon, run_peer};
use detectd_benches::table::{self, median};
use detectd_proto::detect::v1 as wire;
use prost::Message as _;
use serde_json::json;

/// Compares the daemon on a model that does nothing with a bare tonic handler that reads the body and answers: request
/// rates, latencies and processor time per request. The last line is one JSON object.
#[derive(Parser)]
struct Arguments {
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measurements of each server for each load, taken in turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[command(subcommand)]
    server: Option<Internal>,
}

/// The servers under test, which this program starts by itself.
#[derive(Subcommand)]
enum Internal {
    #[command(hide = true)]
    Daemon { repository: PathBuf },
    #[command(hide = true)]
    Bare,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.server {
        Some(Internal::Daemon { repository }) => run_daemon(repository).await,
        Some(Internal::Bare) => run_peer().await,
        None => compare(&arguments).await,
    }
}

#[derive(Clone, Default)]
struct Figures {
    rate: Vec<f64>,
    cpu_ms: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
}

async fn compare(arguments: &Arguments) -> Result<()> {
    let repository = null_repository()?;
    let path = repository.path().display().to_string();
    let servers = [Server::start(&["daemon", &path])?, Server::start(&["bare"])?];
    let mut rows = Vec::new();
    let mut ratios = Vec::new();
    let mut results = Vec::new();
    for (name, size) in [("small", 0), ("200 kB", 200_000)] {
        let body = request(size);
        for concurrency in [1, 8, 64] {
            let mut figures = [Figures::default(), Figures::default()];
            for _ in 0..arguments.rounds {
                for (server, figures) in servers.iter().zip(&mut figures) {
                    measure(server, &body, concurrency, arguments.seconds, figures).await?;
                }
            }
            let [daemon, bare] = &figures;
            let pairs: Vec<f64> = daemon.rate.iter().zip(&bare.rate).map(|(daemon, bare)| daemon / bare).collect();
            let ratio = median(&pairs);
            ratios.push(ratio);
            rows.push(vec![
                format!("{name}, {concurrency} callers"),
                format!("{:.0}", median(&daemon.rate)),
                format!("{:.0}", median(&bare.rate)),
                format!("{ratio:.3}"),
                format!("{:.4}", median(&daemon.cpu_ms)),
                format!("{:.4}", median(&bare.cpu_ms)),
                format!("{:.2}", median(&daemon.p50_ms)),
                format!("{:.2}", median(&daemon.p99_ms)),
            ]);
            results.push(daemon.clone());
        }
    }
    let header = ["load", "daemon/s", "bare/s", "ratio", "cpu ms", "bare cpu ms", "p50 ms", "p99 ms"];
    table::print(&header, &rows);
    println!("medians of {} rounds, both servers in turn", arguments.rounds);
    let [_, _, small_c64, _, body_c8, _] = &results[..] else { bail!("a measurement is missing") };
    println!(
        "{}",
        json!({
            "small_c64_rps": median(&small_c64.rate),
            "body200k_c8_rps": median(&body_c8.rate),
            "body200k_cpu_ms": median(&body_c8.cpu_ms),
            "p50_ms": median(&body_c8.p50_ms),
            "p99_ms": median(&body_c8.p99_ms),
            "bare_tonic_ratio": median(&ratios),
            "bare_tonic_ratio_min": ratios.iter().copied().fold(f64::INFINITY, f64::min),
            "ratios": ratios,
        })
    );
    Ok(())
}

async fn measure(server: &Server, body: &Bytes, concurrency: usize, seconds: f64, figures: &mut Figures) -> Result<()> {
    let load = Load {
        url: server.url.clone(),
        method: "/detect.v1.DetectService/Detect",
        bodies: vec![body.clone()],
        mode: Mode::Closed(concurrency),
        connections: if concurrency > 8 { 4 } else { 1 },
        warm_up: Duration::ZERO,
        duration: Duration::from_secs_f64(seconds),
    };
    // The servers' processor time is read around the load, so there is no part that is not counted.
    let before = server.cpu()?;
    let report = load.run().await?;
    let used = server.cpu()? - before;
    if !report.errors.is_empty() {
        bail!("{} answered with errors: {:?}", server.url, report.errors);
    }
    figures.rate.push(report.rate());
    figures.cpu_ms.push(used.as_secs_f64() * 1000.0 / report.good as f64);
    figures.p50_ms.push(report.latency_ms(0.5));
    figures.p99_ms.push(report.latency_ms(0.99));
    Ok(())
}

/// A request whose picture is a small one, filled up to `size` bytes behind its end, where no decoder looks.
fn request(size: usize) -> Bytes {
    let mut picture = bitmap();
    picture.resize(size.max(picture.len()), 0);
    let image = wire::Image { source: Some(wire::image::Source::Encoded(picture.into())) };
    wire::DetectRequest { image: Some(image), ..wire::DetectRequest::default() }.encode_to_vec().into()
}

/// A BMP of one pixel.
fn bitmap() -> Vec<u8> {
    let mut bytes = Vec::from(*b"BM");
    bytes.extend(58u32.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(54u32.to_le_bytes());
    bytes.extend(40u32.to_le_bytes());
    bytes.extend(1i32.to_le_bytes());
    bytes.extend(1i32.to_le_bytes());
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(24u16.to_le_bytes());
    bytes.extend([0; 24]);
    bytes.extend([10, 20, 30, 0]);
    bytes
}
