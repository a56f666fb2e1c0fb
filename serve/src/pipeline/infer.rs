//! The life of a tensor request: checked, queued, executed with others of its shape.

use std::sync::Arc;
use std::time::Instant;

use detectd_engine::{Batch, ModelSpec, Tensor};

use super::{Pipeline, before, execute, reserve, trial};
use crate::batch::{Completed, Output, Payload, Priority};
use crate::error::Error;
use crate::metrics::StageTimes;
use crate::repository::{ModelVersion, Pick, Side};

/// What a caller asks of a tensor model.
#[derive(Clone, Debug)]
pub struct TensorJob {
    /// The model's name; may be empty where there is only one.
    pub model: String,
    /// The version's number; 0 for the one that answers where none is named.
    pub version: u64,
    /// The inputs in the model's order, each with its batch dimension where the model has one.
    pub inputs: Vec<Tensor>,
    /// When it goes.
    pub priority: Priority,
    /// After which the answer is of no use.
    pub deadline: Option<Instant>,
}

/// The answer of a tensor model.
#[derive(Clone)]
pub struct TensorAnswer {
    /// Who answered.
    pub version: Arc<ModelVersion>,
    /// The outputs in the model's order, with as many rows as the inputs.
    pub outputs: Vec<Tensor>,
    /// Where the time went.
    pub times: StageTimes,
    /// How many rows the execution held.
    pub batch_size: usize,
}

impl Pipeline {
    /// Runs one request's tensors.
    ///
    /// # Errors
    /// See [`crate::error::ErrorCode`]; the message names what was wrong.
    pub async fn infer(&self, job: TensorJob) -> Result<TensorAnswer, Error> {
        let pick = || self.repository.pick(&job.model, job.version, "");
        let pick = self.lifecycle.admit().and_then(|()| pick()).map_err(|error| self.reject(error))?;
        self.infer_on(pick, job).await
    }

    /// The same on a version that was picked before; the job's own choice is not looked at.
    ///
    /// # Errors
    /// As [`Self::infer`].
    pub async fn infer_on(&self, pick: Pick, job: TensorJob) -> Result<TensorAnswer, Error> {
        let Some((rollout, side)) = pick.trial else { return tensors(&pick.version, job).await };
        // Nobody pays for a trial: the version that answered before answers this one too, if it takes the same.
        let same = takes_the_same(rollout.candidate.spec(), rollout.baseline.spec());
        let again = (side == Side::Candidate && same).then(|| job.clone());
        let started = Instant::now();
        match tensors(&pick.version, job).await {
            Ok(answer) => {
                rollout.answered(side, started.elapsed());
                Ok(answer)
            }
            Err(error) if trial::is_to_blame(&error) => {
                rollout.failed(side);
                match again {
                    Some(job) => tensors(&rollout.baseline, job).await,
                    None => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }
}

async fn tensors(version: &Arc<ModelVersion>, job: TensorJob) -> Result<TensorAnswer, Error> {
    let request = version.metrics().arrived();
    match before(job.deadline, run(version, job, request.since())).await {
        Ok((outputs, times, batch_size)) => {
            request.inferred(&times);
            Ok(TensorAnswer { version: Arc::clone(version), outputs, times, batch_size })
        }
        Err(error) => {
            request.failed(&error);
            Err(error.counted())
        }
    }
}

/// The same inputs in the same order.
fn takes_the_same(one: &ModelSpec, other: &ModelSpec) -> bool {
    let names =
        |spec: &ModelSpec| spec.inputs.iter().map(|input| (input.name.clone(), input.data_type)).collect::<Vec<_>>();
    names(one) == names(other)
}

async fn run(
    version: &ModelVersion,
    job: TensorJob,
    arrived: Instant,
) -> Result<(Vec<Tensor>, StageTimes, usize), Error> {
    let payload = check(version, job.inputs)?;
    let place = reserve(version)?;
    let decode = arrived.elapsed();
    let Completed { output, queue, compute, postprocess, batch_size } =
        execute(version, place, payload, job.priority, job.deadline).await?;
    let Output::Tensors(outputs) = output else {
        return Err(Error::internal("boxes came for a tensor request"));
    };
    Ok((outputs, StageTimes { decode, queue, compute, postprocess }, batch_size))
}

/// What does not fit is refused before it takes a place of the queue.
fn check(version: &ModelVersion, inputs: Vec<Tensor>) -> Result<Payload, Error> {
    let model = || format!("model `{}` version {}", version.name(), version.version());
    if version.spec().detector.is_some() {
        return Err(Error::invalid(format!("{} is a detector: it takes pictures, not tensors", model())));
    }
    let inputs = Batch { inputs };
    let rows = version.spec().rows(&inputs).map_err(|error| Error::invalid(error.to_string()).context(model()))?;
    if rows > version.max_batch() {
        let max = version.max_batch();
        return Err(Error::invalid(format!("{}: a batch of {rows}, at most {max} are executed together", model())));
    }
    Ok(Payload::Tensors { inputs, rows })
}
