//! A latency distribution as a picture.

use std::path::Path;

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use plotters::prelude::*;

/// Draws the latency at every percentile as an SVG, with a logarithmic scale of milliseconds.
///
/// # Errors
/// There is nothing to draw, or the file cannot be written.
pub fn latency(path: &Path, title: &str, latency_us: &Histogram<u64>) -> Result<()> {
    if latency_us.is_empty() {
        return Err(anyhow!("no good answer: there is no latency to draw"));
    }
    let milliseconds = |quantile: f64| (latency_us.value_at_quantile(quantile) as f64 / 1000.0).max(0.001);
    // Each step to the right is ten times rarer: 0 is the median's side, 1 is 90 %, 2 is 99 %, 3 is 99.9 %.
    let points: Vec<(f64, f64)> = (0..=300)
        .map(|step| f64::from(step) / 100.0)
        .map(|nines| (nines, milliseconds(1.0 - 10f64.powf(-nines))))
        .collect();
    let (low, high) = (points[0].1 * 0.8, points[points.len() - 1].1 * 1.25);
    let root = SVGBackend::new(path, (800, 450)).into_drawing_area();
    let draw = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..3.0, (low..high).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("share of the answers that are faster")
            .y_desc("latency, ms")
            .x_labels(4)
            .x_label_formatter(&|nines: &f64| format!("{} %", (1.0 - 10f64.powf(-*nines)) * 100.0))
            .draw()?;
        chart.draw_series(LineSeries::new(points, &BLUE))?;
        root.present()
    };
    draw().map_err(|error| anyhow!("{}: {error}", path.display()))
}
