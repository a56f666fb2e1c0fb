//! What lies in the repository, as RepositoryIndex tells it.

use std::sync::Arc;

use detectd_proto::inference as wire;
use detectd_proto::inference::repository_index_response::ModelIndex;

use crate::error::Error;
use crate::repository::{Entry, Repository, State};

/// Every version, and the models that could be loaded; or those that serve if `ready` is asked for.
///
/// # Errors
/// The request names a repository: there is only one. The folder cannot be read.
pub async fn list(
    repository: &Arc<Repository>,
    request: &wire::RepositoryIndexRequest,
) -> Result<wire::RepositoryIndexResponse, Error> {
    check_name(&request.repository_name)?;
    let not_loaded = if request.ready { Vec::new() } else { not_loaded(repository).await? };
    let index = repository.index();
    let versions = index.iter().flat_map(|(name, versions)| versions.iter().map(move |entry| (name, entry)));
    let wanted = versions.filter(|(_, (_, entry))| !request.ready || is_ready(entry));
    let models = wanted.map(|(name, (version, entry))| ModelIndex {
        name: name.clone(),
        // 0 stands for a model whose folder could not be read.
        version: if *version == 0 { String::new() } else { version.to_string() },
        state: match &entry.state {
            State::Ready(_) if is_ready(entry) => "READY",
            State::Loading => "LOADING",
            State::Ready(_) | State::Failed(_) => "UNAVAILABLE",
        }
        .to_owned(),
        reason: entry.reason().or(entry.failure.as_deref()).unwrap_or_default().to_owned(),
    });
    let not_loaded = not_loaded.into_iter().filter(|name| !index.contains_key(name)).map(|name| ModelIndex {
        name,
        version: String::new(),
        state: "UNAVAILABLE".to_owned(),
        reason: "it is not loaded".to_owned(),
    });
    let mut models: Vec<_> = models.chain(not_loaded).collect();
    // By name; the versions of a model stay in their order.
    models.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(wire::RepositoryIndexResponse { models })
}

async fn not_loaded(repository: &Arc<Repository>) -> Result<Vec<String>, Error> {
    let repository = Arc::clone(repository);
    let names = tokio::task::spawn_blocking(move || repository.not_loaded()).await;
    let names = names.map_err(|error| Error::internal(format!("the repository's folder: {error}")))?;
    names.map_err(|error| Error::unavailable(format!("the repository's folder: {error}")))
}

/// Requests that name a repository are refused.
///
/// # Errors
/// `name` is not empty.
pub fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Ok(());
    }
    Err(Error::unimplemented(format!("repository_name: expected none, as there is one repository, got `{name}`")))
}

fn is_ready(entry: &Entry) -> bool {
    matches!(entry.state, State::Ready(_)) && entry.reason().is_none()
}
