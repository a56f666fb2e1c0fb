//! Notices what changes in the repository's folder.
//!
//! File events only wake the look at the folder, which decides by itself; where events do not come (network volumes,
//! Kubernetes' links), it looks every `poll_interval`. A model is read again when nothing in its folder has changed for
//! `settle`: a version that is still being copied is left alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tracing::warn;

use super::Repository;
use super::fingerprint::FolderContent;
use super::layout::model_names;
use super::swap::Stop;

/// Where neither changes nor a poll interval are set, the folder is still looked at this often.
const WITHOUT_POLLING: Duration = Duration::from_secs(3600);

/// Watches the folder of `repository` and brings models up to date. Never returns.
pub async fn watch(repository: Arc<Repository>) {
    let (wake, mut woken) = mpsc::channel(1);
    let _watcher = events(&repository.config.path, wake);
    let settle = repository.config.settle;
    let mut seen = BTreeMap::new();
    loop {
        let looking = Arc::clone(&repository);
        let content = tokio::task::spawn_blocking(move || look(&looking)).await.ok().flatten();
        let unsettled = content.is_some_and(|content| act(&repository, &mut seen, content, settle));
        // What is not settled yet is looked at again soon.
        let patience = if unsettled {
            (settle / 4).max(Duration::from_millis(5))
        } else {
            repository.config.poll_interval.unwrap_or(WITHOUT_POLLING)
        };
        tokio::select! {
            () = tokio::time::sleep(patience) => {}
            _ = woken.recv() => {}
        }
    }
}

/// A watcher that wakes at every change below `path`; `None` where the system has none.
fn events(path: &Path, wake: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Whoever looks at a folder opens it, which is an event too: it must not wake the next look.
        if event.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        // A full channel has woken already.
        let _ = wake.try_send(());
    });
    let watching = watcher.and_then(|mut watcher| {
        watcher.watch(path, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watching.map_err(|error| warn!(path = %path.display(), %error, "no file events: the folder is polled only")).ok()
}

/// The models that lie there now; `None` when the folder cannot be read, which is no reason to unload everything.
fn look(repository: &Repository) -> Option<BTreeMap<String, FolderContent>> {
    let config = &repository.config;
    let names = model_names(&config.path).map_err(|error| warn!(error, "the repository cannot be read")).ok()?;
    let wanted = names.into_iter().filter(|name| config.models.is_empty() || config.models.contains(name));
    Some(wanted.map(|name| (name.clone(), FolderContent::of(&config.path.join(name)))).collect())
}

/// What was seen of one model.
struct Seen {
    /// `None` once the folder is gone.
    content: Option<FolderContent>,
    since: Instant,
    /// The model was brought up to this content.
    done: bool,
}

/// Brings up to date what has settled. Returns whether something has not.
fn act(
    repository: &Arc<Repository>,
    seen: &mut BTreeMap<String, Seen>,
    mut content: BTreeMap<String, FolderContent>,
    settle: Duration,
) -> bool {
    for name in repository.index().keys().chain(content.keys()) {
        if !seen.contains_key(name) {
            seen.insert(name.clone(), Seen { content: content.get(name).cloned(), since: Instant::now(), done: false });
        }
    }
    let mut unsettled = false;
    seen.retain(|name, model| {
        let now = content.remove(name);
        if model.content != now {
            *model = Seen { content: now, since: Instant::now(), done: false };
        }
        if model.done {
            return true;
        }
        if model.since.elapsed() < settle {
            unsettled = true;
            return true;
        }
        model.done = true;
        if model.content.is_none() {
            repository.forget(name);
            return false;
        }
        let (repository, name) = (Arc::clone(repository), name.clone());
        // Each model in its own time: a slow one keeps nobody waiting. A newer content makes this operation moot.
        tokio::task::spawn_blocking(move || match repository.read_again(&name) {
            // The reason is in the index and in the log.
            Ok(()) | Err(Stop::Failed(_) | Stop::Moot) => {}
        });
        true
    });
    unsettled
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn looking_wakes_nobody_and_writing_does() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("parts/1/model.onnx");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "content").unwrap();
        let (wake, mut woken) = mpsc::channel(1);
        let _watcher = events(folder.path(), wake).expect("this system has file events");
        for _ in 0..10 {
            assert_eq!(model_names(folder.path()).unwrap(), Vec::<String>::new());
            let _ = FolderContent::of(&folder.path().join("parts"));
            assert_eq!(fs::read(&file).unwrap(), b"content");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(woken.try_recv().is_err(), "looking at the folder woke the next look");
        fs::write(&file, "another content").unwrap();
        woken.recv().await.unwrap();
    }
}
