//! Everything that needs a GPU, in one run: `make gpu`, or on a machine without cargo this program beside the two test
//! programs `device` and `cuda` that `benches/gpu/build.sh` puts there.
//!
//! Prints one table and, as the last line, one JSON object. Without a GPU each step says so, the kernels are compiled all
//! the same, and the program ends well.

mod kernels;
mod opinion;
mod programs;
mod soak;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use detectd_cuda::{Compiler, Device, Target, source};
use serde_json::{Value, json};

/// What came of a step.
struct Row {
    step: String,
    outcome: Outcome,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// All rows, and the figures for the last line.
#[derive(Default)]
struct Report {
    rows: Vec<Row>,
    figures: BTreeMap<String, Value>,
}

impl Report {
    fn add(&mut self, step: &str, outcome: Outcome, detail: impl Into<String>) {
        let row = Row { step: step.to_owned(), outcome, detail: detail.into() };
        println!("{:?}: {}: {}", row.outcome, row.step, row.detail);
        self.rows.push(row);
    }

    fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.figures.get(name)?.as_f64()
    }

    fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.step.len()).max().unwrap_or(0);
        let line =
            |row: &Row| format!("| {:width$} | {:7} | {} |\n", row.step, format!("{:?}", row.outcome), row.detail);
        let head = format!("| {:width$} | outcome | |\n|{}|---|---|\n", "step", "-".repeat(width + 2));
        head + &self.rows.iter().map(line).collect::<String>()
    }
}

fn main() -> ExitCode {
    let soak = std::env::args().skip_while(|argument| argument != "--soak").nth(1);
    let soak: u64 = soak.and_then(|seconds| seconds.parse().ok()).unwrap_or(600);
    let mut report = Report::default();
    compile(&mut report);
    let device = match Device::count() {
        Ok(0) => Err("no GPU: the driver has no device".to_owned()),
        // The last one, so that nothing works by taking the first.
        Ok(count) => Device::open(count - 1).map_err(|error| error.to_string()),
        Err(error) => Err(format!("no GPU: {error}")),
    };
    match device {
        Ok(device) => run(&mut report, &device, soak),
        Err(reason) => {
            report.figure("gpu", false);
            for step in [
                "kernels against their CPU twins",
                "compute-sanitizer",
                "libtorch in fp32, fp16 and bf16",
                "soak",
                "letterbox, decoding and Matrix NMS at batch 16",
                "Matrix NMS by candidates",
                "Matrix NMS through torch operators",
            ] {
                report.add(step, Outcome::Skipped, reason.clone());
            }
        }
    }
    finish(&mut report)
}

fn run(report: &mut Report, device: &Arc<Device>, soak: u64) {
    report.figure("gpu", true);
    let name = device.name().unwrap_or_else(|error| error.to_string());
    report.add("device", Outcome::Passed, format!("cuda:{}, {name}", device.ordinal()));
    report.figure("device", name);
    programs::twins(report);
    programs::sanitizer(report);
    programs::libtorch(report);
    kernels::batch_of_16(report, device);
    kernels::by_candidates(report, device);
    opinion::compare(report, device);
    soak::run(report, device, soak);
}

/// What needs no GPU: the kernels compile for devices that are in use and for the newest.
fn compile(report: &mut Report) {
    let step = "kernels compile";
    let compiler = match Compiler::open() {
        Ok(compiler) => compiler,
        Err(error) => return report.add(step, Outcome::Skipped, format!("{error}; `make nvrtc` fetches it")),
    };
    let newest = compiler.capabilities().last().copied().unwrap_or(90);
    let mut made = Vec::new();
    for target in [80, 90, newest].into_iter().flat_map(|one| [Target::Portable(one), Target::Machine(one)]) {
        match compiler.compile(&source(), target) {
            Ok(_) => made.push(target.architecture()),
            Err(error) => {
                report.figure("kernels_compile", false);
                return report.add(step, Outcome::Failed, error.to_string());
            }
        }
    }
    let (major, minor) = compiler.version();
    report.figure("kernels_compile", true);
    report.add(step, Outcome::Passed, format!("NVRTC {major}.{minor}: {}", made.join(", ")));
}

fn finish(report: &mut Report) -> ExitCode {
    let failed = report.rows.iter().filter(|row| row.outcome == Outcome::Failed).count();
    report.figure("failed", failed);
    let table = report.table();
    println!("\n{table}");
    if report.figures.get("gpu") == Some(&json!(true)) {
        match write(&table) {
            Ok(path) => println!("written to {}", path.display()),
            Err(error) => println!("the table cannot be written: {error}"),
        }
    }
    println!("{}", json!(report.figures));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Under `benches/runs/`, or where `DETECTD_RUNS` says.
fn write(table: &str) -> std::io::Result<PathBuf> {
    let folder = std::env::var_os("DETECTD_RUNS").map_or_else(|| PathBuf::from("benches/runs"), PathBuf::from);
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("gpu-{}-{seconds}.md", host.trim()));
    std::fs::write(&path, table)?;
    Ok(path)
}
