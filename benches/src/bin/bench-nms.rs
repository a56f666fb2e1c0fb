//! Matrix NMS beside Paddle's CPU kernel: the same inputs, the same machine, in turns. Run by `make bench-nms`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use detectd_vision::{MatrixNmsArguments, MatrixNmsBatch, MatrixScratch, matrix_nms_batch};
use rand::seq::SliceRandom as _;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::{Value, json};

/// Times Matrix NMS against Paddle's CPU kernel.
#[derive(Parser)]
struct Arguments {
    /// Python interpreter that has paddlepaddle.
    #[arg(long)]
    python: PathBuf,
    /// Numbers of candidates.
    #[arg(long, value_delimiter = ',', default_value = "100,400,1000,3000,8400,25200")]
    candidates: Vec<usize>,
    /// Numbers of classes.
    #[arg(long, value_delimiter = ',', default_value = "1,4,20,80")]
    classes: Vec<usize>,
    /// Turns for each case; a turn is a run of Paddle's kernel and then of ours.
    #[arg(long, default_value_t = 5)]
    turns: usize,
}

/// A setting of the kernel.
struct Setting {
    name: &'static str,
    gaussian: bool,
    keep_top_k: i64,
}

/// PP-YOLO's own keeps the best 100; without a limit, every candidate over the threshold has to be decayed.
const SETTINGS: [Setting; 4] = [
    Setting { name: "linear, best 100", gaussian: false, keep_top_k: 100 },
    Setting { name: "gaussian, best 100", gaussian: true, keep_top_k: 100 },
    Setting { name: "linear, all", gaussian: false, keep_top_k: -1 },
    Setting { name: "gaussian, all", gaussian: true, keep_top_k: -1 },
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.turns > 0, "--turns must be at least 1, not 0");
    let folder = tempfile::tempdir()?;
    let mut paddle = Paddle::start(&arguments.python)?;
    println!("Matrix NMS, one picture, milliseconds (median), Paddle {} beside detectd", paddle.version);
    println!(
        "{:>10} {:>7}  {:<20} {:>12} {:>12} {:>9}",
        "candidates", "classes", "setting", "Paddle", "detectd", "speed-up"
    );
    let mut speedups = Vec::new();
    for boxes in &arguments.candidates {
        for classes in &arguments.classes {
            let input = Input::new(*boxes, *classes);
            let inputs = folder.path().join(format!("{boxes}x{classes}"));
            input.write(&inputs)?;
            for setting in &SETTINGS {
                let (theirs, ours) = compare(&input, &inputs, setting, &mut paddle, arguments.turns)
                    .with_context(|| format!("{boxes} candidates, {classes} classes, {}", setting.name))?;
                let speedup = theirs / ours;
                let (theirs, ours) = (theirs * 1e3, ours * 1e3);
                println!("{boxes:>10} {classes:>7}  {:<20} {theirs:>12.4} {ours:>12.4} {speedup:>8.1}x", setting.name);
                speedups.push(speedup);
            }
            fs::remove_dir_all(&inputs)?;
        }
    }
    paddle.stop()?;
    speedups.sort_by(f64::total_cmp);
    let result = json!({
        "speedup_min": speedups.first(),
        "speedup_median": median(&speedups),
        "cases": speedups.len(),
    });
    println!("{result}");
    Ok(())
}

/// Boxes around objects, as a detector finds them, each a candidate for one class.
struct Input {
    classes: usize,
    corners: Vec<[f32; 4]>,
    /// Class by class.
    scores: Vec<f32>,
}

impl Input {
    fn new(boxes: usize, classes: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64((boxes * 1000 + classes) as u64);
        let objects: Vec<[f32; 4]> = (0..(boxes / 40).max(3))
            .map(|_| {
                let side = 8.0 * 50.0_f32.powf(random.random());
                let aspect = 2.0_f32.powf(random.random_range(-1.0..1.0));
                [random.random_range(0.0..640.0), random.random_range(0.0..640.0), side * aspect, side / aspect]
            })
            .collect();
        // All different: which of two equal scores comes first is up to the kernel's sort.
        let mut shares: Vec<f32> = (1..=boxes).map(|place| place as f32 / boxes as f32).collect();
        shares.shuffle(&mut random);
        let mut corners = Vec::with_capacity(boxes);
        let mut scores = vec![0.0; boxes * classes];
        for index in 0..boxes {
            let object = random.random_range(0..objects.len());
            let [x, y, width, height] = objects[object];
            let mut jitter = |side: f32| side * random.random_range(-0.25..0.25_f32);
            let (x, y) = (x + jitter(width), y + jitter(height));
            let (width, height) = (width + jitter(width), height + jitter(height));
            corners.push([x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0]);
            // Most boxes of an object agree about its class.
            let class = if random.random_bool(0.8) { object % classes } else { random.random_range(0..classes) };
            scores[class * boxes + index] = 0.011 + 0.989 * shares[index].powi(2);
        }
        Self { classes, corners, scores }
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let bytes = |values: &mut dyn Iterator<Item = f32>| values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        fs::create_dir_all(folder)?;
        fs::write(folder.join("boxes.f32"), bytes(&mut self.corners.iter().flatten().copied()))?;
        fs::write(folder.join("scores.f32"), bytes(&mut self.scores.iter().copied()))?;
        Ok(())
    }
}

/// Median seconds of Paddle's kernel and of ours; their answers must agree.
fn compare(input: &Input, folder: &Path, setting: &Setting, paddle: &mut Paddle, turns: usize) -> Result<(f64, f64)> {
    let arguments = MatrixNmsArguments {
        score_threshold: 0.01,
        post_threshold: 0.01,
        nms_top_k: -1,
        keep_top_k: setting.keep_top_k,
        use_gaussian: setting.gaussian,
        gaussian_sigma: 2.0,
        background_label: -1,
        normalized: false,
    };
    let batch = MatrixNmsBatch {
        images: 1,
        classes: input.classes,
        boxes: input.corners.len(),
        corners: &input.corners,
        scores: &input.scores,
    };
    let mut scratch = MatrixScratch::default();
    let mut run = || {
        let start = Instant::now();
        let output = matrix_nms_batch(&batch, &arguments, &mut scratch);
        (start.elapsed(), output)
    };
    let mut request = json!({
        "folder": folder, "boxes": batch.boxes, "classes": batch.classes, "rounds": 1,
        "args": {
            "score_threshold": arguments.score_threshold, "post_threshold": arguments.post_threshold,
            "nms_top_k": arguments.nms_top_k, "keep_top_k": arguments.keep_top_k,
            "use_gaussian": arguments.use_gaussian, "gaussian_sigma": arguments.gaussian_sigma,
            "background_label": arguments.background_label, "normalized": arguments.normalized,
        },
    });
    // A first run of each warms caches and tells how many fit a turn of about 50 ms.
    let warm = paddle.ask(&request)?;
    let (elapsed, output) = run();
    let output = output.context("the lengths are right")?;
    agree(&warm.scores, &output.scores, arguments.post_threshold)?;
    let fitting = |seconds: f64| ((0.05 / seconds.max(1e-7)) as usize).clamp(1, 500);
    request["rounds"] = json!(fitting(warm.seconds[0]));
    let rounds = fitting(elapsed.as_secs_f64());
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    // A run of this length needs no second.
    let long = warm.seconds[0] > 5.0;
    if long {
        theirs.extend(&warm.seconds);
    }
    for _ in 0..turns {
        if !long {
            theirs.extend(paddle.ask(&request)?.seconds);
        }
        ours.extend((0..rounds).map(|_| run().0.as_secs_f64()));
    }
    theirs.sort_by(f64::total_cmp);
    ours.sort_by(f64::total_cmp);
    Ok((median(&theirs), median(&ours)))
}

/// Both sums are rounded in an order of their own, so a box at the very threshold may be in one answer only.
fn agree(theirs: &[f32], ours: &[f32], threshold: f32) -> Result<()> {
    let above = |scores: &[f32]| scores.iter().take_while(|score| **score > threshold + 1e-6).count();
    let (least, most) = (above(theirs).max(above(ours)), theirs.len().min(ours.len()));
    ensure!(least <= most, "Paddle keeps {} boxes, detectd {}", theirs.len(), ours.len());
    for (place, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
        ensure!((theirs - ours).abs() < 1e-4, "place {place}: Paddle's score is {theirs}, detectd's {ours}");
    }
    Ok(())
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] }
}

/// A Python process that runs Paddle's kernel on request.
struct Paddle {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    version: String,
}

#[derive(Deserialize)]
struct Answer {
    seconds: Vec<f64>,
    scores: Vec<f32>,
}

impl Paddle {
    fn start(python: &Path) -> Result<Self> {
        let worker = concat!(env!("CARGO_MANIFEST_DIR"), "/nms/paddle_worker.py");
        let mut process = Command::new(python)
            .arg(worker)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", python.display()))?;
        let requests = process.stdin.take().context("standard input")?;
        let answers = BufReader::new(process.stdout.take().context("standard output")?);
        let mut paddle = Self { process, requests, answers, version: String::new() };
        let hello: Value = serde_json::from_str(&paddle.read()?)?;
        paddle.version = hello["version"].as_str().unwrap_or("of unknown version").to_owned();
        Ok(paddle)
    }

    fn ask(&mut self, request: &Value) -> Result<Answer> {
        writeln!(self.requests, "{request}")?;
        Ok(serde_json::from_str(&self.read()?)?)
    }

    /// The next line that is JSON; Paddle may print others.
    fn read(&mut self) -> Result<String> {
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line)? == 0 {
                bail!("the Python process ended");
            }
            if line.starts_with('{') {
                return Ok(line);
            }
        }
    }

    fn stop(mut self) -> Result<()> {
        drop(self.requests);
        ensure!(self.process.wait()?.success(), "the Python process failed");
        Ok(())
    }
}
