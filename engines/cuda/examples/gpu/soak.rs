//! Batch after batch for a long time, with an eye on memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use detectd_cuda::layout::Number;
use detectd_cuda::{CudaError, Device, InputLayout, Letterboxes, Memory as _, Queue, Stream};
use detectd_vision::{Head, Image, Preprocess};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::kernels::{Scene, options, spread};
use crate::{Outcome, Report};

/// Between two looks at memory.
const LOOK: Duration = Duration::from_secs(5);
/// Memory may grow by this after the first fifth of the time.
const GROWTH: u64 = 32 << 20;

/// A look: seconds since the beginning, bytes on the device, bytes of the process.
type Look = (f64, u64, u64);

pub fn run(report: &mut Report, device: &Arc<Device>, seconds: u64) {
    let step = format!("soak of {seconds} s");
    match soak(device, Duration::from_secs(seconds)) {
        Ok((batches, looks)) => {
            for (at, used, resident) in &looks {
                println!("soak: {at:6.0} s, {} MiB on the device, {} MiB of the process", used >> 20, resident >> 20);
            }
            let settled = looks.len() / 5;
            let grown = |of: fn(&Look) -> u64| {
                let first = looks.get(settled).map_or(0, of);
                looks.last().map_or(0, of).saturating_sub(first)
            };
            let (device, process) = (grown(|look| look.1), grown(|look| look.2));
            let outcome = if device.max(process) <= GROWTH { Outcome::Passed } else { Outcome::Failed };
            let detail = format!(
                "{batches} batches; grown by {} KiB on the device, {} KiB of the process",
                device >> 10,
                process >> 10
            );
            report.figure("soak_batches", batches);
            report.figure("soak_growth_bytes", device.max(process));
            report.add(&step, outcome, detail);
        }
        Err(error) => report.add(&step, Outcome::Failed, error.to_string()),
    }
}

fn soak(device: &Arc<Device>, time: Duration) -> Result<(u64, Vec<Look>), CudaError> {
    let (copies, queue) = (Stream::new(device)?, Stream::new(device)?);
    let preprocess = Preprocess::yolov5(640, 640);
    let bytes = 8 * preprocess.input_len() * 4;
    let memory = queue.allocate(bytes)?;
    let input = InputLayout { address: memory.address(), number: Number::Float32, interleaved: true, bytes };
    let mut letterboxes = Letterboxes::new(&copies, &preprocess, 8)?;
    let mut scene = Scene::new(device, &Head::BoxesScores, 1, &spread(5000), &options())?;
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let mut looks = Vec::new();
    let start = Instant::now();
    let (mut batches, mut kept) = (0, None);
    while start.elapsed() < time {
        if start.elapsed() >= LOOK * looks.len() as u32 {
            let (free, all) = device.memory()?;
            looks.push((start.elapsed().as_secs_f64(), (all - free) as u64, resident()));
        }
        // Pictures of ever other sizes, so that buffers and taps are made anew.
        let images: Vec<Image> = (0..random.random_range(1..=8))
            .map(|_| Image::filled(random.random_range(16..2000), random.random_range(16..2000), random.random()))
            .collect();
        let slot = batches as usize;
        letterboxes.send(&copies, slot, &images.iter().collect::<Vec<_>>())?;
        // SAFETY: the memory is the input's size and lives until all is done.
        #[expect(unsafe_code)]
        unsafe {
            letterboxes.run(&queue, slot, &input)?;
        }
        scene.run(slot)?;
        let answer = scene.postprocess.answer(&scene.queue, slot)?;
        let before = kept.get_or_insert_with(|| answer.clone());
        if *before != answer {
            return Err(CudaError::Driver(format!("batch {batches} has other boxes than the first")));
        }
        batches += 1;
    }
    queue.finish()?;
    Ok((batches, looks))
}

fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
