//! `load`: sends pictures to a running daemon and shows how it fares.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use detectd_benches::load::{Load, Mode};
use detectd_benches::{plot, table};
use detectd_proto::detect::v1 as wire;
use prost::Message as _;
use serde_json::json;

/// Sends pictures to a detectd server, in a closed loop (--concurrency) or an open one (--rate), and prints rates and
/// latencies; the last line is one JSON object.
#[derive(Parser)]
struct Arguments {
    /// The server.
    #[arg(long, default_value = "http://127.0.0.1:8001")]
    server: String,
    /// The model; may be left out where there is only one.
    #[arg(long, default_value = "")]
    model: String,
    /// Picture files, sent in turn.
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// Closed loop: so many callers, each waiting for its answer.
    #[arg(long, conflicts_with = "rate")]
    concurrency: Option<usize>,
    /// Open loop: so many requests a second, whether answers come or not.
    #[arg(long)]
    rate: Option<f64>,
    /// Connections that the callers share.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Seconds that are not counted, at the beginning.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds that are counted.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Draws the latency distribution as an SVG.
    #[arg(long)]
    plot: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut bodies = Vec::new();
    for path in &arguments.pictures {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let image = wire::Image { source: Some(wire::image::Source::Encoded(bytes.into())) };
        let model = arguments.model.clone();
        let request = wire::DetectRequest { model, image: Some(image), ..wire::DetectRequest::default() };
        bodies.push(request.encode_to_vec().into());
    }
    let mode = match (arguments.concurrency, arguments.rate) {
        (_, Some(rate)) if rate > 0.0 && rate.is_finite() => Mode::Open(rate),
        (_, Some(rate)) => bail!("--rate must be above 0, not {rate}"),
        (concurrency, None) => Mode::Closed(concurrency.unwrap_or(8).max(1)),
    };
    let seconds = |value: f64, name: &str| {
        Duration::try_from_secs_f64(value).with_context(|| format!("{name} must be a number of seconds, not {value}"))
    };
    let load = Load {
        url: arguments.server,
        method: "/detect.v1.DetectService/Detect",
        bodies,
        mode,
        connections: arguments.connections,
        warm_up: seconds(arguments.warm_up, "--warm-up")?,
        duration: seconds(arguments.seconds, "--seconds")?,
    };
    let report = load.run().await?;
    let quantiles = [0.5, 0.9, 0.95, 0.99, 0.999, 1.0];
    let mut rows = vec![
        vec!["good answers".into(), report.good.to_string()],
        vec!["a second".into(), format!("{:.1}", report.rate())],
    ];
    rows.extend(quantiles.map(|quantile| {
        vec![format!("latency p{}, ms", quantile * 100.0), format!("{:.2}", report.latency_ms(quantile))]
    }));
    rows.extend(report.errors.iter().map(|(code, count)| vec![code.clone(), count.to_string()]));
    table::print(&["", "figure"], &rows);
    if let Some(path) = &arguments.plot {
        plot::latency(path, &format!("{mode:?} on {}", load.url), &report.latency_us)?;
    }
    let latency = |quantile| report.latency_ms(quantile);
    println!(
        "{}",
        json!({
            "mode": mode, "good": report.good, "errors": report.errors, "per_second": report.rate(),
            "p50_ms": latency(0.5), "p90_ms": latency(0.9), "p99_ms": latency(0.99), "p999_ms": latency(0.999),
            "max_ms": latency(1.0),
        })
    );
    Ok(())
}
