//! A version up to the point where it could be given instances: read, verified, loaded and rehearsed.

use std::path::PathBuf;
use std::sync::Arc;

use detectd_engine::{LoadOptions, Model};

use super::ModelVersion;
use super::fingerprint::digest;
use super::layout::{ModelFolder, VersionFolder};
use super::manifest::Manifest;
use super::rehearsal::Rehearsal;
use crate::batch::BatchPolicy;
use crate::buffers::BufferPool;
use crate::engines::Engines;

/// A version that no thread runs yet.
pub struct Prepared {
    /// The model's file.
    pub file: PathBuf,
    /// The class names in the order of their ids; none for a tensor model.
    pub labels: Vec<String>,
    /// The SHA-256 digest of the version's files.
    pub digest: String,
    /// What the engine was asked for.
    pub options: LoadOptions,
    /// The weights.
    pub model: Arc<dyn Model>,
    /// How batches are formed.
    pub policy: BatchPolicy,
    /// The batch sizes that were rehearsed: one, the preferred ones, the largest.
    pub sizes: Vec<usize>,
    /// The inputs of pictures.
    pub buffers: Arc<BufferPool>,
    /// Golden pictures that agreed.
    pub golden: usize,
}

impl Prepared {
    /// Prepares `version` for instances of `threads` threads. The weights of `present` are used again where they do. Blocks.
    ///
    /// # Errors
    /// What failed, with the version or the file.
    pub fn read(
        folder: &ModelFolder,
        version: u64,
        threads: usize,
        present: Option<&ModelVersion>,
        engines: &Engines,
    ) -> Result<Self, String> {
        let manifest = &folder.manifest;
        let VersionFolder { file, labels } = folder.read_version(version)?;
        let path = folder.path.join(version.to_string());
        let digest = digest(&path).map_err(|error| format!("version {version}: its files cannot be read: {error}"))?;
        let options = manifest.load_options(&file, labels.len(), threads)?;
        let at = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let model = match present.and_then(|present| present.weights_for(&manifest.engine, &digest, &options)) {
            Some(model) => model,
            None => engines.load(&manifest.engine, &options).map_err(|error| at(&error))?,
        };
        check(manifest, &options, model.as_ref(), labels.len()).map_err(|error| at(&error))?;

        let policy = manifest.policy(model.spec().batch);
        let sizes = sizes(policy.max_batch, &policy.preferred);
        let input_len = model.spec().detector.as_ref().map_or(0, |detector| detector.preprocess.input_len());
        let buffers = Arc::new(BufferPool::new(input_len, manifest.queue().capacity.min(4 * policy.max_batch)));
        let rehearsal = Rehearsal {
            model: model.as_ref(),
            sizes: &sizes,
            folder: &path,
            options: &manifest.options,
            golden: &manifest.golden,
            buffers: &buffers,
        };
        let golden = rehearsal.run().map_err(|error| at(&error))?;
        Ok(Self { file, labels, digest, options, model, policy, sizes, buffers, golden })
    }
}

/// Whether the manifest and the engine speak of the same kind of model.
fn check(manifest: &Manifest, options: &LoadOptions, model: &dyn Model, classes: usize) -> Result<(), String> {
    match (&options.detector, &model.spec().detector) {
        (Some(_), None) => return Err("the engine made no detector of it".into()),
        (None, Some(_)) => return Err("the engine made a detector of it, the manifest has task = \"tensor\"".into()),
        (Some(_), Some(_)) | (None, None) => {}
    }
    match manifest.options.classes.iter().flatten().find(|&&class| class as usize >= classes) {
        Some(class) => Err(format!("options.classes: {class}, but the model has {classes} classes")),
        None => Ok(()),
    }
}

fn sizes(max_batch: usize, preferred: &[usize]) -> Vec<usize> {
    let mut sizes = vec![1, max_batch];
    sizes.extend_from_slice(preferred);
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}
