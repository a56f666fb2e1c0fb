//! A version directory for the daemon's model repository.

mod card;
mod golden;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::evaluation::Metrics;
use crate::export::{Options, Output, write_onnx};
use crate::scenes::CLASSES;
use crate::training::TrainedModel;

/// Writes `<models>/<name>/<version>/` and, if there is none yet, `<models>/<name>/model.toml`. Returns the version's
/// folder.
///
/// The folder holds `model.onnx` (batch open, boxes decoded), `labels.txt`, `MODEL_CARD.md`, `metrics.json`, `golden/`
/// with pictures and the boxes that the model finds in them, `training.csv` if `history` names the run's `results.csv`,
/// and `SHA256SUMS` over all of these. It appears whole or not at all. `metrics` are those of held-out scenes of `size`.
pub fn publish(
    model: &TrainedModel,
    history: Option<&Path>,
    metrics: &Metrics,
    size: [u32; 2],
    models: &Path,
    version: u64,
) -> Result<PathBuf> {
    ensure!(version >= 1, "versions are numbered from 1");
    let folder = models.join(&model.settings.name);
    let target = folder.join(version.to_string());
    ensure!(!target.exists(), "{} exists already; a published version never changes", target.display());
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let partial = folder.join(format!(".{version}.part"));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    fs::create_dir(&partial).with_context(|| format!("creating {}", partial.display()))?;

    let side = model.settings.input as usize;
    let options = Options { width: side, height: side, batch: None, output: Output::Decoded, labels: &CLASSES };
    let onnx = partial.join("model.onnx");
    write_onnx(&model.network, &options, &onnx)?;
    write(&partial.join("labels.txt"), format!("{}\n", CLASSES.join("\n")))?;
    write(&partial.join("metrics.json"), format!("{}\n", serde_json::to_string_pretty(metrics)?))?;
    if let Some(history) = history {
        fs::copy(history, partial.join("training.csv")).with_context(|| format!("copying {}", history.display()))?;
    }
    golden::write(model, &partial.join("golden"))?;
    let bytes = fs::metadata(&onnx).with_context(|| format!("reading {}", onnx.display()))?.len();
    write(&partial.join("MODEL_CARD.md"), card::text(model, metrics, size, bytes)?)?;
    write(&partial.join("SHA256SUMS"), digests(&partial)?)?;

    fs::rename(&partial, &target).with_context(|| format!("renaming to {}", target.display()))?;
    let manifest = folder.join("model.toml");
    if !manifest.exists() {
        write(&manifest, card::manifest(model))?;
    }
    Ok(target)
}

fn write(path: &Path, text: String) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// One line for each file, as `sha256sum` writes them, sorted by name.
fn digests(folder: &Path) -> Result<String> {
    let mut names = Vec::new();
    collect(folder, "", &mut names)?;
    names.sort();
    let mut lines = String::new();
    for name in names {
        let bytes = fs::read(folder.join(&name)).with_context(|| format!("reading {name}"))?;
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        lines.push_str(&format!("{digest}  {name}\n"));
    }
    Ok(lines)
}

fn collect(folder: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), names)?;
        } else {
            names.push(name);
        }
    }
    Ok(())
}
