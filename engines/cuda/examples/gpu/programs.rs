//! The test programs that lie beside this one.

use std::path::PathBuf;
use std::process::Command;

use crate::{Outcome, Report};

/// A program of the same folder, by name.
fn beside(name: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name(name);
    path.is_file().then_some(path)
}

/// Runs a command; gives whether it ended well, and what it said.
fn run(command: &mut Command) -> (bool, String) {
    match command.output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            (output.status.success(), text)
        }
        Err(error) => (false, error.to_string()),
    }
}

/// The line that says how many tests passed, or why not.
fn summary(text: &str) -> String {
    let line = |start: &str| text.lines().find(|line| line.trim_start().starts_with(start));
    let skipped = text.lines().find(|line| line.contains("SKIPPED"));
    let failed = text.lines().skip_while(|line| !line.contains("panicked")).nth(1);
    let first = skipped.or(failed).or_else(|| line("test result"));
    first.or_else(|| text.lines().last()).unwrap_or("it said nothing").trim().to_owned()
}

fn add(report: &mut Report, step: &str, (success, text): (bool, String)) {
    let outcome = match (success, text.contains("SKIPPED")) {
        (false, _) => Outcome::Failed,
        (true, true) => Outcome::Skipped,
        (true, false) => Outcome::Passed,
    };
    if !success {
        println!("{text}");
    }
    report.add(step, outcome, summary(&text));
}

/// Every kernel against its twin, streams, memory, a lost device.
pub fn twins(report: &mut Report) {
    let step = "kernels against their CPU twins";
    let Some(program) = beside("device") else {
        return report.add(step, Outcome::Skipped, "the program `device` is not beside this one");
    };
    add(report, step, run(Command::new(program).args(["--nocapture", "--test-threads", "1"])));
}

/// The same under NVIDIA's checker, where it is installed: accesses, races, uninitialised memory.
pub fn sanitizer(report: &mut Report) {
    let Some(program) = beside("device") else { return };
    if !run(Command::new("compute-sanitizer").arg("--version")).0 {
        return report.add("compute-sanitizer", Outcome::Skipped, "it is not installed");
    }
    for tool in ["memcheck", "racecheck", "synccheck", "initcheck"] {
        let mut command = Command::new("compute-sanitizer");
        command.args(["--tool", tool, "--error-exitcode", "9"]).arg(&program);
        command.args(["--exact", "the_kernels_compute_what_the_cpu_does", "--nocapture"]);
        command.env("DETECTD_ROUNDS", "2");
        let (success, text) = run(&mut command);
        let errors = text.lines().find(|line| line.contains("ERROR SUMMARY")).unwrap_or_default().trim().to_owned();
        let outcome = if success { Outcome::Passed } else { Outcome::Failed };
        if !success {
            println!("{text}");
        }
        report.add(&format!("compute-sanitizer {tool}"), outcome, errors);
    }
}

/// The suite that every engine passes, boxes in three precisions, and the time of a batch.
pub fn libtorch(report: &mut Report) {
    let step = "libtorch in fp32, fp16 and bf16";
    let Some(program) = beside("cuda") else {
        return report.add(step, Outcome::Skipped, "the program `cuda` is not beside this one");
    };
    add(report, step, run(Command::new(&program).args(["--nocapture", "--test-threads", "1"])));
    let (success, text) = run(Command::new(program).args(["--ignored", "--nocapture"]));
    let line = text.lines().rev().find(|line| line.starts_with("{\"batch\""));
    let Some(figures) = line.and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok()) else {
        let outcome = if success { Outcome::Skipped } else { Outcome::Failed };
        return report.add("YOLOv5s fp16 at batch 16", outcome, summary(&text));
    };
    let milliseconds = |name: &str| figures[name].as_f64().unwrap_or(f64::NAN);
    let (forward, whole) = (milliseconds("forward_ms"), milliseconds("pictures_to_boxes_ms"));
    report.figure("forward_ms", forward);
    report.figure("pictures_to_boxes_ms", whole);
    let rate = 16e3 / whole;
    report.figure("images_per_s", rate);
    let detail = format!("forward {forward:.3} ms, pictures to boxes {whole:.3} ms, {rate:.0} images/s");
    report.add("YOLOv5s fp16 at batch 16", Outcome::Passed, detail);
}
