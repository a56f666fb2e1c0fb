//! What Prometheus sees. One registry for the daemon, made in `app.rs` and handed down; nothing is global.
//!
//! The `nv_` names are those of other inference servers, so that existing dashboards and autoscalers read them;
//! `detectd_` names are our own.

mod gpu;
mod statistics;
mod version;

pub use statistics::{BatchStatistics, ExecutionTimes, Statistics, Sum};
pub use version::{FailureReason, InFlight, StageTimes, VersionMetrics};

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, PullingGauge, Registry,
    exponential_buckets, linear_buckets,
};

use crate::error::Error;
use crate::repository::Figures;

const VERSION_LABELS: [&str; 2] = ["model", "version"];

/// All metrics of the daemon.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    success: IntCounterVec,
    failure: IntCounterVec,
    rejected: IntCounterVec,
    images: IntCounterVec,
    executions: IntCounterVec,
    request_us: IntCounterVec,
    queue_us: IntCounterVec,
    compute_input_us: IntCounterVec,
    compute_infer_us: IntCounterVec,
    compute_output_us: IntCounterVec,
    pending: IntGaugeVec,
    load_seconds: GaugeVec,
    stage_seconds: HistogramVec,
    batch_size: HistogramVec,
    queue_depth: IntGaugeVec,
    decode_errors: IntCounterVec,
    detections: HistogramVec,
    score: HistogramVec,
    area: HistogramVec,
    swaps: IntCounterVec,
    trial_requests: GaugeVec,
    trial_agreement: GaugeVec,
    trial_pictures: GaugeVec,
    trial_class_changes: GaugeVec,
    trial_score_shift: GaugeVec,
    /// Loaded versions by model and number: while one is replaced by its own number there are two.
    used: Arc<Mutex<HashMap<(String, String), usize>>>,
}

impl Metrics {
    /// Makes and registers every metric.
    ///
    /// # Errors
    /// A name that the registry refuses, which would be a mistake in this file.
    pub fn new() -> prometheus::Result<Self> {
        let make = Maker { registry: Registry::new() };
        let version = |name, help| make.counter(name, help, &VERSION_LABELS);
        let seconds = exponential_buckets(0.0005, 2.0, 15)?;
        let build = make.gauge("detectd_build_info", "The running build; the value is always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            success: version("nv_inference_request_success", "Requests answered with boxes or tensors.")?,
            failure: make.counter(
                "nv_inference_request_failure",
                "Requests answered with an error, by reason.",
                &["model", "version", "reason"],
            )?,
            rejected: make.counter(
                "detectd_rejected_requests_total",
                "Requests answered with an error before any model version counted them, by gRPC code.",
                &["code"],
            )?,
            images: version("nv_inference_count", "Images, or rows of tensors, executed.")?,
            executions: version("nv_inference_exec_count", "Executions; each holds one image or row, or more.")?,
            request_us: version("nv_inference_request_duration_us", "Microseconds from arrival to answer, summed.")?,
            queue_us: version("nv_inference_queue_duration_us", "Microseconds in the queue, summed.")?,
            compute_input_us: version(
                "nv_inference_compute_input_duration_us",
                "Microseconds of decoding and resizing, summed.",
            )?,
            compute_infer_us: version(
                "nv_inference_compute_infer_duration_us",
                "Microseconds of the network, summed.",
            )?,
            compute_output_us: version(
                "nv_inference_compute_output_duration_us",
                "Microseconds from outputs to boxes, summed.",
            )?,
            pending: make.gauge(
                "nv_inference_pending_request_count",
                "Requests that have arrived and are not answered.",
                &VERSION_LABELS,
            )?,
            load_seconds: make.float_gauge(
                "nv_model_load_duration_secs",
                "Seconds that loading took, warm-up included.",
                &VERSION_LABELS,
            )?,
            stage_seconds: make.histogram(
                "detectd_stage_duration_seconds",
                "Seconds a request spent in each stage.",
                &["model", "version", "stage"],
                seconds,
            )?,
            batch_size: make.histogram(
                "detectd_batch_size",
                "Images, or rows of tensors, in one execution.",
                &VERSION_LABELS,
                vec![1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0],
            )?,
            queue_depth: make.gauge(
                "detectd_queue_depth",
                "Requests that hold a place of the queue: those being decoded and those waiting.",
                &VERSION_LABELS,
            )?,
            decode_errors: make.counter(
                "detectd_decode_errors_total",
                "Images that could not be decoded, by format.",
                &["format"],
            )?,
            detections: make.histogram(
                "detectd_detections_per_image",
                "Boxes in one answer.",
                &VERSION_LABELS,
                vec![0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0, 100.0, 300.0],
            )?,
            score: make.histogram(
                "detectd_detection_score",
                "Scores of the boxes answered, by class.",
                &["model", "version", "class"],
                linear_buckets(0.1, 0.1, 9)?,
            )?,
            area: make.histogram(
                "detectd_detection_area_ratio",
                "Areas of the boxes answered as a share of their image, by class.",
                &["model", "version", "class"],
                exponential_buckets(0.0005, 3.0, 7)?,
            )?,
            swaps: make.counter(
                "detectd_model_swaps_total",
                "Versions that came into service or did not, by outcome.",
                &["model", "outcome"],
            )?,
            trial_requests: make.float_gauge(
                "detectd_trial_requests",
                "Requests since the trial began, by the version's side and outcome.",
                &["model", "version", "side", "outcome"],
            )?,
            trial_agreement: make.float_gauge(
                "detectd_trial_agreement_ratio",
                "Mean agreement of the boxes of the version on trial with those of the one before, from 0 to 1.",
                &VERSION_LABELS,
            )?,
            trial_pictures: make.float_gauge(
                "detectd_trial_compared_pictures",
                "Pictures that both versions of a trial have answered.",
                &VERSION_LABELS,
            )?,
            trial_class_changes: make.float_gauge(
                "detectd_trial_class_change_ratio",
                "Share of the boxes of a trial that the version on trial finds with another class.",
                &VERSION_LABELS,
            )?,
            trial_score_shift: make.float_gauge(
                "detectd_trial_score_shift",
                "Mean difference of the scores of matched boxes, version on trial less the one before.",
                &VERSION_LABELS,
            )?,
            used: Arc::default(),
            registry: make.registry,
        })
    }

    /// The registry that the HTTP port shows.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// An image that could not be decoded.
    pub fn decode_error(&self, format: &str) {
        self.decode_errors.with_label_values(&[format]).inc();
    }

    /// A request that was answered with an error and that no model version counts.
    pub fn rejected(&self, code: impl std::fmt::Debug) {
        self.rejected.with_label_values(&[format!("{code:?}")]).inc();
    }

    /// The same by its error, unless something has counted it.
    pub fn refused(&self, error: &Error) {
        if !error.counted {
            self.rejected(error.code);
        }
    }

    /// Shows the machine's GPUs, if there are any.
    pub fn show_gpus(&self) {
        let registered = gpu::Gpus::of_machine().and_then(|gpus| match gpus {
            Some(gpus) => self.registry.register(Box::new(gpus)),
            None => Ok(()),
        });
        if let Err(error) = registered {
            tracing::warn!(%error, "the GPUs are not shown");
        }
    }

    /// Shows the bytes of unfinished and unanswered requests, asked for at each scrape.
    pub fn show_bytes_in_flight(&self, bytes: impl Fn() -> usize + Send + Sync + 'static) {
        let help = "Bytes of requests held in memory, bounded by server.max_bytes_in_flight.";
        let gauge = PullingGauge::new("detectd_request_bytes_in_flight", help, Box::new(move || bytes() as f64));
        let registered = gauge.and_then(|gauge| self.registry.register(Box::new(gauge)));
        if let Err(error) = registered {
            tracing::warn!(%error, "the bytes in flight are not shown");
        }
    }

    /// A version of `model` came into service or did not.
    pub fn swap(&self, model: &str, outcome: &str) {
        self.swaps.with_label_values(&[model, outcome]).inc();
    }

    /// Nothing is counted of `model` any more.
    pub fn forget_swaps(&self, model: &str) {
        for outcome in ["serving", "failed", "on_trial", "promoted", "rolled_back"] {
            // One that is not there is what is wanted.
            let _ = self.swaps.remove_label_values(&[model, outcome]);
        }
    }

    /// What a trial of a version of `model` has seen so far.
    pub fn trial(&self, model: &str, version: u64, figures: &Figures) {
        let version = version.to_string();
        let of = [model, version.as_str()];
        for (side, requests) in [("baseline", &figures.baseline), ("candidate", &figures.candidate)] {
            for (outcome, count) in [("good", requests.good), ("failed", requests.failed)] {
                self.trial_requests.with_label_values(&[of[0], of[1], side, outcome]).set(count as f64);
            }
        }
        let boxes = &figures.boxes;
        self.trial_agreement.with_label_values(&of).set(figures.agreement());
        self.trial_pictures.with_label_values(&of).set(figures.compared as f64);
        self.trial_class_changes.with_label_values(&of).set(boxes.class_changes as f64 / boxes.first.max(1) as f64);
        self.trial_score_shift.with_label_values(&of).set(boxes.score_shift / boxes.matched.max(1) as f64);
    }

    /// The metrics of one model version. They disappear with the last that has its number.
    #[must_use]
    pub fn version(&self, model: &str, version: u64, labels: &[String]) -> VersionMetrics {
        VersionMetrics::new(self.clone(), model, &version.to_string(), labels)
    }
}

/// Whole microseconds, as the counters want them.
fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

struct Maker {
    registry: Registry,
}

impl Maker {
    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    fn float_gauge(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        let gauge = GaugeVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> prometheus::Result<HistogramVec> {
        let histogram = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?;
        self.registry.register(Box::new(histogram.clone()))?;
        Ok(histogram)
    }
}
