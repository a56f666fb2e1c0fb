//! Compiled kernels on the disk, so that only the first start on a kind of device compiles.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::CudaError;
use crate::compile::{Compiler, Target};

/// Names the folder; empty for none.
const FOLDER_VARIABLE: &str = "DETECTD_CUDA_CACHE";
const DIGEST: usize = 32;

/// A folder of compiled kernels. Each file begins with the digest of the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// In `$DETECTD_CUDA_CACHE`, or `detectd/cuda` in the user's folder for caches; nowhere if there is neither.
    #[must_use]
    pub fn of_user() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = match std::env::var_os(FOLDER_VARIABLE) {
            Some(folder) => Some(PathBuf::from(folder)).filter(|folder| !folder.as_os_str().is_empty()),
            None => set("XDG_CACHE_HOME")
                .or_else(|| set("HOME").map(|home| home.join(".cache")))
                .map(|caches| caches.join("detectd/cuda")),
        };
        Self { folder }
    }

    /// In this folder.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self { folder: Some(folder.to_owned()) }
    }

    /// The code of `source` for `target`, compiled if it is not there or damaged. What cannot be written is compiled again
    /// next time.
    ///
    /// # Errors
    /// Those of [`Compiler::compile`].
    pub fn code(&self, compiler: &Compiler, source: &str, target: Target) -> Result<Vec<u8>, CudaError> {
        let file = self.folder.as_ref().map(|folder| folder.join(name(compiler, source, target)));
        if let Some(code) = file.as_deref().and_then(read) {
            return Ok(code);
        }
        let code = compiler.compile(source, target)?;
        if let Some(file) = file {
            let _ = write(&file, &code);
        }
        Ok(code)
    }
}

/// Everything that the code depends on.
fn name(compiler: &Compiler, source: &str, target: Target) -> String {
    let digest: String = Sha256::digest(source).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let (major, minor) = compiler.version();
    format!("{}-nvrtc{major}.{minor}-{digest}.bin", target.architecture())
}

fn read(file: &Path) -> Option<Vec<u8>> {
    let mut content = fs::read(file).ok()?;
    let digest = content.get(..DIGEST)?;
    let whole = Sha256::digest(&content[DIGEST..]).as_slice() == digest;
    whole.then(|| content.split_off(DIGEST))
}

/// In one step: nobody sees half a file.
fn write(file: &Path, code: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut part = tempfile::NamedTempFile::new_in(folder)?;
    part.write_all(&Sha256::digest(code))?;
    part.write_all(code)?;
    part.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("deep/code.bin");
        write(&file, b"code").expect("written");
        assert_eq!(read(&file).as_deref(), Some(&b"code"[..]));
        let whole = fs::read(&file).expect("read");
        for at in [0, DIGEST, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&file, damaged).expect("written");
            assert_eq!(read(&file), None, "byte {at}");
        }
        for length in [0, 5, DIGEST, whole.len() - 1] {
            fs::write(&file, &whole[..length]).expect("written");
            assert_eq!(read(&file), None, "{length} bytes");
        }
        assert_eq!(fs::read_dir(folder.path().join("deep")).expect("the folder").count(), 1, "nothing is left over");
    }
}
