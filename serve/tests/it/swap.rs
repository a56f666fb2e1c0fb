//! Versions come and go while requests flow.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use detectd::config::Control;
use detectd_proto::detect::v1 as wire;
use detectd_proto::detect::v1::admin_service_client::AdminServiceClient;
use detectd_proto::inference::RepositoryIndexRequest;
use detectd_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support::{Daemon, Setup, eventually, good, png, request, write_version};

pub fn watching() -> Setup {
    Setup {
        configure: |config| {
            config.repository.control = Control::Watch;
            config.repository.settle = Duration::from_millis(40);
        },
        ..Setup::default()
    }
}

pub fn explicit() -> Setup {
    Setup {
        configure: |config| {
            config.repository.control = Control::Explicit;
            config.repository.models = vec!["parts".into()];
        },
        ..Setup::default()
    }
}

/// Puts a version in place at once, as a careful publisher does.
pub fn publish(daemon: &Daemon, version: u64, behaviour: &str) {
    let model = daemon.repository.path().join("parts");
    let hidden = model.join(".incoming");
    write_version(&hidden, "parts", behaviour);
    let target = model.join(version.to_string());
    if target.exists() {
        renameat_with(CWD, &hidden, CWD, &target, RenameFlags::EXCHANGE).unwrap();
        fs::remove_dir_all(hidden).unwrap();
    } else {
        fs::rename(&hidden, target).unwrap();
    }
}

pub async fn admin(daemon: &Daemon) -> AdminServiceClient<Channel> {
    AdminServiceClient::new(daemon.channel().await)
}

pub async fn rollout(daemon: &Daemon) -> wire::GetRolloutResponse {
    let request = wire::GetRolloutRequest { model: "parts".into() };
    admin(daemon).await.get_rollout(request).await.unwrap().into_inner()
}

pub async fn answering(daemon: &Daemon) -> u64 {
    rollout(daemon).await.answering
}

/// State and reason of a version, as clients are told.
pub async fn status(daemon: &Daemon, version: u64) -> Option<(wire::ModelState, String)> {
    let models = daemon.client().await.list_models(wire::ListModelsRequest {}).await.unwrap().into_inner().models;
    let versions = models.into_iter().find(|model| model.name == "parts")?.versions;
    let version = versions.into_iter().find(|status| status.version == version)?;
    Some((version.state(), version.reason))
}

/// Requests without a pause until it is stopped; panics at the first that fails.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    senders: Vec<JoinHandle<Vec<u64>>>,
}

impl Traffic {
    pub async fn start(daemon: &Daemon) -> Self {
        Self::asking(daemon, request(good(1)), |answer| assert_eq!(answer.detections.len(), 1)).await
    }

    /// The same with another request, whose answers `check` looks at.
    pub async fn asking(daemon: &Daemon, request: wire::DetectRequest, check: fn(&wire::DetectResponse)) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let mut senders = Vec::new();
        for _ in 0..4 {
            let mut client = daemon.client().await;
            let (stop, answered, request) = (Arc::clone(&stop), Arc::clone(&answered), request.clone());
            senders.push(tokio::spawn(async move {
                let mut versions = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    let answer = client.detect(request.clone()).await.unwrap().into_inner();
                    check(&answer);
                    answered.fetch_add(1, Ordering::AcqRel);
                    versions.push(answer.version);
                }
                versions
            }));
        }
        Self { stop, answered, senders }
    }

    /// Waits for `count` more answers.
    pub async fn more(&self, count: u64) {
        let until = self.answered.load(Ordering::Acquire) + count;
        eventually("requests are answered", || async {
            assert!(!self.senders.iter().any(JoinHandle::is_finished), "a request failed");
            self.answered.load(Ordering::Acquire) >= until
        })
        .await;
    }

    /// The versions that answered, sender by sender, in order.
    pub async fn stop(self) -> Vec<Vec<u64>> {
        self.stop.store(true, Ordering::Release);
        let mut versions = Vec::new();
        for sender in self.senders {
            versions.push(sender.await.unwrap());
        }
        versions
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_takes_over_and_no_request_fails() {
    let daemon = Daemon::start(watching()).await;
    let traffic = Traffic::start(&daemon).await;
    for version in 2..6 {
        traffic.more(20).await;
        publish(&daemon, version, "");
        eventually("the new version answers", || async { answering(&daemon).await == version }).await;
    }
    traffic.more(20).await;
    for versions in traffic.stop().await {
        assert!(versions.is_sorted(), "an older version answered after a newer one: {versions:?}");
        assert_eq!(versions.last(), Some(&5));
    }
    eventually("old versions are gone", || async { status(&daemon, 4).await.is_none() }).await;
    let text = daemon.get("/metrics").await.1;
    assert!(!text.contains("version=\"4\""), "a version takes its metrics with it");
    eventually("their weights are free", || async { daemon.control.alive() == 1 }).await;
    assert_eq!(daemon.metric("detectd_model_swaps_total", &["outcome=\"serving\""]).await, 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_number_with_another_content_takes_over() {
    let daemon = Daemon::start(watching()).await;
    let traffic = Traffic::start(&daemon).await;
    publish(&daemon, 1, "takes 1");
    eventually("it is loaded anew", || async { daemon.control.loaded() == 2 }).await;
    traffic.more(50).await;
    traffic.stop().await;
    eventually("its metrics go on", || async {
        daemon.metric("nv_inference_request_success", &["version=\"1\""]).await >= 50.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_no_good_is_refused_with_its_reason() {
    let daemon = Daemon::start(watching()).await;
    let traffic = Traffic::start(&daemon).await;
    let golden = |folder: &Path| {
        fs::create_dir_all(folder.join("golden")).unwrap();
        fs::write(folder.join("golden/one.png"), png(good(1))).unwrap();
        let expected = r#"{"one.png": {"width": 20, "height": 10, "detections": [
            {"class_id": 1, "score": 1.0, "bbox": {"x1": 0, "y1": 0, "x2": 20, "y2": 10}}]}}"#;
        fs::write(folder.join("golden/expected.json"), expected).unwrap();
    };
    // What the file asks for, what the refusal says, and what is changed in the folder.
    type Case<'a> = (&'a str, &'a str, &'a dyn Fn(&Path));
    let cases: [Case<'_>; 9] = [
        ("load_fails", "wants the loader to fail", &|_| {}),
        ("load_panics", "panicked", &|_| {}),
        ("warm_up_fails", "wants executions to fail", &|_| {}),
        ("moves_boxes", "was expected, but not found", &golden),
        ("", "golden/expected.json: there is no such file", &|folder| {
            golden(folder);
            fs::remove_file(folder.join("golden/expected.json")).unwrap();
        }),
        ("", "SHA-256", &|folder| fs::write(folder.join("SHA256SUMS"), format!("{:064}  model.test", 0)).unwrap()),
        ("", "labels.txt", &|folder| fs::remove_file(folder.join("labels.txt")).unwrap()),
        ("", "model.test", &|folder| fs::remove_file(folder.join("model.test")).unwrap()),
        // More than any machine has; the file has holes for it.
        ("", "of memory beside what serves", &|folder| {
            fs::File::options().write(true).open(folder.join("model.test")).unwrap().set_len(1 << 42).unwrap();
        }),
    ];
    let mut kserve = GrpcInferenceServiceClient::new(daemon.channel().await);
    let model = daemon.repository.path().join("parts");
    for (version, (behaviour, reason, change)) in (2..).zip(cases) {
        let hidden = model.join(".incoming");
        write_version(&hidden, "parts", behaviour);
        change(&hidden);
        fs::rename(&hidden, model.join(version.to_string())).unwrap();
        eventually("it is refused", || async {
            matches!(status(&daemon, version).await, Some((wire::ModelState::Failed, said)) if said.contains(reason))
        })
        .await;
        assert_eq!(answering(&daemon).await, 1, "{reason}");
        let index = kserve.repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner();
        let entry = index.models.iter().find(|entry| entry.version == version.to_string()).unwrap();
        assert!(entry.state == "UNAVAILABLE" && entry.reason.contains(reason), "{entry:?}");
        fs::remove_dir_all(model.join(version.to_string())).unwrap();
    }
    traffic.more(20).await;
    assert!(traffic.stop().await.iter().flatten().all(|&version| version == 1));
    // More where a folder was looked at in the middle of its removal.
    assert!(daemon.metric("detectd_model_swaps_total", &["outcome=\"failed\""]).await >= 9.0);
    // Golden pictures that agree let it in.
    let hidden = model.join(".incoming");
    write_version(&hidden, "parts", "");
    golden(&hidden);
    fs::rename(&hidden, model.join("20")).unwrap();
    eventually("it serves", || async { answering(&daemon).await == 20 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_version_makes_an_older_one_moot_while_it_loads() {
    let daemon = Daemon::start(watching()).await;
    let traffic = Traffic::start(&daemon).await;
    let hold = daemon.control.hold_loads();
    publish(&daemon, 2, "load_waits");
    is_being_loaded(&daemon, 2).await;
    publish(&daemon, 3, "");
    // Far longer than the folder is left to settle: by now the newer operation waits for the older one.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop(hold);
    eventually("version 3 answers", || async { answering(&daemon).await == 3 }).await;
    for versions in traffic.stop().await {
        assert!(!versions.contains(&2), "version 2 was moot");
    }
}

async fn is_being_loaded(daemon: &Daemon, version: u64) {
    eventually("it is being loaded", || async {
        matches!(status(daemon, version).await, Some((wire::ModelState::Loading, _)))
    })
    .await;
}

/// Begins to load `parts` and waits until version 2, whose file says `load_waits`, is at it.
async fn begin_load(daemon: &Daemon) -> JoinHandle<Result<(), Status>> {
    write_version(&daemon.repository.path().join("parts/2"), "parts", "load_waits");
    let mut loader = admin(daemon).await;
    let request = wire::LoadModelRequest { model: "parts".into(), ..Default::default() };
    let loading = tokio::spawn(async move { loader.load_model(request).await.map(drop) });
    is_being_loaded(daemon, 2).await;
    loading
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_makes_a_load_moot() {
    let daemon = Daemon::start(explicit()).await;
    let hold = daemon.control.hold_loads();
    let loading = begin_load(&daemon).await;
    admin(&daemon).await.unload_model(wire::UnloadModelRequest { model: "parts".into() }).await.unwrap();
    drop(hold);
    let moot = loading.await.unwrap().unwrap_err();
    assert_eq!(moot.code(), Code::Unavailable);
    assert!(moot.message().contains("a newer operation on model `parts`"), "{}", moot.message());
    let refused = daemon.client().await.detect(request(good(1))).await.unwrap_err();
    assert!(refused.message().contains("unloaded"), "{}", refused.message());
    eventually("nothing is kept of it", || async { daemon.control.alive() == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_it_is_loaded_is_refused() {
    let daemon = Daemon::start(explicit()).await;
    let traffic = Traffic::start(&daemon).await;
    let hold = daemon.control.hold_loads();
    let loading = begin_load(&daemon).await;
    traffic.more(20).await;
    let ask = wire::DetectRequest { version: 2, ..request(good(1)) };
    let early = daemon.client().await.detect(ask).await.unwrap_err();
    assert_eq!(early.code(), Code::Unavailable);
    assert!(early.message().contains("version 2 is not ready: it is being loaded"), "{}", early.message());
    let folder = daemon.repository.path().join("parts/2");
    write_version(&folder, "parts", "takes 1");
    drop(hold);
    let refused = loading.await.unwrap().unwrap_err();
    assert!(refused.message().contains("its files changed while it was loaded"), "{}", refused.message());
    assert_eq!(answering(&daemon).await, 1);
    let again = wire::LoadModelRequest { model: "parts".into(), ..Default::default() };
    admin(&daemon).await.load_model(again).await.unwrap();
    assert_eq!(answering(&daemon).await, 2);
    traffic.more(20).await;
    traffic.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_loaded_and_unloaded_by_name() {
    let daemon = Daemon::start(explicit()).await;
    let mut admin = admin(&daemon).await;
    let load = |model: &str| wire::LoadModelRequest { model: model.into(), ..Default::default() };
    let unload = || wire::UnloadModelRequest { model: "parts".into() };
    admin.unload_model(unload()).await.unwrap();
    let refused = daemon.client().await.detect(request(good(1))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("unloaded"), "{}", refused.message());
    assert_eq!(daemon.get("/readyz").await.0, 200, "what was taken out on purpose keeps nobody from the others");
    eventually("its weights are free", || async { daemon.control.alive() == 0 }).await;
    admin.load_model(load("parts")).await.unwrap();
    daemon.client().await.detect(request(good(1))).await.unwrap();
    let missing = admin.load_model(load("nothing")).await.unwrap_err();
    assert!(missing.message().contains("model.toml"), "{}", missing.message());
    let escape = admin.load_model(load("../parts")).await.unwrap_err();
    assert!(escape.message().contains("no name of a model"), "{}", escape.message());

    // With its own manifest and files.
    let config = r#"{"engine": "controlled", "file": "model.test", "labels": ["a", "b", "c", "d"]}"#;
    let mut request_with_files = wire::LoadModelRequest { config: config.into(), ..load("parts") };
    request_with_files.files.insert("7/model.test".into(), "".into());
    admin.load_model(request_with_files.clone()).await.unwrap();
    let answer = daemon.client().await.detect(request(good(1))).await.unwrap().into_inner();
    assert_eq!((answer.version, answer.detections[0].label.as_str()), (7, "b"));
    request_with_files.files.insert("../../evil".into(), "".into());
    let escape = admin.load_model(request_with_files).await.unwrap_err();
    assert_eq!(escape.code(), Code::InvalidArgument);
    assert!(escape.message().contains("../../evil"), "{}", escape.message());
    let answer = daemon.client().await.detect(request(good(1))).await.unwrap().into_inner();
    assert_eq!(answer.version, 7, "what failed has changed nothing");
    let mut unknown = wire::LoadModelRequest { config: config.into(), ..load("unknown") };
    unknown.files.insert("1/other.test".into(), "".into());
    let failed = admin.load_model(unknown).await.unwrap_err();
    assert!(failed.message().contains("model.test"), "{}", failed.message());
    let models = daemon.client().await.list_models(wire::ListModelsRequest {}).await.unwrap().into_inner().models;
    assert!(models.iter().all(|model| model.name != "unknown"), "{models:?}");
    assert!(!daemon.get("/metrics").await.1.contains("unknown"), "callers cannot fill the metrics");
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_by_name_needs_the_mode() {
    let daemon = Daemon::start(Setup::default()).await;
    let request = wire::LoadModelRequest { model: "parts".into(), ..Default::default() };
    let refused = admin(&daemon).await.load_model(request).await.unwrap_err();
    assert!(refused.message().contains("repository.control"), "{}", refused.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_and_unloads_of_many_clients_leave_one_truth() {
    let daemon = Arc::new(Daemon::start(explicit()).await);
    // More of them for a longer trial: 2,000 take about a minute.
    let turns = std::env::var("DETECTD_SWAP_TURNS").map_or(25, |turns| turns.parse().unwrap());
    let mut clients = Vec::new();
    for client in 0..8 {
        let mut admin = admin(&daemon).await;
        let mut detect = daemon.client().await;
        clients.push(tokio::spawn(async move {
            for turn in 0..turns {
                let model = "parts".to_owned();
                let (code, message) = if (client + turn) % 3 == 0 {
                    let answer = admin.unload_model(wire::UnloadModelRequest { model }).await;
                    answer.map_or_else(
                        |status| (status.code(), status.message().to_owned()),
                        |_| (Code::Ok, String::new()),
                    )
                } else {
                    let answer = admin.load_model(wire::LoadModelRequest { model, ..Default::default() }).await;
                    answer.map_or_else(
                        |status| (status.code(), status.message().to_owned()),
                        |_| (Code::Ok, String::new()),
                    )
                };
                assert!(matches!(code, Code::Ok | Code::Unavailable), "{code:?} {message}");
                match detect.detect(request(good(1))).await {
                    Ok(answer) => assert_eq!(answer.into_inner().detections.len(), 1),
                    Err(status) => assert_eq!(status.code(), Code::Unavailable, "{}", status.message()),
                }
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    let request_load = wire::LoadModelRequest { model: "parts".into(), ..Default::default() };
    admin(&daemon).await.load_model(request_load).await.unwrap();
    daemon.client().await.detect(request(good(1))).await.unwrap();
    daemon.nothing_pending().await;
    eventually("one is left", || async { daemon.control.alive() == 1 }).await;
}
