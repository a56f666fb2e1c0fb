//! How a model is executed: its batches, its queue, its instances.

use detectd_engine::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Task;

/// How requests are gathered into executions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Batching {
    /// The most pictures, or rows of tensors, in one execution. A file with a fixed batch keeps its own. 0, for tensor
    /// models only: the first dimension of the inputs is no batch, and requests are run one by one.
    pub max_batch_size: usize,
    /// Sizes that the engine runs best at. Such a batch goes at once, others wait for more.
    pub preferred_batch_sizes: Vec<usize>,
    /// The longest that a request waits for company while an instance is idle, in microseconds. 0: an idle instance
    /// takes what there is, and batches grow by themselves while instances are busy.
    pub max_delay_us: u64,
    /// Pictures or tensor requests that may wait, those being decoded included. More are refused with
    /// RESOURCE_EXHAUSTED.
    pub queue_capacity: usize,
    /// The longest that a request waits for an instance, in milliseconds; then it is refused with UNAVAILABLE, while
    /// the instances are still busy. 0: for as long as its own deadline allows.
    pub queue_timeout_ms: u64,
    /// With several instances, let answers leave in the order in which the instances took the requests: an instance
    /// that is done early waits for those before it. Among requests of one priority that is the order in which they
    /// came; refusals leave at once. The answers of one gRPC stream, refusals too, leave in the order of its requests.
    pub preserve_order: bool,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            max_batch_size: 8,
            preferred_batch_sizes: Vec::new(),
            max_delay_us: 0,
            queue_capacity: 128,
            queue_timeout_ms: 0,
            preserve_order: false,
        }
    }
}

impl Batching {
    pub(super) fn validate(&self, task: Task) -> Result<(), String> {
        let smallest = match task {
            Task::Detect => 1,
            Task::Tensor => 0,
        };
        if !(smallest..=1024).contains(&self.max_batch_size) {
            let size = self.max_batch_size;
            return Err(format!("batching.max_batch_size must be from {smallest} to 1024, not {size}"));
        }
        if let Some(size) = self.preferred_batch_sizes.iter().find(|&&size| size == 0 || size > self.max_batch_size) {
            let max = self.max_batch_size;
            return Err(format!("batching.preferred_batch_sizes must be from 1 to max_batch_size ({max}), not {size}"));
        }
        if self.queue_capacity == 0 || self.queue_capacity > 1_000_000 {
            return Err(format!("batching.queue_capacity must be from 1 to 1000000, not {}", self.queue_capacity));
        }
        if self.max_delay_us > 60_000_000 {
            return Err(format!("batching.max_delay_us must be at most 60000000, not {}", self.max_delay_us));
        }
        if self.queue_timeout_ms > 3_600_000 {
            return Err(format!("batching.queue_timeout_ms must be at most 3600000, not {}", self.queue_timeout_ms));
        }
        Ok(())
    }
}

/// How many engines run beside each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Instances {
    /// Engines that share the weights. 0: on the CPU as many as `threads` allows on the cores, elsewhere 1.
    pub count: usize,
    /// Threads for each engine on the CPU. 0: all cores divided by `count`, or 1 if that is 0 too.
    pub threads: usize,
}

impl Instances {
    /// Instances and threads for each on a machine with `cores` cores.
    #[must_use]
    pub fn resolve(self, device: Device, cores: usize) -> (usize, usize) {
        let cores = cores.max(1);
        match (self.count, self.threads, device) {
            (0, 0, Device::Cpu) => (cores, 1),
            (0, threads, Device::Cpu) => ((cores / threads).max(1), threads),
            (0, threads, Device::Cuda(_)) => (1, threads),
            (count, 0, _) => (count, (cores / count).max(1)),
            (count, threads, _) => (count, threads),
        }
    }

    pub(super) fn validate(self) -> Result<(), String> {
        for (name, value) in [("count", self.count), ("threads", self.threads)] {
            if value > 1024 {
                return Err(format!("instances.{name} must be at most 1024, not {value}"));
            }
        }
        let threads = self.count.max(1) * self.threads.max(1);
        if threads > 1024 {
            return Err(format!("instances.count times instances.threads must be at most 1024, not {threads}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_divide_the_cores() {
        let resolve = |count, threads, device| Instances { count, threads }.resolve(device, 8);
        assert_eq!(resolve(0, 0, Device::Cpu), (8, 1));
        assert_eq!(resolve(0, 4, Device::Cpu), (2, 4));
        assert_eq!(resolve(2, 0, Device::Cpu), (2, 4));
        assert_eq!(resolve(3, 5, Device::Cpu), (3, 5));
        assert_eq!(resolve(0, 0, Device::Cuda(0)), (1, 0));
    }
}
