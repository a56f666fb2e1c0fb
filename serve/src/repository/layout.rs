//! What lies on the disk: `<repository>/<model>/model.toml` and `<repository>/<model>/<version>/…`.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::manifest::{Manifest, Task, check_labels};

/// What any file system takes as a folder's name.
const MAX_NAME_BYTES: usize = 255;

/// A file beyond this size is no manifest, no list of labels and no list of digests.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// A model's folder.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// The model's name: the folder's.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// What `model.toml` says.
    pub manifest: Manifest,
    /// The versions that are there, ascending.
    pub versions: Vec<u64>,
}

/// One version's folder, read and verified.
#[derive(Clone, Debug)]
pub struct VersionFolder {
    /// The model's file.
    pub file: PathBuf,
    /// The class names in the order of their ids; none for a tensor model.
    pub labels: Vec<String>,
}

/// The folders of the repository that hold a `model.toml`, sorted by name. Others are no models.
///
/// # Errors
/// The repository cannot be read.
pub fn model_names(repository: &Path) -> Result<Vec<String>, String> {
    let entries = fs::read_dir(repository).map_err(|error| format!("{}: {error}", repository.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", repository.display()))?.path();
        // A name with a dot in front is still being written, or belongs to a volume's own bookkeeping.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || !path.join("model.toml").is_file() {
            continue;
        }
        match path.file_name().and_then(|name| name.to_str()) {
            Some(name) => names.push(name.to_owned()),
            None => return Err(format!("{}: the name of a model's folder must be UTF-8", path.display())),
        }
    }
    names.sort();
    Ok(names)
}

/// Reads a model's manifest and finds its versions.
///
/// # Errors
/// The manifest is missing or wrong, or there is no version.
pub fn read_model(repository: &Path, name: &str) -> Result<ModelFolder, String> {
    check_name(name)?;
    let manifest_path = repository.join(name).join("model.toml");
    let text = read_text(&manifest_path)?;
    let manifest = Manifest::parse(&text).map_err(|error| format!("{}: {error}", manifest_path.display()))?;
    read_model_with(repository, name, manifest)
}

/// A model's name is a folder's, and not a hidden one's.
///
/// # Errors
/// It is none.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME_BYTES {
        return Err(format!("the name of a model has at most {MAX_NAME_BYTES} bytes, not {}", name.len()));
    }
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        return Err(format!("`{name}` is no name of a model"));
    }
    Ok(())
}

/// Finds a model's versions, for a manifest that came from elsewhere.
///
/// # Errors
/// There is no version.
pub fn read_model_with(repository: &Path, name: &str, manifest: Manifest) -> Result<ModelFolder, String> {
    check_name(name)?;
    let path = repository.join(name);
    let mut versions = Vec::new();
    for entry in fs::read_dir(&path).map_err(|error| format!("{}: {error}", path.display()))? {
        let entry = entry.map_err(|error| format!("{}: {error}", path.display()))?;
        if let Some(version) = entry.file_name().to_str().and_then(version_number)
            && entry.path().is_dir()
        {
            versions.push(version);
        }
    }
    versions.sort_unstable();
    if versions.is_empty() {
        return Err(format!("{}: no version: a folder whose name is a number from 1 holds one", path.display()));
    }
    Ok(ModelFolder { name: name.to_owned(), path, manifest, versions })
}

/// A version's number from its folder's name: decimal digits without leading zeros, from 1.
fn version_number(name: &str) -> Option<u64> {
    let plain = !name.starts_with('0') && name.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| name.parse().ok()).flatten()
}

impl ModelFolder {
    /// Reads one version's labels and verifies its digests.
    ///
    /// # Errors
    /// The model's file is missing, the labels are missing or wrong, or a file does not have the digest recorded.
    pub fn read_version(&self, version: u64) -> Result<VersionFolder, String> {
        let folder = self.path.join(version.to_string());
        let file = folder.join(self.manifest.file());
        if !file.is_file() {
            return Err(format!("{}: there is no such file", file.display()));
        }
        let labels = match &self.manifest.labels {
            Some(labels) => labels.clone(),
            None if self.manifest.task == Task::Tensor => Vec::new(),
            None => read_labels(&folder.join("labels.txt"))?,
        };
        verify_digests(&folder, self.manifest.require_digests.then(|| self.manifest.file()))?;
        Ok(VersionFolder { file, labels })
    }
}

fn read_labels(path: &Path) -> Result<Vec<String>, String> {
    if !path.is_file() {
        return Err(format!("{}: there is no such file, and the manifest has no `labels` either", path.display()));
    }
    let labels: Vec<String> = read_text(path)?.lines().map(|line| line.trim().to_owned()).collect();
    check_labels(&labels).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(labels)
}

fn read_text(path: &Path) -> Result<String, String> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        fs::File::open(path)?.take(MAX_TEXT_BYTES + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| format!("{}: {error}", path.display()))?;
    if text.len() as u64 > MAX_TEXT_BYTES {
        return Err(format!("{}: larger than {MAX_TEXT_BYTES} bytes", path.display()));
    }
    Ok(text)
}

/// Compares every file that `SHA256SUMS` lists, in the format of `sha256sum`, with its digest. A version without that
/// file is not verified, unless it is `required` that it lists this one.
fn verify_digests(folder: &Path, required: Option<&str>) -> Result<(), String> {
    let list = folder.join("SHA256SUMS");
    if !list.is_file() {
        return match required {
            None => Ok(()),
            Some(_) => {
                Err(format!("{}: there is no such file, but the manifest has require_digests = true", list.display()))
            }
        };
    }
    let mut missing = required;
    for (number, line) in read_text(&list)?.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let place = || format!("{} line {}", list.display(), number + 1);
        let (digest, name) = line
            .split_once(' ')
            .map(|(digest, name)| (digest, name.trim_start_matches([' ', '*'])))
            .filter(|(digest, name)| digest.len() == 64 && !name.is_empty())
            .ok_or_else(|| format!("{}: expected a SHA-256 digest and a file's name, got `{line}`", place()))?;
        if Path::new(name).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return Err(format!("{}: `{name}` leads out of the version's folder", place()));
        }
        let path = folder.join(name);
        let actual = sha256(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if !actual.eq_ignore_ascii_case(digest) {
            return Err(format!("{}: its SHA-256 digest is {actual}, {} says {digest}", path.display(), place()));
        }
        missing = missing.filter(|missing| *missing != name);
    }
    match missing {
        None => Ok(()),
        Some(name) => {
            Err(format!("{}: `{name}` is not in it, but the manifest has require_digests = true", list.display()))
        }
    }
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    #[test]
    fn models_and_versions_are_found() {
        let root = repository(&[
            ("parts/model.toml", "family = \"yolov5\""),
            ("parts/1/model.onnx", ""),
            ("parts/12/model.onnx", ""),
            ("parts/007/model.onnx", ""),
            ("parts/0/model.onnx", ""),
            ("parts/2", "a file, no folder"),
            ("notes/readme.txt", "no model"),
        ]);
        assert_eq!(model_names(root.path()).unwrap(), ["parts"]);
        assert_eq!(read_model(root.path(), "parts").unwrap().versions, [1, 12]);
        assert!(read_model(root.path(), "../parts").unwrap_err().contains("no name of a model"));
        assert!(read_model(root.path(), "notes").unwrap_err().contains("model.toml"));
    }

    #[test]
    fn a_model_without_versions_is_refused() {
        let root = repository(&[("parts/model.toml", "")]);
        assert!(read_model(root.path(), "parts").unwrap_err().contains("no version"));
    }

    #[test]
    fn digests_are_verified() {
        let good = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let version = |sums: &str| {
            let root = repository(&[
                ("parts/model.toml", "labels = [\"bolt\"]"),
                ("parts/1/model.onnx", "hello"),
                ("parts/1/SHA256SUMS", sums),
            ]);
            read_model(root.path(), "parts").unwrap().read_version(1).map(|folder| folder.labels)
        };
        assert_eq!(version(&format!("{good}  model.onnx\n")).unwrap(), ["bolt"]);
        assert_eq!(version(&format!("{} *model.onnx\n", good.to_uppercase())).unwrap(), ["bolt"]);
        let wrong = format!("{}  model.onnx\n", good.replace('2', "3"));
        assert!(version(&wrong).unwrap_err().contains(good), "the message shows what it is");
        assert!(version(&format!("{good}  other.onnx")).unwrap_err().contains("other.onnx"));
        assert!(version(&format!("{good}  ../model.toml")).unwrap_err().contains("leads out"));
        assert!(version("nonsense").unwrap_err().contains("line 1"));
    }

    #[test]
    fn digests_can_be_required() {
        let good = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824  model.onnx";
        let manifest = "labels = [\"bolt\"]\nrequire_digests = true";
        let root = repository(&[
            ("parts/model.toml", manifest),
            ("parts/1/model.onnx", "hello"),
            ("parts/2/model.onnx", "hello"),
            ("parts/2/SHA256SUMS", "\n"),
            ("parts/3/model.onnx", "hello"),
            ("parts/3/SHA256SUMS", good),
        ]);
        let folder = read_model(root.path(), "parts").unwrap();
        let refused = folder.read_version(1).err().unwrap();
        assert!(refused.ends_with("SHA256SUMS: there is no such file, but the manifest has require_digests = true"));
        assert!(folder.read_version(2).err().unwrap().contains("`model.onnx` is not in it"));
        assert!(folder.read_version(3).is_ok());
    }

    #[test]
    fn labels_come_from_the_version_or_the_manifest() {
        let root = repository(&[
            ("parts/model.toml", ""),
            ("parts/1/model.onnx", ""),
            ("parts/1/labels.txt", "bolt\nnut\n"),
            ("parts/2/model.onnx", ""),
            ("parts/3/labels.txt", "bolt"),
            ("parts/4/model.onnx", ""),
            ("parts/4/labels.txt", "bolt\nbolt\n"),
        ]);
        let folder = read_model(root.path(), "parts").unwrap();
        assert_eq!(folder.read_version(1).unwrap().labels, ["bolt", "nut"]);
        assert!(folder.read_version(2).unwrap_err().contains("labels.txt"));
        assert!(folder.read_version(3).unwrap_err().contains("model.onnx"));
        assert!(folder.read_version(4).unwrap_err().contains("both called"));
    }
}
