//! Exact counts of one version: what the statistics of the KServe protocol report. Prometheus' counters are whole
//! microseconds and cannot be read at one moment together; these can.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::StageTimes;

/// How often something happened and how long it took in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How often.
    pub count: u64,
    /// How long, all together.
    pub time: Duration,
}

impl Sum {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time = self.time.saturating_add(time);
    }
}

/// What one execution took, for all its pictures together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExecutionTimes {
    /// Gathering the pictures into the network's input.
    pub assemble: Duration,
    /// The network.
    pub compute: Duration,
    /// From outputs to boxes.
    pub postprocess: Duration,
}

/// The executions of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchStatistics {
    /// Gathering the pictures into the network's input.
    pub assemble: Sum,
    /// The network.
    pub compute: Sum,
    /// From outputs to boxes.
    pub postprocess: Sum,
}

/// Everything that is counted exactly, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Requests answered with boxes, from arrival to answer.
    pub success: Sum,
    /// Requests that were not, whatever the reason.
    pub failure: Sum,
    /// Waiting for an execution to begin.
    pub queue: Sum,
    /// Decoding and resizing.
    pub decode: Sum,
    /// The network.
    pub compute: Sum,
    /// From outputs to boxes.
    pub postprocess: Sum,
    /// Pictures executed.
    pub pictures: u64,
    /// Executions.
    pub executions: u64,
    /// The executions by their size.
    pub batches: BTreeMap<usize, BatchStatistics>,
    /// When the last picture was answered.
    pub last: Option<SystemTime>,
}

/// Gathers [`Statistics`].
#[derive(Debug, Default)]
pub(super) struct Recorder {
    statistics: Mutex<Statistics>,
}

impl Recorder {
    pub(super) fn succeeded(&self, times: &StageTimes, total: Duration) {
        let now = SystemTime::now();
        let mut statistics = self.statistics.lock();
        statistics.success.add(total);
        statistics.queue.add(times.queue);
        statistics.decode.add(times.decode);
        statistics.compute.add(times.compute);
        statistics.postprocess.add(times.postprocess);
        statistics.last = Some(now);
    }

    pub(super) fn failed(&self, total: Duration) {
        self.statistics.lock().failure.add(total);
    }

    pub(super) fn executed(&self, pictures: usize, times: &ExecutionTimes) {
        let mut statistics = self.statistics.lock();
        statistics.pictures += pictures as u64;
        statistics.executions += 1;
        let batch = statistics.batches.entry(pictures).or_default();
        batch.assemble.add(times.assemble);
        batch.compute.add(times.compute);
        batch.postprocess.add(times.postprocess);
    }

    pub(super) fn snapshot(&self) -> Statistics {
        self.statistics.lock().clone()
    }
}
