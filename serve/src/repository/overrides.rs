//! What a load by name may bring with it, as Triton's clients send it: a configuration, and the files themselves.

use std::fs;
use std::path::{Component, Path};

use bytes::Bytes;
use tempfile::TempDir;

/// In place of what lies in the repository.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOverrides {
    /// The manifest, as a JSON object with the keys of `model.toml`.
    pub config: Option<String>,
    /// Files by their path in the model's folder, `<version>/<name>`. When there are any, no other files are used.
    pub files: Vec<(String, Bytes)>,
}

impl LoadOverrides {
    /// Nothing is overridden.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.config.is_none() && self.files.is_empty()
    }

    /// Writes the files as the folder of the model `name` into a temporary repository.
    ///
    /// # Errors
    /// A path that leads elsewhere, or a disk that cannot be written.
    pub(super) fn write(&self, name: &str) -> Result<TempDir, String> {
        let root = tempfile::Builder::new().prefix("detectd-load-").tempdir().map_err(|error| error.to_string())?;
        let folder = root.path().join(name);
        for (path, content) in &self.files {
            let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
            if path.is_empty() || !inside {
                return Err(format!("file:{path}: expected file:<version>/<name>"));
            }
            let target = folder.join(path);
            let write = || {
                fs::create_dir_all(target.parent().unwrap_or(&folder))?;
                fs::write(&target, content)
            };
            write().map_err(|error| format!("file:{path}: {error}"))?;
        }
        Ok(root)
    }
}
