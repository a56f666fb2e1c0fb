//! What happens in the folder happens in service, and traffic does not notice.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use detectd::config::{Config, Control};
use detectd_proto::detect::v1 as wire;
use sha2::{Digest as _, Sha256};
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Daemon, Setup, eventually, good, request, write_version};
use crate::swap::{Traffic, answering, publish, status, watching};

/// A volume as Kubernetes mounts it: every file is a link through `..data`, which is replaced in one step.
struct Volume<'a>(&'a Path);

impl Volume<'_> {
    fn show(&self, name: &str, manifest: &str, version: u64, behaviour: &str) {
        let content = self.0.join(format!("..{name}"));
        write_version(&content.join("parts").join(version.to_string()), "parts", behaviour);
        fs::write(content.join("parts/model.toml"), manifest).unwrap();
        let (link, fresh) = (self.0.join("..data"), self.0.join("..data_tmp"));
        let before = fs::read_link(&link);
        symlink(format!("..{name}"), &fresh).unwrap();
        fs::rename(&fresh, &link).unwrap();
        if let Ok(before) = before {
            fs::remove_dir_all(self.0.join(before)).unwrap();
        }
        if !self.0.join("parts").exists() {
            symlink("..data/parts", self.0.join("parts")).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubernetes_volume_changes_behind_its_links() {
    let daemon = Daemon::start(watching()).await;
    let folder = daemon.repository.path();
    let manifest = fs::read_to_string(folder.join("parts/model.toml")).unwrap();
    fs::rename(folder.join("parts"), folder.join(".before")).unwrap();
    let volume = Volume(folder);
    volume.show("2026_01", &manifest, 2, "");
    eventually("version 2 answers", || async { answering(&daemon).await == 2 }).await;
    let traffic = Traffic::start(&daemon).await;
    volume.show("2026_02", &manifest, 3, "");
    eventually("version 3 answers", || async { answering(&daemon).await == 3 }).await;
    volume.show("2026_03", &manifest, 3, "takes 1");
    eventually("the new content is loaded", || async { daemon.control.loaded() == 4 }).await;
    volume.show("2026_04", &manifest, 4, "load_fails");
    eventually("the failure is told", || async { status(&daemon, 4).await.is_some_and(|(_, said)| !said.is_empty()) })
        .await;
    assert_eq!(answering(&daemon).await, 3, "what serves is not taken away for what fails");
    traffic.more(20).await;
    traffic.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_two_and_three_versions_stay_available_while_each_is_replaced() {
    for count in 1..=3 {
        let setup = Setup { manifest: "versions = \"all\"\n[instances]\ncount = 1\n", ..watching() };
        let daemon = Daemon::start(setup).await;
        for version in 2..=count {
            publish(&daemon, version, "");
        }
        eventually("all serve", || async { answering(&daemon).await == count }).await;
        let ask = |version| wire::DetectRequest { version, ..request(good(1)) };
        let mut callers = Vec::new();
        for version in 1..=count {
            let one_box = |answer: &wire::DetectResponse| assert_eq!(answer.detections.len(), 1);
            callers.push(Traffic::asking(&daemon, ask(version), one_box).await);
        }
        let mut client = daemon.client().await;
        for replaced in 1..=count {
            publish(&daemon, replaced, "moves_boxes");
            eventually("the new content answers", async || {
                let answer = client.detect(ask(replaced)).await.unwrap().into_inner();
                answer.detections[0].r#box.unwrap().x1 > 0.0
            })
            .await;
        }
        for (version, caller) in (1..).zip(callers) {
            caller.more(4).await;
            assert!(caller.stop().await.iter().flatten().all(|answered| *answered == version));
        }
    }
}

const SETTLE: Duration = Duration::from_millis(500);

fn settling() -> Setup {
    Setup {
        configure: |config| {
            config.repository.control = Control::Watch;
            config.repository.settle = SETTLE;
        },
        ..Setup::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_still_being_copied_is_left_alone() {
    let daemon = Daemon::start(settling()).await;
    let folder = daemon.repository.path().join("parts/2");
    let mut attempts = 0;
    while !copy_slowly(&daemon, &folder).await {
        attempts += 1;
        assert!(attempts < 20, "this machine always pauses");
        fs::remove_dir_all(&folder).unwrap();
        tokio::time::sleep(2 * SETTLE).await;
        eventually("nothing is left of it", || async { answering(&daemon).await == 1 }).await;
    }
    assert_eq!(answering(&daemon).await, 1);
    write_version(&folder, "parts", "");
    eventually("it serves when it is complete", || async { answering(&daemon).await == 2 }).await;
}

/// Copies a version part by part, for more than twice the time that a folder is left to settle; it must not be opened.
/// False where a busy machine has paused for so long that it may have settled: that says nothing.
async fn copy_slowly(daemon: &Daemon, folder: &Path) -> bool {
    let before = daemon.control.loaded();
    // With its labels, what is there of the file can be loaded at any time.
    write_version(folder, "parts", "");
    let mut last = Instant::now();
    for part in 0..60 {
        fs::write(folder.join("model.test"), "x".repeat(part)).unwrap();
        tokio::time::sleep(SETTLE / 25).await;
        let touched = (daemon.control.loaded() - before, status(daemon, 2).await);
        if last.elapsed() > SETTLE / 2 {
            return false;
        }
        last = Instant::now();
        assert_eq!(touched, (0, None), "it was touched half copied");
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_pauses_is_refused_by_its_digests_until_it_is_complete() {
    let daemon = Daemon::start(watching()).await;
    let traffic = Traffic::start(&daemon).await;
    let folder = daemon.repository.path().join("parts/2");
    fs::create_dir_all(&folder).unwrap();
    let whole = "takes 1\n";
    let digest: String = Sha256::digest(whole).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(folder.join("SHA256SUMS"), format!("{digest}  model.test\n")).unwrap();
    fs::write(folder.join("labels.txt"), "a\nb\nc\nd").unwrap();
    for (part, reason) in
        [(None, "there is no such file"), (Some(&whole[..3]), "SHA-256"), (Some(&whole[..7]), "SHA-256")]
    {
        if let Some(part) = part {
            fs::write(folder.join("model.test"), part).unwrap();
        }
        eventually("the pause is too long", || async {
            status(&daemon, 2).await.is_some_and(|(_, said)| said.contains(reason))
        })
        .await;
        assert_eq!((answering(&daemon).await, daemon.control.loaded()), (1, 1));
    }
    fs::write(folder.join("model.test"), whole).unwrap();
    eventually("it is complete", || async { answering(&daemon).await == 2 }).await;
    traffic.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_without_an_event_are_found_by_looking() {
    let setup = Setup {
        configure: |config| {
            config.repository.control = Control::Watch;
            config.repository.settle = Duration::from_millis(40);
            config.repository.poll_interval = Some(Duration::from_millis(50));
        },
        ..Setup::default()
    };
    let daemon = Daemon::start(setup).await;
    // A link to a file outside: who writes there causes no event inside, as on a network volume.
    let outside = tempfile::tempdir_in(daemon.repository.path().parent().unwrap()).unwrap();
    let elsewhere = outside.path().join("model.test");
    fs::write(&elsewhere, "takes 1").unwrap();
    let file = daemon.repository.path().join("parts/1/model.test");
    fs::remove_file(&file).unwrap();
    symlink(&elsewhere, &file).unwrap();
    eventually("the link is seen", || async { daemon.control.loaded() == 2 }).await;
    for (loaded, behaviour) in [(3, "takes 1\n"), (4, "takes 1\n\n")] {
        fs::write(&elsewhere, behaviour).unwrap();
        eventually("it is loaded anew", || async { daemon.control.loaded() >= loaded }).await;
    }
    daemon.client().await.detect(request(good(1))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_watched_is_left_alone() {
    let configure = |config: &mut Config| {
        config.repository.settle = Duration::from_millis(10);
        config.repository.poll_interval = Some(Duration::from_millis(10));
    };
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    publish(&daemon, 2, "");
    fs::remove_dir_all(daemon.repository.path().join("parts/1")).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((answering(&daemon).await, daemon.control.loaded()), (1, 1));
    assert!(status(&daemon, 2).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_model_that_changed_is_loaded() {
    let daemon = Daemon::start(Setup { models: vec!["parts", "other"], ..watching() }).await;
    assert_eq!(daemon.control.loaded(), 2);
    publish(&daemon, 2, "");
    let serving = || async { status(&daemon, 2).await.is_some_and(|(state, _)| state == wire::ModelState::Ready) };
    eventually("version 2 serves", serving).await;
    fs::write(daemon.repository.path().join("notes.txt"), "no model").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(daemon.control.loaded(), 3, "the other model is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_is_loaded() {
    let setup = Setup { manifest: "versions = \"all\"\n[instances]\ncount = 1\n", ..watching() };
    let daemon = Daemon::start(setup).await;
    publish(&daemon, 2, "");
    eventually("both serve", || async { daemon.control.loaded() == 2 && answering(&daemon).await == 2 }).await;
    publish(&daemon, 3, "");
    eventually("three serve", || async { answering(&daemon).await == 3 }).await;
    assert_eq!(daemon.control.loaded(), 3, "versions 1 and 2 were not loaded again");
    let ask = |version| wire::DetectRequest { version, ..request(good(1)) };
    for version in 1..=3 {
        let answer = daemon.client().await.detect(ask(version)).await.unwrap().into_inner();
        assert_eq!(answer.version, version);
    }
    fs::remove_dir_all(daemon.repository.path().join("parts/2")).unwrap();
    eventually("the removed one leaves", || async { status(&daemon, 2).await.is_none() }).await;
    let refused = daemon.client().await.detect(ask(2)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(daemon.control.loaded(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_change_without_loading_the_weights_again() {
    let daemon = Daemon::start(Setup { manifest: "[instances]\ncount = 1\n", ..watching() }).await;
    let traffic = Traffic::start(&daemon).await;
    let manifest = daemon.repository.path().join("parts/model.toml");
    let first = fs::read_to_string(&manifest).unwrap();
    let more = "[instances]\ncount = 3\n[batching]\nmax_batch_size = 16\nqueue_capacity = 7\n";
    fs::write(&manifest, first.replace("[instances]\ncount = 1\n", more)).unwrap();
    let spec = async || {
        let request = wire::GetModelRequest { model: "parts".into(), version: 0 };
        daemon.client().await.get_model(request).await.unwrap().into_inner()
    };
    eventually("the batch is larger", || async { spec().await.max_batch_size == 16 }).await;
    assert_eq!(daemon.control.loaded(), 1);
    traffic.more(20).await;
    // What is no size is loaded.
    let precise = first.replace("[instances]", "precision = \"fp32\"\n[instances]");
    fs::write(&manifest, precise).unwrap();
    eventually("it is loaded again", || async { daemon.control.loaded() == 2 }).await;
    eventually("the batch is as before", || async { spec().await.max_batch_size == 8 }).await;
    traffic.more(20).await;
    traffic.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_start_an_older_version_stands_in_for_one_that_fails() {
    let repository = tempfile::tempdir().unwrap();
    write_version(&repository.path().join("parts/2"), "parts", "load_fails");
    let daemon = Daemon::start_in(repository, watching()).await;
    assert_eq!(answering(&daemon).await, 1);
    let (state, reason) = status(&daemon, 2).await.unwrap();
    assert!(state == wire::ModelState::Failed && reason.contains("wants the loader to fail"), "{reason}");
    // Beside a version that answers, what fails brings no older one back.
    publish(&daemon, 3, "");
    eventually("version 3 answers", || async { answering(&daemon).await == 3 }).await;
    publish(&daemon, 4, "load_fails");
    eventually("it is refused", || async { matches!(status(&daemon, 4).await, Some((wire::ModelState::Failed, _))) })
        .await;
    assert_eq!(answering(&daemon).await, 3);
    assert_eq!(daemon.control.loaded(), 2, "versions 1 and 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_in_the_folder_goes_back_in_service() {
    let daemon = Daemon::start(watching()).await;
    let traffic = Traffic::start(&daemon).await;
    let model = daemon.repository.path().join("parts");
    publish(&daemon, 2, "");
    eventually("version 2 answers", || async { answering(&daemon).await == 2 }).await;
    fs::remove_dir_all(model.join("2")).unwrap();
    eventually("version 1 answers again", || async { answering(&daemon).await == 1 }).await;
    publish(&daemon, 3, "");
    eventually("version 3 answers", || async { answering(&daemon).await == 3 }).await;
    let manifest = fs::read_to_string(model.join("model.toml")).unwrap();
    fs::write(model.join("model.toml"), format!("versions = [1]\n{manifest}")).unwrap();
    eventually("the manifest's choice answers", || async { answering(&daemon).await == 1 }).await;
    eventually("the other is gone", || async { status(&daemon, 3).await.is_none() }).await;
    traffic.more(20).await;
    traffic.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_of_a_removed_model_is_unknown() {
    let daemon = Daemon::start(Setup { models: vec!["parts", "other"], ..watching() }).await;
    let mut health = HealthClient::new(daemon.channel().await);
    let request = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let mut check =
        async |service: &str| health.check(request(service)).await.map(|answer| answer.into_inner().status());
    let serves = |answer: Result<ServingStatus, _>| matches!(answer, Ok(ServingStatus::Serving));
    for model in ["parts", "other"] {
        eventually("it serves", async || serves(check(model).await)).await;
    }
    let mut watched = HealthClient::new(daemon.channel().await).watch(request("other")).await.unwrap().into_inner();
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    fs::remove_dir_all(daemon.repository.path().join("other")).unwrap();
    eventually("it is unknown", async || check("other").await.is_err_and(|status| status.code() == Code::NotFound))
        .await;
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(watched.next().await.is_none(), "the watch ends");
    assert!(serves(check("parts").await));
    // It may come back.
    let folder = daemon.repository.path().join("other");
    write_version(&folder.join("1"), "other", "");
    fs::copy(daemon.repository.path().join("parts/model.toml"), folder.join("model.toml")).unwrap();
    eventually("it serves again", async || serves(check("other").await)).await;
}
