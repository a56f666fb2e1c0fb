//! Matrix NMS through torch operators on the same boxes, and torchvision's NMS beside it: `benches/gpu/opinion.py`.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytemuck::cast_slice;
use detectd_cuda::layout::Kept;
use detectd_cuda::{CudaError, Device};
use detectd_vision::Head;

use crate::kernels::{Scene, options, spread};
use crate::{Outcome, Report};

const SIZES: [usize; 5] = [1000, 2000, 5000, 10_000, 25_200];

pub fn compare(report: &mut Report, device: &Arc<Device>) {
    let step = "Matrix NMS through torch operators";
    let script = Path::new("benches/gpu/opinion.py");
    if !script.is_file() {
        return report.add(step, Outcome::Skipped, "benches/gpu/opinion.py is not in the working folder");
    }
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => return report.add(step, Outcome::Failed, error.to_string()),
    };
    for size in SIZES {
        if let Err(error) = write(device, folder.path(), size) {
            return report.add(step, Outcome::Failed, error.to_string());
        }
    }
    let output = Command::new("python3").arg(script).arg(folder.path()).output();
    let text = output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
    );
    let line = text.lines().rev().find(|line| line.starts_with('{'));
    let Some(figures) = line.and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok()) else {
        println!("{text}");
        return report.add(step, Outcome::Skipped, text.lines().last().unwrap_or("it said nothing").to_owned());
    };
    let agree = figures["agree"] == true;
    report.add(step, if agree { Outcome::Passed } else { Outcome::Failed }, figures["detail"].to_string());
    report.figure("third_opinion_agrees", agree);
    if let Some(torchvision) = figures["torchvision_ms"].as_object() {
        report.add("torchvision's batched_nms", Outcome::Passed, format!("{torchvision:?} ms"));
        report.figure("torchvision_ms", torchvision.clone());
    }
}

/// Boxes, scores and what the kernels keep of them, as raw 32-bit numbers.
fn write(device: &Arc<Device>, folder: &Path, size: usize) -> Result<(), CudaError> {
    let outputs = spread(size);
    let mut scene = Scene::new(device, &Head::BoxesScores, 1, &outputs, &options())?;
    scene.run(0)?;
    let answers = scene.postprocess.answer(&scene.queue, 0)?;
    let kept: &[Kept] = &answers[0].kept;
    let failed = |error: std::io::Error| CudaError::Driver(error.to_string());
    let file = |name: &str| folder.join(format!("{size}.{name}"));
    std::fs::write(file("boxes"), cast_slice::<f32, u8>(&outputs[0].1)).map_err(failed)?;
    std::fs::write(file("scores"), cast_slice::<f32, u8>(&outputs[1].1)).map_err(failed)?;
    std::fs::write(file("kept"), cast_slice::<Kept, u8>(kept)).map_err(failed)
}
