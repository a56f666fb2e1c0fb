//! The exports that users have: one trained network with its raw heads, with decoded rows, with both, with corners and
//! scores, and with suppression inside. Each gives the boxes that its version was published with.
#![cfg(feature = "libtorch")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use detectd_engine::{BatchSize, DetectScratch, DetectorOptions, Engine, LoadOptions, Picture};
use detectd_libtorch::load;
use detectd_libtorch::network::{Decoder, ModelYaml, Network, Pass, Plan, read_safetensors};
use detectd_vision::{
    BoundingBox, DecodeLimits, DetectOptions, Detection, GreedyNms, Head, Nms, Preprocess, Resizer, decode,
};
use serde_json::Value;
use support::{options, returning, rewrite, trace, yolov5};
use tch::{Kind, Tensor};
use tempfile::TempDir;

const CLASSES: usize = 8;
const SIDE: u32 = 320;
/// Boxes that an export with suppression inside gives for each picture.
const FINISHED: i64 = 100;
const IOU: f32 = 0.45;

/// The bundled detector.
struct Detector {
    network: Network,
    decoder: Decoder,
}

impl Detector {
    fn read() -> Self {
        let text = include_str!("../models/yolov5-v6.yaml").replace("nc: 80", &format!("nc: {CLASSES}"));
        let model = ModelYaml::parse(&text.replace("width_multiple: 0.50", "width_multiple: 0.25")).unwrap();
        let (weights, _) = read_safetensors(&root().join("deploy/training/workbench.safetensors")).unwrap();
        let network = Network::with_weights(Plan::new(&model).unwrap(), weights).unwrap().folded().unwrap();
        let decoder = Decoder::new(&network.plan().detect).unwrap().for_input(SIDE as usize, SIDE as usize).unwrap();
        Self { network, decoder }
    }

    fn levels(&self, pictures: &Tensor) -> Vec<Tensor> {
        self.network.forward(pictures, Pass::INFERENCE).unwrap()
    }

    fn rows(&self, pictures: &Tensor) -> Tensor {
        self.decoder.decode(&self.levels(pictures)).unwrap()
    }

    /// Corners `[N, M, 4]` and, for each class, scores `[N, M, classes]`.
    fn corners_and_scores(&self, pictures: &Tensor) -> (Tensor, Tensor) {
        let rows = self.rows(pictures);
        let (centre, half) = (rows.narrow(2, 0, 2), rows.narrow(2, 2, 2) * 0.5);
        let corners = Tensor::cat(&[&centre - &half, &centre + &half], 2);
        (corners, rows.narrow(2, 4, 1) * rows.narrow(2, 5, CLASSES as i64))
    }

    /// Rows of corners, score, class `[N, 100, 6]`: the best boxes, of which those have the score 0 that overlap a better
    /// one of their class.
    fn finished(&self, pictures: &Tensor) -> Tensor {
        let (corners, scores) = self.corners_and_scores(pictures);
        let (scores, classes) = scores.max_dim(2, false);
        let (scores, places) = scores.topk(FINISHED, 1, true, true);
        let classes = classes.gather(1, &places, false);
        let corners = corners.gather(1, &places.unsqueeze(2).expand([-1, -1, 4], false), false);
        let (low, high) = (corners.narrow(2, 0, 2), corners.narrow(2, 2, 2));
        let shared = high.unsqueeze(2).minimum(&high.unsqueeze(1)) - low.unsqueeze(2).maximum(&low.unsqueeze(1));
        let shared = shared.clamp_min(0.0).prod_dim_int(3, false, Kind::Float);
        let area = (&high - &low).prod_dim_int(2, false, Kind::Float);
        let overlaps = &shared / (area.unsqueeze(2) + area.unsqueeze(1) - &shared);
        let of_its_class = classes.unsqueeze(2).eq_tensor(&classes.unsqueeze(1)).to_kind(Kind::Float);
        let most = (overlaps * of_its_class).triu(1).amax([1], false);
        let scores = scores * most.le(f64::from(IOU)).to_kind(Kind::Float);
        Tensor::cat(&[corners, scores.unsqueeze(2), classes.unsqueeze(2).to_kind(Kind::Float)], 2)
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The golden pictures as the network takes them, with the boxes recorded for them.
fn golden() -> (Vec<Picture>, Vec<Vec<Detection>>) {
    let folder = root().join("deploy/models/workbench/1/golden");
    let recorded = fs::read_to_string(folder.join("expected.json")).unwrap();
    let recorded: BTreeMap<String, Value> = serde_json::from_str(&recorded).unwrap();
    let preprocess = Preprocess::yolov5(SIDE, SIDE);
    let read = |(name, recorded): (&String, &Value)| {
        let bytes = fs::read(folder.join(name)).unwrap();
        let image = decode(&bytes, &DecodeLimits::default(), Vec::new()).unwrap().image;
        let mut input = vec![0.0; preprocess.input_len()];
        let letterbox = preprocess.run(&image, &mut input, &mut Resizer::default()).unwrap();
        let boxes = recorded["detections"].as_array().unwrap().iter().map(|detection| {
            let number = |value: &Value| value.as_f64().unwrap() as f32;
            let [x1, y1, x2, y2] = ["x1", "y1", "x2", "y2"].map(|side| number(&detection["bbox"][side]));
            let class_id = detection["class_id"].as_u64().unwrap() as u32;
            Detection { class_id, score: number(&detection["score"]), bbox: BoundingBox::new(x1, y1, x2, y2) }
        });
        (Picture::Letterboxed { input, letterbox }, boxes.collect())
    };
    recorded.iter().map(read).unzip()
}

/// Both ways round, so that neither has a box that the other lacks.
fn assert_same(got: &[Vec<Detection>], expected: &[Vec<Detection>], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: pictures");
    for (picture, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.len(), expected.len(), "{what}, picture {picture}: {got:?}, expected {expected:?}");
        for (got, expected) in got.iter().zip(expected) {
            let same = got.class_id == expected.class_id
                && got.bbox.iou(&expected.bbox) > 0.99
                && (got.score - expected.score).abs() < 0.002;
            assert!(same, "{what}, picture {picture}: {got:?}, expected {expected:?}");
        }
    }
}

fn detect(engine: &mut dyn Engine, pictures: &[Picture], options: &DetectOptions) -> Vec<Vec<Detection>> {
    let options = vec![options.clone(); pictures.len()];
    engine.detect(pictures, &options, &mut DetectScratch::default()).unwrap().detections
}

/// How a form is traced from the network, and what the archive's code then gives.
type Form<'a> = (&'a str, &'a dyn Fn(&Detector, &Tensor) -> Vec<Tensor>, Option<(&'a str, Returned)>);
type Returned = fn(&[&str]) -> String;

#[test]
fn every_form_gives_the_boxes_that_were_published() {
    let folder = TempDir::new().unwrap();
    let detector = Detector::read();
    let (pictures, published) = golden();
    assert!(published.iter().map(Vec::len).sum::<usize>() >= 20);
    let greedy = DetectOptions {
        nms: Nms::Greedy(GreedyNms { iou_threshold: IOU, ..GreedyNms::default() }),
        ..DetectOptions::default()
    };
    let forms: [Form<'_>; 5] = [
        ("yolov5", &|detector, x| vec![detector.rows(x)], None),
        ("yolov5_levels", &|detector, x| detector.levels(x), None),
        (
            "yolov5",
            &|detector, x| std::iter::once(detector.rows(x)).chain(detector.levels(x)).collect(),
            Some(("Tuple[Tensor, List[Tensor]]", |v| format!("({}, [{}, {}, {}])", v[0], v[1], v[2], v[3]))),
        ),
        ("boxes_scores", &|detector, x| <[Tensor; 2]>::from(detector.corners_and_scores(x)).into(), None),
        ("end_to_end", &|detector, x| vec![detector.finished(x)], None),
    ];
    let mut suppressed: Option<Vec<Vec<Detection>>> = None;
    for (head, form, code) in forms {
        let path = folder.path().join("model.pt");
        let example = Tensor::zeros([1, 3, i64::from(SIDE), i64::from(SIDE)], (Kind::Float, tch::Device::Cpu));
        trace(&path, &[example], |inputs| form(&detector, &inputs[0]));
        if let Some((kind, value)) = code {
            rewrite(&path, |code| returning(&code, kind, value));
        }
        let options = LoadOptions {
            device: support::device(),
            max_batch: pictures.len(),
            detector: Some(DetectorOptions { input_size: Some((SIDE, SIDE)), ..yolov5(CLASSES) }),
            ..options(path)
        };
        let model = load(&options).unwrap_or_else(|error| panic!("{head}: {error}"));
        let found = &model.spec().detector.as_ref().unwrap().head;
        assert_eq!(found.name(), head);
        assert_eq!(model.spec().batch, BatchSize::UpTo(pictures.len()), "{head}");
        let mut engine = model.open().unwrap();
        if matches!(found, Head::EndToEnd) {
            let expected = suppressed.as_ref().expect("rows come first");
            assert_same(&detect(&mut *engine, &pictures, &greedy), expected, head);
            continue;
        }
        assert_same(&detect(&mut *engine, &pictures, &DetectOptions::default()), &published, head);
        // What suppression inside the module is compared with.
        suppressed.get_or_insert_with(|| detect(&mut *engine, &pictures, &greedy));
    }
}
