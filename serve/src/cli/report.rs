//! How `detect` and `demo` show an answer: as a table, as JSON, as an annotated picture.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use detectd_proto::detect::v1 as wire;
use detectd_vision::{BoundingBox, DecodeLimits, Detection, annotate, decode};
use serde_json::{Value, json};

use crate::client::ClientError;

/// Writes a line to stdout. Whoever reads it may stop early, as `head` does: that is an error here, which ends the
/// program without a word (see [`super::main`]).
pub(super) fn say(text: impl std::fmt::Display) -> anyhow::Result<()> {
    use std::io::Write as _;
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

/// A table without lines; numbers are right-aligned by [`numbers_right`].
pub(super) fn table<const N: usize>(titles: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(titles);
    table
}

/// Aligns every column from the `first` on to the right.
pub(super) fn numbers_right(table: &mut Table, first: usize) {
    table.column_iter_mut().skip(first).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
}

/// The answer for a picture, with its boxes.
pub(super) fn text(name: &str, response: &wire::DetectResponse, elapsed: Duration) -> String {
    let count = response.detections.len();
    let objects = if count == 1 { "object" } else { "objects" };
    let heading = format!(
        "{}  {}x{}  {count} {objects}  {:.1} ms{}",
        console::style(name).bold(),
        response.image_width,
        response.image_height,
        elapsed.as_secs_f64() * 1e3,
        response.timings.as_ref().map(stages).unwrap_or_default(),
    );
    if count == 0 {
        return heading;
    }
    let mut boxes = table(["label", "score", "x1", "y1", "x2", "y2"]);
    for detection in &response.detections {
        let label = if detection.label.is_empty() { detection.class_id.to_string() } else { detection.label.clone() };
        let wire::BoundingBox { x1, y1, x2, y2 } = detection.r#box.unwrap_or_default();
        let corners = [x1, y1, x2, y2].map(|value| format!("{value:.0}"));
        boxes.add_row([label, format!("{:.3}", detection.score)].into_iter().chain(corners));
    }
    numbers_right(&mut boxes, 1);
    format!("{heading}\n{boxes}")
}

fn stages(timings: &wire::Timings) -> String {
    let milliseconds = |microseconds: u64| microseconds as f64 / 1e3;
    format!(
        " (decode {:.1}, queue {:.1}, network {:.1}, boxes {:.1})",
        milliseconds(timings.decode_us),
        milliseconds(timings.queue_us),
        milliseconds(timings.compute_us),
        milliseconds(timings.postprocess_us),
    )
}

/// The same as a JSON object.
pub(super) fn json(name: &str, response: &wire::DetectResponse, elapsed: Duration, copy: Option<&Path>) -> Value {
    let detections = response.detections.iter().map(|detection| {
        let wire::BoundingBox { x1, y1, x2, y2 } = detection.r#box.unwrap_or_default();
        json!({
            "label": detection.label,
            "class_id": detection.class_id,
            "score": detection.score,
            "box": [x1, y1, x2, y2],
        })
    });
    let mut object = json!({
        "file": name,
        "model": response.model,
        "version": response.version,
        "width": response.image_width,
        "height": response.image_height,
        "elapsed_ms": elapsed.as_secs_f64() * 1e3,
        "timings_us": response.timings.as_ref().map(|timings| json!({
            "decode": timings.decode_us,
            "queue": timings.queue_us,
            "compute": timings.compute_us,
            "postprocess": timings.postprocess_us,
            "total": timings.total_us,
        })),
        "batch_size": response.timings.as_ref().map(|timings| timings.batch_size),
        "detections": detections.collect::<Vec<_>>(),
    });
    if let Some(copy) = copy {
        object["annotated"] = json!(copy.display().to_string());
    }
    object
}

/// A picture without an answer, as a JSON object.
pub(super) fn failure_json(name: &str, error: &anyhow::Error) -> Value {
    let code = match error.downcast_ref() {
        Some(ClientError::Status(status)) => Some(crate::client::code_name(status.code())),
        _ => None,
    };
    json!({ "file": name, "error": { "code": code, "message": format!("{error:#}") } })
}

/// Draws the boxes of `response` on the picture `encoded` and writes it to `path`, as PNG.
///
/// # Errors
/// The picture cannot be decoded here, or the file cannot be written.
pub(super) fn write_annotated(
    encoded: &[u8],
    response: &wire::DetectResponse,
    labels: &[String],
    path: &Path,
) -> anyhow::Result<()> {
    // The server has decoded it already: whatever it took is no larger than it allows.
    let limits = DecodeLimits { max_pixels: u64::from(u32::MAX) };
    let mut image = decode(encoded, &limits, Vec::new())?.image;
    let detections: Vec<_> = response.detections.iter().map(detection).collect();
    annotate(&mut image, &detections, labels);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let (width, height) = (image.width(), image.height());
    let (colour, format) = (image::ExtendedColorType::Rgb8, image::ImageFormat::Png);
    image::save_buffer_with_format(path, image.pixels(), width, height, colour, format)
        .with_context(|| path.display().to_string())
}

fn detection(detection: &wire::Detection) -> Detection {
    let wire::BoundingBox { x1, y1, x2, y2 } = detection.r#box.unwrap_or_default();
    Detection { class_id: detection.class_id, score: detection.score, bbox: BoundingBox { x1, y1, x2, y2 } }
}
