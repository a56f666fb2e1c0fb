//! The libtorch engine behind the daemon: one network in two forms, on two engines, gives the same boxes.

use std::fs;
use std::path::Path;

use detectd_proto::detect::v1 as wire;

use crate::support::{Daemon, Setup, encoded};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_from_its_yaml_answers_as_the_embedded_engine_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let published = root.join("deploy/models/workbench/1");
    let repository = tempfile::tempdir().unwrap();
    for (name, manifest) in
        [("onnx", ""), ("native", "engine = \"libtorch\"\nfile = \"model.yaml\"\ninput_size = [320, 320]\n")]
    {
        let version = repository.path().join(name).join("1");
        fs::create_dir_all(&version).unwrap();
        fs::write(version.with_file_name("model.toml"), format!("family = \"yolov5\"\n{manifest}")).unwrap();
        fs::copy(published.join("labels.txt"), version.join("labels.txt")).unwrap();
        if name == "onnx" {
            fs::copy(published.join("model.onnx"), version.join("model.onnx")).unwrap();
        } else {
            let layers = fs::read_to_string(root.join("engines/libtorch/models/yolov5-v6.yaml")).unwrap();
            let layers = layers.replace("nc: 80", "nc: 8").replace("width_multiple: 0.50", "width_multiple: 0.25");
            fs::write(version.join("model.yaml"), layers).unwrap();
            let weights = root.join("deploy/training/workbench.safetensors");
            fs::copy(weights, version.join("model.safetensors")).unwrap();
        }
    }
    let daemon = Daemon::start_in(repository, Setup { models: Vec::new(), ..Setup::default() }).await;
    let mut client = daemon.client().await;
    let mut boxes = 0;
    for picture in fs::read_dir(published.join("golden")).unwrap() {
        let path = picture.unwrap().path();
        if path.extension().is_none_or(|extension| extension == "json") {
            continue;
        }
        let mut found = Vec::new();
        for model in ["onnx", "native"] {
            let image = Some(encoded(fs::read(&path).unwrap()));
            let request = wire::DetectRequest { model: model.into(), image, ..wire::DetectRequest::default() };
            found.push(client.detect(request).await.unwrap().into_inner().detections);
        }
        let (expected, got) = (&found[0], &found[1]);
        assert_eq!(got.len(), expected.len(), "{}: {got:?}, expected {expected:?}", path.display());
        for (got, expected) in got.iter().zip(expected) {
            let sides = |detection: &wire::Detection| {
                let area = detection.r#box.unwrap();
                [area.x1, area.y1, area.x2, area.y2]
            };
            let near = sides(got).iter().zip(sides(expected)).all(|(got, expected)| (got - expected).abs() < 0.5);
            let same = got.label == expected.label && (got.score - expected.score).abs() < 0.01 && near;
            assert!(same, "{}: {got:?}, expected {expected:?}", path.display());
            boxes += 1;
        }
    }
    assert!(boxes >= 5, "only {boxes} boxes were compared");
    daemon.nothing_pending().await;
}
