//! Pictures in, boxes out: the network's answers through the same decoding and suppression that the daemon uses.

use anyhow::{Result, ensure};
use detectd_libtorch::network::{Decoder, Network, Pass};
use detectd_vision::{
    DetectOptions, Detection, GreedyNms, Head, Image, Letterbox, Nms, NmsScratch, OutputData, OutputView, Preprocess,
    Resizer,
};
use tch::{Kind, Tensor};

/// Detects with a network that is being trained or has been.
pub struct Predictor<'a> {
    network: &'a Network,
    preprocess: Preprocess,
    precision: Kind,
    resizer: Resizer,
    scratch: NmsScratch,
}

impl<'a> Predictor<'a> {
    /// A predictor whose pictures are letterboxed to `input` x `input`.
    #[must_use]
    pub fn new(network: &'a Network, input: u32, precision: Kind) -> Self {
        let preprocess = Preprocess::yolov5(input, input);
        Self { network, preprocess, precision, resizer: Resizer::default(), scratch: NmsScratch::default() }
    }

    /// How YOLOv5's results are measured: every class of a box counts, greedy suppression at 0.65.
    #[must_use]
    pub fn evaluation_options() -> DetectOptions {
        DetectOptions {
            score_threshold: 0.001,
            nms: Nms::Greedy(GreedyNms { iou_threshold: 0.65, top_k: None, eta: 1.0 }),
            max_detections: 300,
            multi_label: true,
            ..DetectOptions::default()
        }
    }

    /// The detections in each picture, in its own pixels, best first.
    pub fn detect(&mut self, pictures: &[&Image], options: &DetectOptions) -> Result<Vec<Vec<Detection>>> {
        if pictures.is_empty() {
            return Ok(Vec::new());
        }
        let length = self.preprocess.input_len();
        let mut input = vec![0.0_f32; length * pictures.len()];
        let mut letterboxes: Vec<Letterbox> = Vec::with_capacity(pictures.len());
        for (picture, input) in pictures.iter().zip(input.chunks_exact_mut(length)) {
            letterboxes.push(self.preprocess.run(picture, input, &mut self.resizer)?);
        }
        let (height, width) = (i64::from(self.preprocess.height), i64::from(self.preprocess.width));
        let input = Tensor::f_from_slice(&input)?.f_view([-1, 3, height, width])?;
        let input = input.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?;
        let pass = Pass { training: false, precision: self.precision };
        let rows = tch::no_grad(|| {
            let levels = self.network.forward(&input, pass)?;
            Decoder::new(&self.network.plan().detect)?.decode(&levels)
        })?;
        let shape: Vec<usize> = rows.size().iter().map(|side| usize::try_from(*side)).collect::<Result<_, _>>()?;
        let values = Vec::<f32>::try_from(rows.f_contiguous()?.f_view([-1])?)?;
        ensure!(values.len() == shape.iter().product::<usize>(), "{} values for {shape:?}", values.len());
        let view = [OutputView { name: "output", shape: &shape, data: OutputData::F32(&values) }];
        let scratch = &mut self.scratch;
        let detect = |(image, letterbox): (usize, &Letterbox)| {
            Ok(Head::Yolov5.detect(&view, image, letterbox, options, scratch)?)
        };
        letterboxes.iter().enumerate().map(detect).collect()
    }
}
