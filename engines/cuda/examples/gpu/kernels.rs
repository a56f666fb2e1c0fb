//! What the kernels take.

use std::sync::Arc;
use std::time::Instant;

use bytemuck::cast_slice;
use detectd_cuda::layout::{self, Number};
use detectd_cuda::{
    Asked, CudaError, Device, DeviceOutput, InputLayout, Launching, Letterboxes, Limits, Memory as _, Postprocess,
    Queue, Stream, Upload, describe,
};
use detectd_vision::{DetectOptions, Head, Image, Letterbox, MatrixNms, Nms, Preprocess};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Outcome, Report};

pub const CLASSES: usize = 80;
const REPEATS: usize = 20;
const ROUNDS: usize = 10;

/// Outputs on the device, and what makes boxes of them.
pub struct Scene {
    pub queue: Stream,
    pub head: layout::Head,
    pub asked: Vec<Asked>,
    pub postprocess: Postprocess<Stream>,
    _outputs: Vec<Upload<Stream>>,
}

impl Scene {
    /// For `pictures` with the outputs of a head.
    pub fn new(
        device: &Arc<Device>,
        head: &Head,
        pictures: usize,
        outputs: &[(Vec<usize>, Vec<f32>)],
        options: &DetectOptions,
    ) -> Result<Self, CudaError> {
        let queue = Stream::new(device)?;
        let mut sent = Vec::new();
        for (_, values) in outputs {
            let mut upload = Upload::new(&queue, values.len() * 4)?;
            upload.send(&queue, values.len() * 4, |bytes| bytes.copy_from_slice(cast_slice(values)))?;
            sent.push(upload);
        }
        let described: Vec<DeviceOutput<'_>> = outputs
            .iter()
            .zip(&sent)
            .map(|((shape, _), upload)| DeviceOutput {
                name: "output",
                shape,
                address: upload.address(),
                number: Number::Float32,
            })
            .collect();
        let preprocess = Preprocess::yolov5(640, 640);
        let description = describe(head, &described, CLASSES, (640, 640))?;
        let limits = Limits { pictures: pictures as u32, rows: description.rows, classes: CLASSES as u32 };
        let letterbox = Letterbox::new((1280, 720), &preprocess);
        let asked = vec![Asked::new(head, options, &letterbox); pictures];
        let postprocess = Postprocess::new(&queue, limits)?;
        queue.finish()?;
        Ok(Self { queue, head: description, asked, postprocess, _outputs: sent })
    }

    pub fn run(&mut self, slot: usize) -> Result<(), CudaError> {
        // SAFETY: the outputs live in this structure, and the description is made of them.
        #[expect(unsafe_code)]
        unsafe {
            self.postprocess.run(&self.queue, slot, &self.head, &self.asked, Launching::AsGraph)
        }
    }

    fn milliseconds(&mut self) -> Result<f64, CudaError> {
        let queue = self.queue.clone();
        least(&queue, &mut |slot| self.run(slot))
    }
}

/// The least time of many, in milliseconds: each is the mean of several that follow each other without waiting.
fn least(queue: &Stream, work: &mut dyn FnMut(usize) -> Result<(), CudaError>) -> Result<f64, CudaError> {
    let mut least = f64::INFINITY;
    for _ in 0..=ROUNDS {
        queue.finish()?;
        let start = Instant::now();
        for repeat in 0..REPEATS {
            work(repeat)?;
        }
        queue.finish()?;
        least = least.min(start.elapsed().as_secs_f64() * 1e3 / REPEATS as f64);
    }
    Ok(least)
}

/// Boxes around a few hundred places.
pub fn boxes(random: &mut ChaCha8Rng, count: usize) -> Vec<[f32; 4]> {
    let places: Vec<[f32; 3]> = (0..count / 20 + 1)
        .map(|_| [random.random_range(20.0..600.0), random.random_range(20.0..600.0), random.random_range(8.0..120.0)])
        .collect();
    let one = |_| {
        let [x, y, size] = places[random.random_range(0..places.len())];
        let mut near = |at: f32| at + random.random_range(-0.2..0.2) * size;
        let (left, top) = (near(x), near(y));
        [left, top, left + near(size), top + near(size)]
    };
    (0..count).map(one).collect()
}

/// Letterbox, and decoding with Matrix NMS, of 16 pictures with some 300 candidates each.
pub fn batch_of_16(report: &mut Report, device: &Arc<Device>) {
    let step = "letterbox, decoding and Matrix NMS at batch 16";
    match (letterbox(device), finished_rows(device)) {
        (Ok(letterbox), Ok(boxes)) => {
            report.figure("letterbox_ms", letterbox);
            report.figure("decode_nms_ms", boxes);
            let both = letterbox + boxes;
            let share = report.number("forward_ms").map(|forward| 100.0 * both / forward);
            let beside =
                share.map_or(String::new(), |share| format!(", {share:.1} % of the forward pass (goal: below 5)"));
            if let Some(share) = share {
                report.figure("share_of_forward_percent", share);
            }
            let detail = format!("{letterbox:.3} + {boxes:.3} ms{beside}");
            report.add(step, Outcome::Passed, detail);
        }
        (letterbox, boxes) => {
            let error = letterbox.err().or(boxes.err()).map_or(String::new(), |error| error.to_string());
            report.add(step, Outcome::Failed, error);
        }
    }
}

fn letterbox(device: &Arc<Device>) -> Result<f64, CudaError> {
    let (copies, queue) = (Stream::new(device)?, Stream::new(device)?);
    let preprocess = Preprocess::yolov5(640, 640);
    let bytes = 16 * preprocess.input_len() * 2;
    let memory = queue.allocate(bytes)?;
    let images: Vec<Image> = (0..16).map(|at| Image::filled(1280, 720, [at * 15, 255 - at, 7])).collect();
    let mut letterboxes = Letterboxes::new(&copies, &preprocess, 16)?;
    letterboxes.send(&copies, 0, &images.iter().collect::<Vec<_>>())?;
    copies.finish()?;
    let input = InputLayout { address: memory.address(), number: Number::Float16, interleaved: true, bytes };
    // SAFETY: the memory is the input's size and lives until all is done.
    #[expect(unsafe_code)]
    least(&queue.clone(), &mut |_| unsafe { letterboxes.run(&queue, 0, &input).map(drop) })
}

fn finished_rows(device: &Arc<Device>) -> Result<f64, CudaError> {
    let (pictures, rows) = (16, 25_200);
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut values = Vec::with_capacity(pictures * rows * (5 + CLASSES));
    for _ in 0..pictures {
        for [left, top, right, bottom] in boxes(&mut random, rows) {
            let objectness = if random.random_bool(300.0 / rows as f64) { 0.9 } else { 0.01 };
            values.extend([(left + right) / 2.0, (top + bottom) / 2.0, right - left, bottom - top, objectness]);
            values.extend((0..CLASSES).map(|_| random.random_range(0.0..0.95_f32)));
        }
    }
    let output = (vec![pictures, rows, 5 + CLASSES], values);
    let mut scene = Scene::new(device, &Head::Yolov5, pictures, &[output], &DetectOptions::default())?;
    scene.milliseconds()
}

/// One picture whose candidates are spread over 80 classes.
pub fn spread(count: usize) -> [(Vec<usize>, Vec<f32>); 2] {
    let mut random = ChaCha8Rng::seed_from_u64(count as u64);
    let corners: Vec<f32> = boxes(&mut random, count).into_iter().flatten().collect();
    let mut scores = vec![0.0; count * CLASSES];
    for row in scores.chunks_exact_mut(CLASSES) {
        row[random.random_range(0..CLASSES)] = random.random_range(0.3..1.0);
    }
    [(vec![1, count, 4], corners), (vec![1, count, CLASSES], scores)]
}

pub fn options() -> DetectOptions {
    let nms = Nms::Matrix(MatrixNms { post_threshold: 0.05, ..MatrixNms::default() });
    DetectOptions { score_threshold: 0.1, nms, ..DetectOptions::default() }
}

/// From scores to kept boxes, threshold, sorting and all, by the number of candidates.
pub fn by_candidates(report: &mut Report, device: &Arc<Device>) {
    let mut figures = serde_json::Map::new();
    for count in [1000, 2000, 5000, 10_000, 25_200] {
        let measured = Scene::new(device, &Head::BoxesScores, 1, &spread(count), &options())
            .and_then(|mut scene| scene.milliseconds());
        match measured {
            Ok(milliseconds) => {
                figures.insert(count.to_string(), milliseconds.into());
                report.add(
                    &format!("Matrix NMS, {count} of 80 classes"),
                    Outcome::Passed,
                    format!("{milliseconds:.3} ms"),
                );
            }
            Err(error) => report.add(&format!("Matrix NMS, {count} of 80 classes"), Outcome::Failed, error.to_string()),
        }
    }
    report.figure("matrix_nms_ms", figures);
}
