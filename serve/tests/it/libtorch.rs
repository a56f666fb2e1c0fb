//! The libtorch engine behind the daemon: one network in two forms, on two engines, gives the same boxes; and what has no
//! memory for a batch.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use detectd_proto::detect::v1 as wire;
use detectd_proto::detect::v1::image_result;
use tonic::Code;
use zip::CompressionMethod;
use zip::write::{FileOptions, ZipWriter};

use crate::support::{Daemon, Setup, encoded, png};

/// Takes 256 TiB, twice what a process can address, for more than two [`RED`] pictures and for any [`BLUE`] one. It
/// answers with one box, of class 1 where the picture is red.
const HUNGRY: &str = "\
class Hungry(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  def forward(self: __torch__.Hungry,
    x: Tensor) -> Tensor:
    bright = torch.to(torch.gt(torch.amax(x, [2, 3]), 0.98999999999999999), 6)
    red = torch.select(bright, 1, 0)
    blue = torch.select(bright, 1, 2)
    wanted = torch.add(torch.sum(red), torch.mul(torch.sum(blue), 3))
    if bool(torch.gt(wanted, 2)):
      room = 70368744177664
    else:
      room = 1
    memory = torch.sum(torch.ones([room]))
    nothing = torch.mul(red, 0)
    near = torch.add(nothing, 8)
    far = torch.add(nothing, 56)
    score = torch.add(nothing, torch.mul(memory, 0.5))
    row = torch.stack([near, near, far, far, score, red], 1)
    return torch.unsqueeze(row, 1)
";
const RED: [u8; 3] = [255, 0, 0];
const BLUE: [u8; 3] = [0, 0, 255];
const DARK: [u8; 3] = [0, 0, 0];

/// The archive of [`HUNGRY`], which has no weights, as `torch.jit.save` lays it out.
fn write_hungry(path: &Path) {
    let parts: [(&str, &[u8]); 4] = [
        ("data.pkl", b"\x80\x02c__torch__\nHungry\n)\x81}(X\x08\0\0\0training\x89ub."),
        ("code/__torch__.py", HUNGRY.as_bytes()),
        ("constants.pkl", b"\x80\x02)."),
        ("version", b"3\n"),
    ];
    let mut archive = ZipWriter::new(File::create(path).unwrap());
    for (name, bytes) in parts {
        let stored = FileOptions::default().compression_method(CompressionMethod::Stored);
        archive.start_file(format!("model/{name}"), stored).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_libtorch_has_no_memory_for_is_halved() {
    let repository = tempfile::tempdir().unwrap();
    let version = repository.path().join("hungry/1");
    fs::create_dir_all(&version).unwrap();
    write_hungry(&version.join("model.pt"));
    // Six pictures make a batch, however long they take to come.
    let manifest = "engine = \"libtorch\"\nfamily = \"yolov5\"\nlabels = [\"dark\", \"red\"]\ninput_size = [64, 64]\n\
                    [instances]\ncount = 1\n[batching]\nmax_batch_size = 6\nmax_delay_us = 60000000\n";
    fs::write(version.with_file_name("model.toml"), manifest).unwrap();
    let daemon = Daemon::start_in(repository, Setup { models: Vec::new(), ..Setup::default() }).await;
    let mut client = daemon.client().await;
    let mut detect = async |colours: [[u8; 3]; 6]| {
        let images = colours.iter().map(|&rgb| encoded(png(rgb))).collect();
        let request = wire::DetectBatchRequest { images, ..wire::DetectBatchRequest::default() };
        let results = client.detect_batch(request).await.unwrap().into_inner().results;
        results.into_iter().map(|result| result.result.expect("one or the other")).collect::<Vec<_>>()
    };

    // There is memory for two red ones: six become three and three, and those one and two each.
    let mut sizes: Vec<u32> = detect([RED; 6]).await.into_iter().map(|result| answered(result, "red")).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 1, 2, 2, 2, 2]);

    // Who has no memory alone is told so, and its neighbours are answered.
    let mut results = detect([DARK, DARK, BLUE, DARK, RED, DARK]).await;
    match results.remove(2) {
        image_result::Result::Error(error) => assert_eq!(error.code, Code::ResourceExhausted as i32, "{error:?}"),
        image_result::Result::Response(response) => panic!("no memory, but an answer: {response:?}"),
    }
    for (result, label) in results.into_iter().zip(["dark", "dark", "dark", "red", "dark"]) {
        answered(result, label);
    }
    daemon.nothing_pending().await;
}

/// Checks an answer of the hungry module; gives the size of its execution.
fn answered(result: image_result::Result, label: &str) -> u32 {
    match result {
        image_result::Result::Response(response) => {
            assert_eq!(response.detections.len(), 1, "{response:?}");
            assert_eq!(response.detections[0].label, label);
            response.timings.unwrap().batch_size
        }
        image_result::Result::Error(error) => panic!("a {label} picture: {error:?}"),
    }
}

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
