//! Files that are no good never take over, on the engine that people use and while requests flow.

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

use detectd::config::Control;
use detectd_conformance::{Network, Operation, Port, Step, networks, onnx};
use detectd_engine::DataType;
use detectd_proto::detect::v1 as wire;
use image::{ImageFormat, RgbImage};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{Daemon, Setup, encoded, eventually, good, request};
use crate::swap::{Traffic, answering, publish, status, watching};

const MANIFEST: &str = "[preprocess]\nwidth = 32\nheight = 32\n[head]\ntype = \"yolov8\"\n[instances]\ncount = 1\n";

/// A picture with something in every corner.
fn picture() -> Vec<u8> {
    let pixel = |x: u32, y: u32| image::Rgb([x * 5 % 256, y * 7 % 256, x * y % 256].map(|value| value as u8));
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_fn(48, 40, pixel).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn ask() -> wire::DetectRequest {
    wire::DetectRequest { image: Some(encoded(picture())), ..wire::DetectRequest::default() }
}

fn write(folder: &Path, network: &Network) {
    fs::create_dir_all(folder).unwrap();
    onnx::write(network, None, &folder.join("model.onnx")).unwrap();
    fs::write(folder.join("labels.txt"), "bolt\nnut\nwasher\n").unwrap();
}

/// The golden pictures that `found` in [`picture`] makes.
fn golden(folder: &Path, found: &wire::DetectResponse) {
    fs::create_dir_all(folder.join("golden")).unwrap();
    fs::write(folder.join("golden/one.png"), picture()).unwrap();
    let boxes = found.detections.iter().map(|found| {
        let wire::BoundingBox { x1, y1, x2, y2 } = found.r#box.unwrap();
        json!({ "class_id": found.class_id, "score": found.score, "bbox": { "x1": x1, "y1": y1, "x2": x2, "y2": y2 } })
    });
    let expected = json!({ "one.png": { "width": 48, "height": 40, "detections": boxes.collect::<Vec<Value>>() } });
    fs::write(folder.join("golden/expected.json"), expected.to_string()).unwrap();
}

/// The detector with every weight's sign changed.
fn negated() -> Network {
    let mut network = networks::detector();
    for step in &mut network.steps {
        if let Operation::Convolution { weight, .. } = &mut step.operation {
            weight.iter_mut().for_each(|weight| *weight = -*weight);
        }
    }
    network
}

/// The detector with one box coordinate that is no number.
fn without_numbers() -> Network {
    let mut network = networks::detector();
    for step in &mut network.steps {
        if let Operation::Affine { scale, .. } = &mut step.operation {
            scale[2] = f32::NAN;
        }
    }
    network
}

/// The detector without its last steps.
fn beheaded() -> Network {
    let mut network = networks::detector();
    network.outputs = vec![Port { name: "sum", data_type: DataType::Fp32, dims: vec![8, 8, 8] }];
    network
}

/// No detector at all.
fn of_tensors() -> Network {
    let port = |name| Port { name, data_type: DataType::Fp32, dims: vec![2] };
    let steps = vec![Step { operation: Operation::Sigmoid, inputs: vec!["x"], output: "y" }];
    Network { name: "tensors", inputs: vec![port("x")], steps, outputs: vec![port("y")] }
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn onnx_files_that_are_no_good_are_refused_under_load() {
    let repository = tempfile::tempdir().unwrap();
    let model = repository.path().join("parts");
    write(&model.join("1"), &networks::detector());
    fs::write(model.join("model.toml"), MANIFEST).unwrap();
    let daemon = Daemon::start_in(repository, Setup { models: Vec::new(), ..watching() }).await;
    let found = daemon.client().await.detect(ask()).await.unwrap().into_inner();
    assert!(found.detections.iter().any(|found| found.score > 0.4), "clear enough for a golden picture: {found:?}");
    let traffic = Traffic::asking(&daemon, ask(), |answer| assert!(!answer.detections.is_empty())).await;

    // What is published, and what the refusal says.
    type Case<'a> = (&'a str, &'a dyn Fn(&Path));
    let digests = |folder: &Path| {
        let digest = Sha256::digest(fs::read(folder.join("model.onnx")).unwrap());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(folder.join("SHA256SUMS"), format!("{digest}  model.onnx\n")).unwrap();
    };
    let good_file = |folder: &Path| write(folder, &networks::detector());
    let cases: [Case<'_>; 9] = [
        ("is damaged or cut short", &|folder| {
            good_file(folder);
            change(&folder.join("model.onnx"), |bytes| bytes[..64].fill(0xff));
        }),
        ("is damaged or cut short", &|folder| {
            good_file(folder);
            change(&folder.join("model.onnx"), |bytes| bytes.truncate(bytes.len() / 2));
        }),
        ("it has no graph", &|folder| {
            good_file(folder);
            change(&folder.join("model.onnx"), Vec::clear);
        }),
        ("its SHA-256 digest is", &|folder| {
            good_file(folder);
            digests(folder);
            // One bit of one weight: nothing else would see it.
            change(&folder.join("model.onnx"), |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            });
        }),
        ("was expected, but not found", &|folder| {
            write(folder, &negated());
            golden(folder, &found);
        }),
        ("output \"sum\" must be [batch, 7, rows]", &|folder| write(folder, &beheaded())),
        ("output output0 [1, 7, 64]: value 128 is NaN", &|folder| write(folder, &without_numbers())),
        ("a detector takes one picture", &|folder| write(folder, &of_tensors())),
        ("output \"output0\" must be [batch, 8, rows]", &|folder| {
            good_file(folder);
            fs::write(folder.join("labels.txt"), "bolt\nnut\nwasher\nscrew\n").unwrap();
        }),
    ];
    for (version, (reason, change)) in (2..).zip(cases) {
        let hidden = model.join(".incoming");
        change(&hidden);
        fs::rename(&hidden, model.join(version.to_string())).unwrap();
        let mut last = String::new();
        eventually("it is refused", async || {
            let Some((state, said)) = status(&daemon, version).await else { return false };
            last = said;
            state == wire::ModelState::Failed
        })
        .await;
        assert!(last.contains(reason), "{reason}: {last}");
        assert_eq!(answering(&daemon).await, 1, "{reason}");
        traffic.more(4).await;
        fs::remove_dir_all(model.join(version.to_string())).unwrap();
    }
    assert!(traffic.stop().await.iter().flatten().all(|&version| version == 1));
    // The same network with the same golden picture takes over.
    let hidden = model.join(".incoming");
    write(&hidden, &networks::detector());
    golden(&hidden, &found);
    digests(&hidden);
    fs::rename(&hidden, model.join("20")).unwrap();
    eventually("it serves", || async { answering(&daemon).await == 20 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_loads_too_slowly_is_refused_under_load() {
    let setup = Setup {
        configure: |config| {
            config.repository.control = Control::Watch;
            config.repository.settle = Duration::from_millis(40);
            // Far longer than any of these models takes that does not wait.
            config.repository.load_timeout = Some(Duration::from_secs(2));
        },
        ..Setup::default()
    };
    let daemon = Daemon::start(setup).await;
    let traffic = Traffic::start(&daemon).await;
    let hold = daemon.control.hold_loads();
    publish(&daemon, 2, "load_waits");
    eventually("it is refused", || async {
        let said = status(&daemon, 2).await.map(|(_, said)| said).unwrap_or_default();
        said.contains("it took longer than repository.load_timeout_ms, 2000")
    })
    .await;
    assert_eq!(answering(&daemon).await, 1);
    traffic.more(20).await;
    publish(&daemon, 3, "");
    eventually("the one that is left in its thread holds up no other", || async { answering(&daemon).await == 3 })
        .await;
    drop(hold);
    eventually("what it loads too late is freed", || async { daemon.control.alive() == 1 }).await;
    let versions = traffic.stop().await.concat();
    assert!(!versions.contains(&2), "it never answered");
    daemon.client().await.detect(request(good(1))).await.unwrap();
}
