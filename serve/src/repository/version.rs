//! One version of a model, loaded: its weights, its queue, its instances.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use detectd_engine::{Detector, Device, LoadOptions, Model, ModelSpec};
use detectd_vision::DetectOptions;
use tracing::info;

use super::aside;
use super::layout::ModelFolder;
use super::prepare::Prepared;
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
    /// Reads, loads and rehearses a version, and opens its instances. The weights of `present`, the version of that number
    /// that serves, are used again if nothing but the sizes of batches and instances has changed. `aside`: others serve
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
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (instance_count, threads) = manifest.instances.resolve(manifest.device, cores);
        let prepared = aside::run(aside, || Prepared::read(folder, version, threads, present, engines))?;
        let Prepared { file, labels, digest, options, model, policy, sizes, buffers, golden } = prepared;
        let at = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        // On the CPU the rehearsal has prepared everything; elsewhere each instance prepares for itself.
        let warm_up = if model.spec().device == Device::Cpu { &[][..] } else { &sizes };
        let version_metrics = Arc::new(metrics.version(&folder.name, version, &labels));
        let shared = Arc::new(Shared {
            name: format!("{}/{version}", folder.name),
            queue: BatchQueue::new(manifest.queue(), policy, version_metrics.queue_depth().clone()),
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
            labels,
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

    /// The weights for other sizes of batches and instances; `None` if it is not live, or more than that is asked for.
    pub(super) fn weights_for(&self, engine: &str, digest: &str, options: &LoadOptions) -> Option<Arc<dyn Model>> {
        if !self.is_live() || self.engine != engine || self.digest != digest {
            return None;
        }
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
