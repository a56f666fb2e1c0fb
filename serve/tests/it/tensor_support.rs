//! A pipeline over tensor models, without the ports around it.

use std::fs;
use std::sync::Arc;

use detectd::batch::Priority;
use detectd::config::Config;
use detectd::cpu_pool::CpuPool;
use detectd::engines::Engines;
use detectd::error::Error;
use detectd::lifecycle::Lifecycle;
use detectd::metrics::Metrics;
use detectd::pipeline::{Limits, Pipeline, TensorAnswer, TensorJob};
use detectd::repository::Repository;
use detectd_engine::{Tensor, TensorData};
use detectd_vision::DecodeLimits;
use tokio::task::JoinHandle;

use crate::support::eventually;
use crate::tensor_engine::Control;

/// A pipeline over one tensor model called `adder`.
pub struct Served {
    pub control: Arc<Control>,
    pub pipeline: Arc<Pipeline>,
    pub metrics: Metrics,
}

/// What a request is answered.
pub type Answered = JoinHandle<Result<TensorAnswer, Error>>;

impl Served {
    /// With rows of any length, on one instance unless the manifest says otherwise.
    pub fn start(manifest: &str) -> Self {
        Self::with_dims(manifest, &[None, None])
    }

    pub fn with_dims(manifest: &str, dims: &[Option<usize>]) -> Self {
        let control = Arc::new(Control::default());
        let engines = Engines::built_in().with("adder", control.loader(dims));
        let instances = if manifest.contains("[instances]") { "" } else { "[instances]\ncount = 1\n" };
        let manifest = format!("task = \"tensor\"\nengine = \"adder\"\nfile = \"model.test\"\n{manifest}\n{instances}");
        let (pipeline, metrics) = pipeline(&[("adder", &manifest, "model.test", b"")], &engines);
        Self { control, pipeline, metrics }
    }

    /// Sends a request and waits until it is `queued`-th in the queue, or taken where that is 0.
    pub async fn send(&self, inputs: Tensor, priority: Priority, queued: usize) -> Answered {
        let before = self.control.executions().len();
        let pipeline = Arc::clone(&self.pipeline);
        let call = tokio::spawn(async move { pipeline.infer(TensorJob { priority, ..job(inputs) }).await });
        eventually("queued, or taken", async || match queued {
            0 => self.control.executions().len() > before,
            queued => self.waiting() == queued,
        })
        .await;
        call
    }

    /// Requests in the queue.
    pub fn waiting(&self) -> usize {
        self.pipeline.repository().get("adder", 0).unwrap().queue().len()
    }

    /// The sum of a metric over the lines that have `label`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.metrics.registry().gather()).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// No request is left anywhere.
    pub fn nothing_pending(&self) {
        assert_eq!(self.metric("nv_inference_pending_request_count", ""), 0.0);
        assert_eq!(self.metric("detectd_queue_depth", ""), 0.0);
        assert_eq!(self.waiting(), 0);
    }
}

/// A pipeline over models of name, manifest, file and content.
pub fn pipeline(models: &[(&str, &str, &str, &[u8])], engines: &Engines) -> (Arc<Pipeline>, Metrics) {
    let folder = tempfile::tempdir().unwrap();
    for (name, manifest, file, content) in models {
        let version = folder.path().join(name).join("1");
        fs::create_dir_all(&version).unwrap();
        fs::write(version.join(file), content).unwrap();
        fs::write(folder.path().join(name).join("model.toml"), manifest).unwrap();
    }
    let metrics = Metrics::new().unwrap();
    let repository = Repository::load_all(Config::embedded(folder.path()).repository, engines, &metrics).unwrap();
    let limits = Limits { decode: DecodeLimits { max_pixels: 1_000_000 }, max_detections: 100 };
    let (cpu, lifecycle) = (CpuPool::new(1).unwrap(), Arc::new(Lifecycle::default()));
    (Arc::new(Pipeline::new(repository, cpu, metrics.clone(), lifecycle, limits)), metrics)
}

/// A request of `rows` rows with three values each, marked `mark`.
pub fn rows(mark: u8, rows: usize) -> Tensor {
    tensor(mark, &[rows, 3])
}

/// A tensor full of `mark`.
pub fn tensor(mark: u8, shape: &[usize]) -> Tensor {
    Tensor::new(shape.to_vec(), TensorData::Fp32(vec![f32::from(mark); shape.iter().product()])).unwrap()
}

/// A request for `adder`.
pub fn job(inputs: Tensor) -> TensorJob {
    let (model, inputs) = ("adder".to_owned(), vec![inputs]);
    TensorJob { model, version: 0, inputs, priority: Priority::Normal, deadline: None }
}

/// The answer must be the request's tensor of `mark` and `shape`, with one added.
pub fn assert_added(answer: &TensorAnswer, mark: u8, shape: &[usize]) {
    assert_eq!(answer.outputs, [tensor(mark + 1, shape)]);
}
