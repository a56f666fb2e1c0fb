//! The program itself, as people run it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use std::{fs, str};

use detectd::config::{Config, Control};
use detectd_vision::BoundingBox;
use serde_json::Value;

use crate::support::{Daemon, Setup, eventually, png, write_version};

/// `detectd` without the settings of whoever runs the tests.
fn command(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_detectd"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DETECTD_")) {
        command.env_remove(name);
    }
    command.args(arguments).current_dir(folder);
    command
}

fn detectd(arguments: &[&str], folder: &Path) -> Output {
    command(arguments, folder).output().expect("detectd runs")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}

/// The bundled model finds what it found when it was published, through the daemon and the client.
#[test]
fn the_demo_shows_the_published_boxes() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let output = detectd(&["demo", "--json", "--out", out.to_str().expect("UTF-8")], folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let demo: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/models/workbench/1/golden/expected.json");
    let golden: Value = serde_json::from_str(&fs::read_to_string(golden).expect("read")).expect("JSON");
    let pictures = demo["pictures"].as_array().expect("pictures");
    assert_eq!(pictures.len(), golden.as_object().expect("pictures").len());
    for picture in pictures {
        let expected = &golden[picture["file"].as_str().expect("a name")];
        assert_eq!((&picture["width"], &picture["height"]), (&expected["width"], &expected["height"]));
        same_boxes(picture, expected);
        let copy = fs::read(picture["annotated"].as_str().expect("a path")).expect("the annotated copy");
        let size = detectd_vision::probe(&copy).map(|info| (info.width.into(), info.height.into()));
        assert_eq!(size, Ok((picture["width"].clone(), picture["height"].clone())));
    }
    let moved = |name: &str| {
        let metrics = demo["metrics"].as_array().expect("metrics").iter();
        metrics.filter(|metric| metric["name"].as_str().is_some_and(|text| text.starts_with(name))).count()
    };
    assert_eq!(moved("nv_inference_request_success{"), 1);
    assert!(moved("detectd_stage_duration_seconds_count{") >= 4);
}

fn same_boxes(picture: &Value, expected: &Value) {
    let name = &picture["file"];
    let (found, expected) = (&picture["detections"], &expected["detections"]);
    let (found, expected) = (found.as_array().expect("boxes"), expected.as_array().expect("boxes"));
    assert_eq!(found.len(), expected.len(), "{name}");
    for want in expected {
        let number = |value: &Value| value.as_f64().expect("a number") as f32;
        let corners = ["x1", "y1", "x2", "y2"].map(|corner| number(&want["bbox"][corner]));
        let want_box = BoundingBox::new(corners[0], corners[1], corners[2], corners[3]);
        let matches = found.iter().any(|got| {
            let corners: Vec<_> = got["box"].as_array().expect("a box").iter().map(number).collect();
            let got_box = BoundingBox::new(corners[0], corners[1], corners[2], corners[3]);
            got["label"] == want["label"]
                && (number(&got["score"]) - number(&want["score"])).abs() < 0.02
                && got_box.iou(&want_box) > 0.95
        });
        assert!(matches, "{name}: {want} is not among {found:?}");
    }
}

#[test]
fn without_arguments_the_help_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = detectd(&[], folder.path());
    assert!(text(&output.stderr).contains("detectd <COMMAND>"), "{}", text(&output.stderr));
}

#[test]
fn check_lists_every_problem_and_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    for (model, manifest) in [("bolts", "famly = \"yolov5\"\n"), ("nuts", "family = \"yolov5\"\n")] {
        fs::create_dir_all(folder.path().join("models").join(model).join("1")).expect("created");
        fs::write(folder.path().join("models").join(model).join("model.toml"), manifest).expect("written");
    }
    let output = detectd(&["check"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output.stdout);
    assert!(shown.contains("famly") && shown.contains("model.onnx") && shown.contains("2 problems"), "{shown}");
}

#[test]
fn check_prints_the_settings_in_effect_with_their_places() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("models")).expect("created");
    fs::write(folder.path().join("detectd.toml"), "[log]\nlevel = \"warn\"\n").expect("written");
    let output = detectd(&["check", "--print-config", "--set", "limits.max_detections=7"], folder.path());
    let shown = text(&output.stdout);
    assert!(shown.contains("level = \"warn\"  # default: \"info\""), "{shown}");
    assert!(shown.contains("max_detections = 7  # default: 1000"), "{shown}");
    fs::write(folder.path().join("detectd.toml"), "[log]\nlevl = \"warn\"\n").expect("written");
    let output = detectd(&["check"], folder.path());
    let shown = text(&output.stderr);
    assert!(shown.contains("unknown key log.levl; did you mean log.level?"), "{shown}");
    assert!(shown.contains("detectd.toml, line 2"), "{shown}");
}

/// One bad file does not stop the others, and the exit status tells.
#[tokio::test(flavor = "multi_thread")]
async fn detect_sends_folders_and_reports_what_failed() {
    let mut daemon = Daemon::start(Setup::default()).await;
    let server = daemon.grpc.to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let pictures = folder.path().join("pictures");
    fs::create_dir_all(pictures.join("deep")).expect("created");
    fs::write(pictures.join("a.png"), png([200, 10, 10])).expect("written");
    fs::write(pictures.join("b.jpg"), "no picture").expect("written");
    fs::write(pictures.join("deep/c.png"), png([10, 200, 10])).expect("written");
    let run = move |arguments: &'static [&str]| {
        let (server, path) = (server.clone(), folder.path().to_owned());
        tokio::task::spawn_blocking(move || {
            let common = ["detect", "pictures", "--json", "--server", &server];
            detectd(&[&common, arguments].concat(), &path)
        })
    };
    let output = run(&["--out", "boxes"]).await.expect("ran");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let files: Vec<_> = lines.iter().map(|line| line["file"].as_str().unwrap_or_default()).collect();
    assert_eq!(files, ["pictures/a.png", "pictures/b.jpg", "pictures/deep/c.png"]);
    assert_eq!(lines[1]["error"]["code"], "INVALID_ARGUMENT");
    assert_eq!(lines[2]["annotated"], "boxes/deep/c.png");
    assert!(text(&output.stderr).contains("3 pictures") && text(&output.stderr).contains("1 failed"));

    let output = run(&["--classes", "no such class"]).await.expect("ran");
    assert!(text(&output.stdout).contains("no such class"), "{}", text(&output.stdout));
    let output = run(&["--model", "other"]).await.expect("ran");
    assert!(text(&output.stderr).contains("NOT_FOUND: there is no model `other`"), "{}", text(&output.stderr));
    daemon.begin_stop();
    daemon.ended().await.expect("ended");
}

/// Each subcommand of `models` against a daemon.
#[tokio::test(flavor = "multi_thread")]
async fn models_come_and_go_by_command() {
    let configure = |config: &mut Config| {
        config.repository.control = Control::Explicit;
        config.repository.models = vec!["parts".into()];
    };
    let manifest = "[instances]\ncount = 1\n[rollout]\nstrategy = \"canary\"\nwindow_s = 600\nkeep_previous_s = 600\n";
    let daemon = Daemon::start(Setup { manifest, configure, ..Setup::default() }).await;
    let (server, folder) = (daemon.grpc.to_string(), tempfile::tempdir().expect("a folder"));
    let mut watching = command(&["models", "watch", "--server", &server], folder.path());
    let mut watching = watching.stdout(Stdio::piped()).spawn().expect("started");
    let run = async |arguments: &[&str], succeeds: bool| {
        let arguments = [&["models", "--server", &server], arguments].concat();
        let mut command = command(&arguments, folder.path());
        let output = tokio::task::spawn_blocking(move || command.output().expect("detectd runs")).await.expect("ran");
        let shown = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.success(), succeeds, "{arguments:?}: {shown}");
        shown
    };
    let says =
        |shown: String, parts: &[&str]| parts.iter().for_each(|part| assert!(shown.contains(part), "{part}: {shown}"));
    says(run(&["list"], true).await, &["parts", "ready", "answers where no version is named"]);
    says(run(&["rollout"], true).await, &["version 1 answers"]);
    says(run(&["promote"], false).await, &["UNAVAILABLE", "no version is on trial"]);
    let model = daemon.repository.path().join("parts");
    write_version(&model.join("2"), "parts", "");
    says(run(&["load", "parts"], true).await, &["parts serves"]);
    says(run(&["rollout", "parts"], true).await, &["version 1 answers", "version 2 is on trial as a canary"]);
    says(run(&["promote", "parts"], true).await, &["promoted"]);
    says(run(&["rollout"], true).await, &["version 2 answers", "version 1 is kept warm for a rollback"]);
    says(run(&["rollback", "--reason", "for the test"], true).await, &["rolled back"]);
    says(run(&["list"], true).await, &["failed", "rolled back: for the test"]);
    says(run(&["load", "nothing"], false).await, &["NOT_FOUND", "there is no model `nothing`"]);
    fs::write(folder.path().join("model.json"), r#"{"engine": "controlled", "file": "model.test", "versions": [1]}"#)
        .expect("written");
    says(run(&["load", "parts", "--config", "model.json"], true).await, &["parts serves"]);
    says(run(&["unload", "parts"], true).await, &["parts is out of service"]);
    says(run(&["list"], true).await, &["failed", "unloaded"]);
    let lines = BufReader::new(watching.stdout.take().expect("events")).lines();
    let told =
        tokio::task::spawn_blocking(move || lines.map_while(Result::ok).any(|line| line.contains("  unloaded  ")));
    // What was before it began to watch it has missed.
    eventually("the watcher is told", async || {
        run(&["load", "parts"], true).await;
        run(&["unload", "parts"], true).await;
        told.is_finished()
    })
    .await;
    assert!(told.await.expect("ran"));
    watching.kill().expect("killed");
    watching.wait().expect("ended");
}

/// A version that is refused is in the log with its reason, and one that is being loaded beside the one that serves holds
/// up no end. That one's golden picture is a pipe, which nobody writes.
#[test]
fn serve_logs_what_it_refuses_and_ends_while_a_version_loads() {
    let folder = tempfile::tempdir().expect("a folder");
    let bundled = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/models/workbench"));
    let model = folder.path().join("models/workbench");
    let put = |version: &str, change: &dyn Fn(&Path)| {
        let hidden = model.join(".incoming");
        fs::create_dir_all(&hidden).expect("created");
        for file in ["model.onnx", "labels.txt"] {
            fs::copy(bundled.join("1").join(file), hidden.join(file)).expect("copied");
        }
        change(&hidden);
        fs::rename(hidden, model.join(version)).expect("renamed");
    };
    put("1", &|_| {});
    fs::copy(bundled.join("model.toml"), model.join("model.toml")).expect("copied");
    let settings = ["server.grpc_address=127.0.0.1:0", "server.http_address=127.0.0.1:0", "repository.control=watch"];
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    let arguments: Vec<_> = ["serve", "--log-format", "json"].into_iter().chain(settings).collect();
    let mut server = command(&arguments, folder.path()).stderr(Stdio::piped()).spawn().expect("started");
    let log = BufReader::new(server.stderr.take().expect("a log"));
    let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(&line.expect("a line")).expect("JSON"));
    lines.find(|line| line["message"] == "serving").expect("it serves");
    put("2", &|hidden| {
        let file = fs::File::options().write(true).open(hidden.join("model.onnx")).expect("opened");
        file.set_len(1000).expect("truncated");
    });
    let refused = lines.find(|line| line["event"] == "failed").expect("it is refused");
    assert_eq!(
        (&refused["model"], &refused["version"], &refused["level"]),
        (&"workbench".into(), &2.into(), &"WARN".into())
    );
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("2/model.onnx: ")), "{refused}");

    let picture = |folder: &Path| folder.join("golden/slow.png");
    put("3", &|hidden| {
        fs::create_dir(hidden.join("golden")).expect("created");
        let expected = r#"{ "slow.png": { "width": 1, "height": 1, "detections": [] } }"#;
        fs::write(hidden.join("golden/expected.json"), expected).expect("written");
        assert!(Command::new("mkfifo").arg(picture(hidden)).status().expect("mkfifo runs").success());
    });
    // Without a reader it cannot be opened; with one, the version is being loaded.
    let mut open = fs::OpenOptions::new();
    let open = open.write(true).custom_flags(libc::O_NONBLOCK);
    let _writer = within(&mut server, |_| open.open(picture(&model.join("3"))).ok()).expect("the picture is read");
    let killed = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let status = within(&mut server, |server| server.try_wait().expect("asked"));
    assert_eq!(status.expect("it ended").code(), Some(0));
}

/// SIGTERM while idle: exit status 0.
#[test]
fn serve_ends_on_sigterm() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/models");
    let ports = ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"];
    let arguments = [&["serve", "--repository", models, "--log-format", "json"], &ports[..]].concat();
    let mut server = command(&arguments, folder.path()).stderr(Stdio::piped()).spawn().expect("started");
    let log = BufReader::new(server.stderr.take().expect("a log"));
    let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(&line.expect("a line")).expect("JSON"));
    let serving = lines.find(|line| line["message"] == "serving").expect("it serves");
    assert!(serving["grpc"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{serving}");
    let killed = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    assert!(lines.any(|line| line["message"] == "stopped"));
    assert_eq!(server.wait().expect("ended").code(), Some(0));
}

/// SIGTERM while models load: nothing is waited for. The model's golden picture is a pipe, which nobody writes.
#[test]
fn serve_ends_on_sigterm_while_models_load() {
    let folder = tempfile::tempdir().expect("a folder");
    let bundled = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/models/workbench"));
    let version = folder.path().join("models/workbench/1");
    fs::create_dir_all(version.join("golden")).expect("created");
    for file in ["model.toml", "1/model.onnx", "1/labels.txt"] {
        fs::copy(bundled.join(file), folder.path().join("models/workbench").join(file)).expect("copied");
    }
    let expected = r#"{ "slow.png": { "width": 1, "height": 1, "detections": [] } }"#;
    fs::write(version.join("golden/expected.json"), expected).expect("written");
    let pipe = version.join("golden/slow.png");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let mut server = command(
        &["serve", "--set", "server.grpc_address=127.0.0.1:0", "--set", "server.http_address=127.0.0.1:0"],
        folder.path(),
    )
    .spawn()
    .expect("started");
    // Without a reader it cannot be opened; with one, the model is being loaded.
    let mut open = fs::OpenOptions::new();
    let open = open.write(true).custom_flags(libc::O_NONBLOCK);
    let _writer = within(&mut server, |_| open.open(&pipe).ok()).expect("the picture is read");
    let killed = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let status = within(&mut server, |server| server.try_wait().expect("asked"));
    assert_eq!(status.expect("it ended").code(), Some(0));
}

/// What `found` finds within a minute; the server is ended if it finds nothing.
fn within<T>(server: &mut Child, mut found: impl FnMut(&mut Child) -> Option<T>) -> Option<T> {
    for _ in 0..3000 {
        if let Some(found) = found(server) {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    server.kill().expect("killed");
    server.wait().expect("ended");
    None
}

/// `detectd … | head` ends without a word.
#[test]
fn a_reader_that_stops_early_is_no_error() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("models")).expect("created");
    let mut command = command(&["check", "--print-config"], folder.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ended");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}
