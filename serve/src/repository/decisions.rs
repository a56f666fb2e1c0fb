//! What was decided about versions, kept over restarts: a version that was rolled back is not served again by itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::warn;

/// A version that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// Its number.
    pub version: u64,
    /// The digest of its folder. Another content under the same number is another version.
    pub digest: String,
    /// Why.
    pub reason: String,
}

/// The versions that were taken back, by model, in a file that is replaced as a whole.
pub struct Decisions {
    path: PathBuf,
    rolled_back: Mutex<BTreeMap<String, Vec<RolledBack>>>,
}

impl Decisions {
    /// Reads the file at `path`; one that is not there is empty.
    ///
    /// # Errors
    /// It cannot be read or understood: what it says must not be lost by writing over it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let rolled_back = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        Ok(Self { path: path.to_owned(), rolled_back: Mutex::new(rolled_back) })
    }

    /// Why version `version` of `model` must not be served, if that was decided. `digest` is asked for only when a
    /// version of this number was taken back.
    pub fn refusal(&self, model: &str, version: u64, digest: impl FnOnce() -> io::Result<String>) -> Option<String> {
        let of_number: Vec<_> = {
            let decisions = self.rolled_back.lock();
            decisions.get(model)?.iter().filter(|decision| decision.version == version).cloned().collect()
        };
        if of_number.is_empty() {
            return None;
        }
        let digest = digest().ok()?;
        let decision = of_number.into_iter().find(|decision| decision.digest == digest)?;
        Some(format!(
            "it was rolled back and is not served again until its files change or it is loaded by name: {}",
            decision.reason
        ))
    }

    /// Remembers that a version was taken back, from now on; over a restart once it is saved.
    pub fn record(&self, model: &str, decision: RolledBack) {
        let mut decisions = self.rolled_back.lock();
        let of_model = decisions.entry(model.to_owned()).or_default();
        of_model.retain(|known| (known.version, &known.digest) != (decision.version, &decision.digest));
        of_model.push(decision);
    }

    /// Writes the file.
    pub fn save(&self) {
        self.write(&self.rolled_back.lock());
    }

    /// Forgets what was decided about a version: someone loads it by name.
    pub fn forget(&self, model: &str, version: u64) {
        let mut decisions = self.rolled_back.lock();
        let Some(of_model) = decisions.get_mut(model) else { return };
        let before = of_model.len();
        of_model.retain(|known| known.version != version);
        if of_model.len() != before {
            decisions.retain(|_, of_model| !of_model.is_empty());
            self.write(&decisions);
        }
    }

    /// A folder that cannot be written costs the memory of decisions over a restart, and nothing else.
    fn write(&self, decisions: &BTreeMap<String, Vec<RolledBack>>) {
        let write = || -> io::Result<()> {
            let folder = self.path.parent().unwrap_or(Path::new("."));
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&serde_json::to_vec_pretty(decisions)?)?;
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            Ok(())
        };
        if let Err(error) = write() {
            warn!(path = %self.path.display(), %error, "what was rolled back is not remembered over a restart");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_survive_and_hold_for_one_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.json");
        let decisions = Decisions::read(&path).unwrap();
        let decision = RolledBack { version: 2, digest: "abc".into(), reason: "slower".into() };
        decisions.record("parts", decision);
        decisions.save();
        let again = Decisions::read(&path).unwrap();
        let refused = again.refusal("parts", 2, || Ok("abc".into())).unwrap();
        assert!(refused.contains("slower"), "{refused}");
        assert_eq!(again.refusal("parts", 2, || Ok("other content".into())), None);
        assert_eq!(again.refusal("parts", 1, || panic!("nothing is known of version 1")), None);
        again.forget("parts", 2);
        assert_eq!(Decisions::read(&path).unwrap().refusal("parts", 2, || Ok("abc".into())), None);
    }

    #[test]
    fn a_damaged_file_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.json");
        fs::write(&path, "{ not JSON").unwrap();
        assert!(Decisions::read(&path).is_err_and(|error| error.contains("decisions.json")));
    }
}
