//! One version of a model, loaded: its weights, its queue, its instances.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use detectd_engine::{Detector, Device, LoadOptions, Model, ModelSpec};
use detectd_vision::DetectOptions;
use tracing::info;

use super::fingerprint::digest;
use super::layout::ModelFolder;
use super::rehearsal::Rehearsal;
use crate::batch::{BatchQueue, Instance, Shared};
use crate::buffers::BufferPool;
use crate::engines::Engines;
use crate::error::Error;
use crate::metrics::{Metrics, VersionMetrics};

/// One version of a model, ready to serve. When the last reference is gone, its queue is closed and its threads end
/// after what they still hold.
pub struct ModelVersion {
    name: String,
    version: u64,
    digest: String,
    engine: String,
    options: LoadOptions,
    labels: Vec<String>,
    defaults: DetectOptions,
    buffers: Arc<BufferPool>,
    metrics: Arc<VersionMetrics>,
    shared: Arc<Shared>,
    instance_count: usize,
    instances: Mutex<Vec<Instance>>,
}

impl ModelVersion {
    /// Reads, loads, rehearses, opens and warms a version. The weights of `present`, the version of that number that
    /// serves, are used again if nothing but the sizes of batches and instances has changed. `aside`: others serve
    /// meanwhile, and go first. Blocks for as long as that takes.
    ///
    /// # Errors
    /// What failed, with the model's name, the version and the file.
    pub fn load(
        folder: &ModelFolder,
        version: u64,
        present: Option<&Self>,
        aside: bool,
        engines: &Engines,
        metrics: &Metrics,
    ) -> Result<Self, String> {
        let started = Instant::now();
        let manifest = &folder.manifest;
        let files = folder.read_version(version)?;
        let digest = digest(&folder.path.join(version.to_string()))
            .map_err(|error| format!("version {version}: its files cannot be read: {error}"))?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (instance_count, threads) = manifest.instances.resolve(manifest.device, cores);
        let options = manifest.load_options(&files.file, files.labels.len(), threads)?;
        let at = |error: &dyn std::fmt::Display| format!("{}: {error}", files.file.display());
        let present = present
            .filter(|present| present.is_live() && present.engine == manifest.engine && present.digest == digest);
        let model = match present.and_then(|present| present.resized(&options)) {
            Some(model) => model,
            None => engines.load(&manifest.engine, &options).map_err(|error| at(&error))?,
        };
        let spec = model.spec();
        match (&options.detector, &spec.detector) {
            (Some(_), None) => return Err(at(&"the engine made no detector of it")),
            (None, Some(_)) => return Err(at(&"the engine made a detector of it, the manifest has task = \"tensor\"")),
            (Some(_), Some(_)) | (None, None) => {}
        }
        let input_len = spec.detector.as_ref().map_or(0, |detector| detector.preprocess.input_len());

        if let Some(class) =
            manifest.options.classes.iter().flatten().find(|&&class| class as usize >= files.labels.len())
        {
            return Err(at(&format_args!(
                "options.classes: {class}, but the model has {} classes",
                files.labels.len()
            )));
        }
        let policy = manifest.policy(spec.batch);
        let sizes = warm_up_sizes(policy.max_batch, &policy.preferred);
        let queue = manifest.queue();
        let buffers = Arc::new(BufferPool::new(input_len, queue.capacity.min(4 * policy.max_batch)));
        let rehearsal = Rehearsal {
            model: model.as_ref(),
            sizes: &sizes,
            folder: &folder.path.join(version.to_string()),
            options: &manifest.options,
            golden: &manifest.golden,
            buffers: &buffers,
        };
        let golden = rehearsal.run(aside).map_err(|error| at(&error))?;
        // On the CPU the rehearsal has prepared everything but the instance itself; elsewhere each prepares for itself.
        let warm_up = if spec.device == Device::Cpu { &[1][..] } else { &sizes };
        let version_metrics = Arc::new(metrics.version(&folder.name, version, &files.labels));
        let shared = Arc::new(Shared {
            name: format!("{}/{version}", folder.name),
            queue: BatchQueue::new(queue, policy, version_metrics.queue_depth().clone()),
            buffers: Arc::clone(&buffers),
            metrics: Arc::clone(&version_metrics),
            live: AtomicUsize::new(0),
            model,
        });
        let loaded = Self {
            name: folder.name.clone(),
            version,
            digest,
            engine: manifest.engine.clone(),
            options,
            labels: files.labels.clone(),
            defaults: manifest.options.clone(),
            buffers,
            metrics: version_metrics,
            shared: Arc::clone(&shared),
            instance_count,
            instances: Mutex::default(),
        };
        for index in 0..instance_count {
            let instance = Instance::start(index, Arc::clone(&shared), warm_up).map_err(|error| at(&error))?;
            loaded.instances.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
        }
        let elapsed = started.elapsed();
        loaded.metrics.loaded(elapsed);
        info!(
            model = loaded.shared.name,
            engine = loaded.spec().engine,
            instances = instance_count,
            threads,
            golden,
            seconds = elapsed.as_secs_f32(),
            "loaded"
        );
        Ok(loaded)
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version's number.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The SHA-256 digest of the files that it was loaded from.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The class names in the order of their ids; none for a tensor model.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// What a request gets that does not choose for itself.
    #[must_use]
    pub fn defaults(&self) -> &DetectOptions {
        &self.defaults
    }

    /// What the engine says of the model.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        self.shared.model.spec()
    }

    /// How it makes boxes of pictures.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a tensor model.
    pub fn detector(&self) -> Result<&Detector, Error> {
        self.spec().detector.as_ref().ok_or_else(|| {
            let (name, version) = (&self.name, self.version);
            let message = format!("model `{name}` version {version} is a tensor model: it takes tensors, not pictures");
            Error::invalid(message)
        })
    }

    /// Engines that run beside each other.
    #[must_use]
    pub fn instance_count(&self) -> usize {
        self.instance_count
    }

    /// The most pictures, or rows of tensors, in one execution.
    #[must_use]
    pub fn max_batch(&self) -> usize {
        self.shared.queue.policy().max_batch
    }

    /// At least one instance can run work.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.shared.live.load(Ordering::Acquire) > 0
    }

    /// Where its work waits.
    #[must_use]
    pub fn queue(&self) -> &Arc<BatchQueue> {
        &self.shared.queue
    }

    /// Its input buffers.
    #[must_use]
    pub fn buffers(&self) -> &Arc<BufferPool> {
        &self.buffers
    }

    /// The weights for other sizes of batches and instances; `None` if `options` asks for more than that.
    fn resized(&self, options: &LoadOptions) -> Option<Arc<dyn Model>> {
        let (max_batch, threads) = (options.max_batch, options.threads);
        let of_its_size = LoadOptions { max_batch, threads, ..self.options.clone() };
        if of_its_size != *options {
            return None;
        }
        if (max_batch, threads) == (self.options.max_batch, self.options.threads) {
            return Some(Arc::clone(&self.shared.model));
        }
        self.shared.model.resized(max_batch, threads)
    }

    /// How many images of one request are in work at once: as many as keep every instance busy, and never so many that a
    /// request is refused for its own number of images.
    #[must_use]
    pub fn at_once(&self) -> usize {
        (self.max_batch() * self.instance_count * 2).min(self.shared.queue.settings().capacity / 2).max(1)
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<VersionMetrics> {
        &self.metrics
    }

    /// Takes no more work, runs what waits, and returns when every thread has ended. Blocks.
    pub fn drain(&self) {
        self.shared.queue.close();
        let instances = std::mem::take(&mut *self.instances.lock().unwrap_or_else(PoisonError::into_inner));
        for instance in instances {
            instance.join();
        }
    }

    /// Takes no more work and answers what waits with UNAVAILABLE.
    pub fn abandon(&self, reason: &str) {
        self.shared.queue.fail(&Error::unavailable(format!("{}: {reason}", self.shared.name)));
    }
}

impl Drop for ModelVersion {
    fn drop(&mut self) {
        // Not joined: the last reference may be dropped on the async runtime.
        self.shared.queue.close();
    }
}

/// The sizes at which engines prepare themselves: one, the preferred ones, the largest.
fn warm_up_sizes(max_batch: usize, preferred: &[usize]) -> Vec<usize> {
    let mut sizes = vec![1, max_batch];
    sizes.extend_from_slice(preferred);
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}
