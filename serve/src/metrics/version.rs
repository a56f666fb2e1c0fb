//! The metrics of one model version.

use std::time::{Duration, Instant};

use detectd_vision::Detection;
use prometheus::{Histogram, IntCounter, IntGauge};

use super::statistics::Recorder;
use super::{ExecutionTimes, Metrics, Statistics, microseconds};
use crate::error::{Error, ErrorCode};

const STAGES: [&str; 5] = ["decode", "queue", "compute", "postprocess", "total"];

/// The metrics of one model version, their labels resolved once. When it is dropped, its labels go.
pub struct VersionMetrics {
    all: Metrics,
    model: String,
    version: String,
    labels: Vec<String>,
    success: IntCounter,
    images: IntCounter,
    executions: IntCounter,
    request_us: IntCounter,
    queue_us: IntCounter,
    compute_input_us: IntCounter,
    compute_infer_us: IntCounter,
    compute_output_us: IntCounter,
    pending: IntGauge,
    queue_depth: IntGauge,
    stages: [Histogram; 5],
    batch_size: Histogram,
    detections: Histogram,
    scores: Vec<Histogram>,
    areas: Vec<Histogram>,
    recorder: Recorder,
}

/// Why a request failed, in the words that other inference servers use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReason {
    /// No room, or not serving.
    Rejected,
    /// The caller went away or its deadline passed.
    Canceled,
    /// The engine failed.
    Backend,
    /// The request itself was wrong.
    Other,
}

impl FailureReason {
    const ALL: [Self; 4] = [Self::Rejected, Self::Canceled, Self::Backend, Self::Other];

    fn label(self) -> &'static str {
        match self {
            Self::Rejected => "REJECTED",
            Self::Canceled => "CANCELED",
            Self::Backend => "BACKEND",
            Self::Other => "OTHER",
        }
    }
}

impl From<ErrorCode> for FailureReason {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::ResourceExhausted | ErrorCode::Unavailable => Self::Rejected,
            ErrorCode::Cancelled | ErrorCode::DeadlineExceeded => Self::Canceled,
            ErrorCode::Internal => Self::Backend,
            ErrorCode::InvalidArgument | ErrorCode::NotFound | ErrorCode::Unimplemented => Self::Other,
        }
    }
}

/// The time that an answered request spent in each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Decoding and resizing, the wait for a core included.
    pub decode: Duration,
    /// Waiting for an execution to begin.
    pub queue: Duration,
    /// The network.
    pub compute: Duration,
    /// From outputs to boxes.
    pub postprocess: Duration,
}

impl VersionMetrics {
    pub(super) fn new(all: Metrics, model: &str, version: &str, labels: &[String]) -> Self {
        let of = [model, version];
        *all.used.lock().entry((model.to_owned(), version.to_owned())).or_default() += 1;
        for reason in FailureReason::ALL {
            all.failure.with_label_values(&[model, version, reason.label()]);
        }
        Self {
            success: all.success.with_label_values(&of),
            images: all.images.with_label_values(&of),
            executions: all.executions.with_label_values(&of),
            request_us: all.request_us.with_label_values(&of),
            queue_us: all.queue_us.with_label_values(&of),
            compute_input_us: all.compute_input_us.with_label_values(&of),
            compute_infer_us: all.compute_infer_us.with_label_values(&of),
            compute_output_us: all.compute_output_us.with_label_values(&of),
            pending: all.pending.with_label_values(&of),
            queue_depth: all.queue_depth.with_label_values(&of),
            stages: STAGES.map(|stage| all.stage_seconds.with_label_values(&[model, version, stage])),
            batch_size: all.batch_size.with_label_values(&of),
            detections: all.detections.with_label_values(&of),
            scores: labels.iter().map(|label| all.score.with_label_values(&[model, version, label])).collect(),
            areas: labels.iter().map(|label| all.area.with_label_values(&[model, version, label])).collect(),
            model: model.to_owned(),
            version: version.to_owned(),
            labels: labels.to_vec(),
            recorder: Recorder::default(),
            all,
        }
    }

    /// How long loading took.
    pub fn loaded(&self, duration: Duration) {
        self.all.load_seconds.with_label_values(&[&self.model, &self.version]).set(duration.as_secs_f64());
    }

    /// One execution of `rows` pictures or rows of tensors.
    pub fn executed(&self, rows: usize, times: &ExecutionTimes) {
        self.recorder.executed(rows, times);
        self.executions.inc();
        self.images.inc_by(rows as u64);
        self.batch_size.observe(rows as f64);
    }

    /// A request has arrived; it is pending until the guard is gone.
    #[must_use]
    pub fn arrived(&self) -> InFlight<'_> {
        self.pending.inc();
        InFlight { metrics: self, since: Instant::now(), finished: false }
    }

    /// Shows how many places of the queue are taken.
    #[must_use]
    pub fn queue_depth(&self) -> &IntGauge {
        &self.queue_depth
    }

    /// The exact counts as they are now.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.recorder.snapshot()
    }

    fn fail(&self, reason: FailureReason, after: Duration) {
        self.recorder.failed(after);
        self.all.failure.with_label_values(&[&self.model, &self.version, reason.label()]).inc();
    }
}

impl Drop for VersionMetrics {
    fn drop(&mut self) {
        {
            let mut used = self.all.used.lock();
            let key = (self.model.clone(), self.version.clone());
            if let Some(count) = used.get_mut(&key) {
                *count -= 1;
                if *count > 0 {
                    // Another version of the same number goes on counting.
                    return;
                }
                used.remove(&key);
            }
        }
        // A label that is not there any more is no loss.
        let of = [self.model.as_str(), self.version.as_str()];
        let all = &self.all;
        for counter in [
            &all.success,
            &all.images,
            &all.executions,
            &all.request_us,
            &all.queue_us,
            &all.compute_input_us,
            &all.compute_infer_us,
            &all.compute_output_us,
        ] {
            let _ = counter.remove_label_values(&of);
        }
        let _ = all.pending.remove_label_values(&of);
        let _ = all.queue_depth.remove_label_values(&of);
        let _ = all.load_seconds.remove_label_values(&of);
        let _ = all.batch_size.remove_label_values(&of);
        let _ = all.detections.remove_label_values(&of);
        for gauge in [&all.trial_agreement, &all.trial_pictures, &all.trial_class_changes, &all.trial_score_shift] {
            let _ = gauge.remove_label_values(&of);
        }
        for side in ["baseline", "candidate"] {
            for outcome in ["good", "failed"] {
                let _ = all.trial_requests.remove_label_values(&[of[0], of[1], side, outcome]);
            }
        }
        for reason in FailureReason::ALL {
            let _ = all.failure.remove_label_values(&[of[0], of[1], reason.label()]);
        }
        for stage in STAGES {
            let _ = all.stage_seconds.remove_label_values(&[of[0], of[1], stage]);
        }
        for label in &self.labels {
            let _ = all.score.remove_label_values(&[of[0], of[1], label]);
            let _ = all.area.remove_label_values(&[of[0], of[1], label]);
        }
    }
}

/// A request that is not answered yet. Dropped without a word, it counts as cancelled: its caller went away.
pub struct InFlight<'a> {
    metrics: &'a VersionMetrics,
    since: Instant,
    finished: bool,
}

impl InFlight<'_> {
    /// When the request arrived.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The request was answered with boxes in an image of `width` by `height` pixels. Returns the time from its arrival.
    pub fn succeeded(self, times: &StageTimes, detections: &[Detection], (width, height): (u32, u32)) -> Duration {
        let metrics = self.metrics;
        metrics.detections.observe(detections.len() as f64);
        let image = f64::from(width) * f64::from(height);
        for detection in detections {
            let class = detection.class_id as usize;
            if let (Some(score), Some(area)) = (metrics.scores.get(class), metrics.areas.get(class)) {
                score.observe(f64::from(detection.score));
                area.observe(f64::from(detection.bbox.area()) / image.max(1.0));
            }
        }
        self.inferred(times)
    }

    /// The request was answered with tensors. Returns the time from its arrival.
    pub fn inferred(mut self, times: &StageTimes) -> Duration {
        self.finished = true;
        let total = self.since.elapsed();
        let metrics = self.metrics;
        metrics.recorder.succeeded(times, total);
        metrics.success.inc();
        metrics.request_us.inc_by(microseconds(total));
        metrics.queue_us.inc_by(microseconds(times.queue));
        metrics.compute_input_us.inc_by(microseconds(times.decode));
        metrics.compute_infer_us.inc_by(microseconds(times.compute));
        metrics.compute_output_us.inc_by(microseconds(times.postprocess));
        let stages = [times.decode, times.queue, times.compute, times.postprocess, total];
        for (histogram, time) in metrics.stages.iter().zip(stages) {
            histogram.observe(time.as_secs_f64());
        }
        total
    }

    /// The request was answered with `error`.
    pub fn failed(mut self, error: &Error) {
        self.finished = true;
        self.metrics.fail(error.code.into(), self.since.elapsed());
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.pending.dec();
        if !self.finished {
            self.metrics.fail(FailureReason::Canceled, self.since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    fn text(metrics: &Metrics) -> String {
        TextEncoder::new().encode_to_string(&metrics.registry().gather()).unwrap()
    }

    #[test]
    fn every_way_out_of_a_request_is_counted_and_nothing_stays_pending() {
        let metrics = Metrics::new().unwrap();
        let version = metrics.version("parts", 3, &["bolt".into()]);
        version.arrived().succeeded(&StageTimes::default(), &[], (10, 10));
        version.arrived().failed(&Error::invalid("no picture"));
        drop(version.arrived());
        let text = text(&metrics);
        for line in [
            r#"nv_inference_request_success{model="parts",version="3"} 1"#,
            r#"nv_inference_request_failure{model="parts",reason="OTHER",version="3"} 1"#,
            r#"nv_inference_request_failure{model="parts",reason="CANCELED",version="3"} 1"#,
            r#"nv_inference_request_failure{model="parts",reason="BACKEND",version="3"} 0"#,
            r#"nv_inference_pending_request_count{model="parts",version="3"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn exact_counts_are_kept_beside_the_rounded_ones() {
        let metrics = Metrics::new().unwrap();
        let version = metrics.version("parts", 3, &[]);
        let nanoseconds = Duration::from_nanos;
        let stages = StageTimes { decode: nanoseconds(3), queue: nanoseconds(5), ..StageTimes::default() };
        assert_eq!(version.statistics(), Statistics::default());
        for _ in 0..2 {
            version.arrived().succeeded(&stages, &[], (10, 10));
        }
        version.arrived().failed(&Error::invalid("no picture"));
        drop(version.arrived());
        let times = ExecutionTimes { compute: nanoseconds(7), ..ExecutionTimes::default() };
        version.executed(4, &times);
        version.executed(4, &times);
        version.executed(1, &times);
        let statistics = version.statistics();
        assert_eq!((statistics.success.count, statistics.failure.count), (2, 2));
        assert_eq!((statistics.decode.time, statistics.queue.time), (nanoseconds(6), nanoseconds(10)));
        assert_eq!((statistics.pictures, statistics.executions), (9, 3));
        assert!(statistics.last.is_some());
        let sizes: Vec<_> = statistics.batches.iter().map(|(size, batch)| (*size, batch.compute.time)).collect();
        assert_eq!(sizes, [(1, nanoseconds(7)), (4, nanoseconds(14))]);
    }

    #[test]
    fn a_version_takes_its_labels_with_it() {
        let metrics = Metrics::new().unwrap();
        let version = metrics.version("parts", 3, &["bolt".into()]);
        version.loaded(Duration::from_secs(1));
        assert!(text(&metrics).contains("parts"));
        drop(version);
        assert!(!text(&metrics).contains("parts"), "{}", text(&metrics));
    }
}
