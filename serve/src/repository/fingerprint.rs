//! What tells one content of a version from another.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

use super::layout::ModelFolder;

/// The files of a version with their sizes and times, and what of the manifest cannot change without loading again.
/// Cheap: no file is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    files: Vec<(String, u64, Option<SystemTime>)>,
    manifest: String,
}

impl Fingerprint {
    /// Of a version that lies in `folder`.
    #[must_use]
    pub fn of(folder: &ModelFolder, version: u64) -> Self {
        Self { files: files(&folder.path.join(version.to_string())), manifest: folder.manifest.what_needs_loading() }
    }

    /// The size of `file` and of those beside it that are called like it up to the first dot: a network and its weights
    /// may be two files.
    #[must_use]
    pub fn bytes_of(&self, file: &str) -> u64 {
        let stem = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
        let wanted = stem(file);
        self.files.iter().filter(|(name, ..)| stem(name) == wanted).map(|(_, size, _)| size).sum()
    }
}

/// Every file below `folder`, links followed: a Kubernetes volume is all links.
fn files(folder: &Path) -> Vec<(String, u64, Option<SystemTime>)> {
    let entries = WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter().flatten();
    entries
        .filter(|entry| entry.file_type().is_file())
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            let path = entry.path().strip_prefix(folder).ok()?.display().to_string();
            Some((path, metadata.len(), metadata.modified().ok()))
        })
        .collect()
}

/// The SHA-256 digest of everything in a version's folder: it stays the same when the files are copied elsewhere.
///
/// # Errors
/// A file cannot be read.
pub fn digest(folder: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    for (name, size, _) in files(folder) {
        hasher.update(format!("{name}\0{size}\0"));
        std::io::copy(&mut fs::File::open(folder.join(&name))?, &mut hasher)?;
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What lies in a model's folder: the manifest and every file of every version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderContent(Vec<(String, u64, Option<SystemTime>)>);

impl FolderContent {
    /// Of the model in `folder`.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self(files(folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_beside_their_network_are_counted() {
        let file = |name: &str, size| (name.to_owned(), size, None);
        let files = vec![
            file("golden/model.png", 1000),
            file("labels.txt", 100),
            file("model.safetensors", 20),
            file("model.yaml", 3),
        ];
        let content = Fingerprint { files, manifest: String::new() };
        assert_eq!(content.bytes_of("model.yaml"), 23);
        assert_eq!(content.bytes_of("other.onnx"), 0);
    }
}
