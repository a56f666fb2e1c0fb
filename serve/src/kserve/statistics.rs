//! What was counted, as ModelStatistics tells it.

use std::time::{Duration, UNIX_EPOCH};

use detectd_engine::Device;
use detectd_proto::inference as wire;

use crate::error::Error;
use crate::metrics::{BatchStatistics, Statistics, Sum};
use crate::repository::{ModelVersion, Repository, State};

/// The statistics of `model`, or of all models when it is empty; of one version, or of all that serve when it is 0.
///
/// # Errors
/// An unknown model or version, or one that does not serve.
pub fn of(repository: &Repository, model: &str, version: u64) -> Result<Vec<wire::ModelStatistics>, Error> {
    if version > 0 {
        return Ok(vec![statistics(repository, &*repository.get(model, version)?)]);
    }
    if !model.is_empty() {
        // Says what is wrong with a model that has no version to list.
        repository.get(model, 0)?;
    }
    let index = repository.index();
    let wanted = index.iter().filter(|(name, _)| model.is_empty() || *name == model);
    let ready = wanted.flat_map(|(_, versions)| versions.values()).filter_map(|entry| match &entry.state {
        State::Ready(version) => Some(statistics(repository, version)),
        State::Loading | State::Failed(_) => None,
    });
    Ok(ready.collect())
}

fn statistics(repository: &Repository, version: &ModelVersion) -> wire::ModelStatistics {
    let Statistics { success, failure, queue, decode, compute, postprocess, pictures, executions, batches, last } =
        version.metrics().statistics();
    let since_epoch = last.and_then(|last| last.duration_since(UNIX_EPOCH).ok());
    let batch = |(size, batch): (usize, BatchStatistics)| wire::InferBatchStatistics {
        batch_size: size as u64,
        compute_input: duration(batch.assemble),
        compute_infer: duration(batch.compute),
        compute_output: duration(batch.postprocess),
    };
    wire::ModelStatistics {
        name: version.name().to_owned(),
        version: version.version().to_string(),
        last_inference: since_epoch.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
        inference_count: pictures,
        execution_count: executions,
        inference_stats: Some(wire::InferStatistics {
            success: duration(success),
            fail: duration(failure),
            queue: duration(queue),
            compute_input: duration(decode),
            compute_infer: duration(compute),
            compute_output: duration(postprocess),
            cache_hit: duration(Sum::default()),
            cache_miss: duration(Sum::default()),
        }),
        batch_stats: batches.into_iter().map(batch).collect(),
        memory_usage: memory(repository, version).into_iter().collect(),
    }
}

/// The weights, by the size of their files: engines do not tell what they make of them.
fn memory(repository: &Repository, version: &ModelVersion) -> Option<wire::MemoryUsage> {
    let byte_size = repository.weight_bytes(version.name(), version.version())?;
    let (r#type, id) = match version.spec().device {
        Device::Cpu => ("CPU", 0),
        Device::Cuda(index) => ("GPU", i64::from(index)),
    };
    Some(wire::MemoryUsage { r#type: r#type.to_owned(), id, byte_size })
}

fn duration(Sum { count, time }: Sum) -> Option<wire::StatisticDuration> {
    Some(wire::StatisticDuration { count, ns: nanoseconds(time) })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
