//! What lies in the repository, as RepositoryIndex tells it.

use detectd_proto::inference as wire;
use detectd_proto::inference::repository_index_response::ModelIndex;

use crate::error::Error;
use crate::repository::{Entry, Index, State};

/// Every version, or those that serve if `ready` is asked for.
///
/// # Errors
/// The request names a repository: there is only one.
pub fn list(index: &Index, request: &wire::RepositoryIndexRequest) -> Result<wire::RepositoryIndexResponse, Error> {
    check_name(&request.repository_name)?;
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
    Ok(wire::RepositoryIndexResponse { models: models.collect() })
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
