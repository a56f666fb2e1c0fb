//! What requests do for a trial: the other version is shown some of the pictures, behind everyone's back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use detectd_vision::Detection;

use super::{DetectJob, Pipeline};
use crate::batch::Priority;
use crate::error::{Error, ErrorCode};
use crate::repository::{Agreement, Rollout, Side};

/// How long the other version may take for a picture that nobody waits for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether a failure speaks against the version: not what its caller did wrong, and not that the caller went away.
pub(super) fn is_to_blame(error: &Error) -> bool {
    matches!(
        error.code,
        ErrorCode::Internal | ErrorCode::Unavailable | ErrorCode::ResourceExhausted | ErrorCode::DeadlineExceeded
    )
}

/// Shows the picture of `job`, which `side` has answered with `detections`, to the other version and compares. One
/// picture at a time, after all real work, and not at all while the other version has work waiting.
pub(super) fn compare(
    pipeline: Arc<Pipeline>,
    rollout: Arc<Rollout>,
    side: Side,
    mut job: DetectJob,
    detections: Vec<Detection>,
) {
    let other = match side {
        Side::Baseline => &rollout.candidate,
        Side::Candidate => &rollout.baseline,
    };
    let Some(turn) = rollout.begin_comparison() else { return };
    if !other.queue().is_empty() {
        return;
    }
    let other = Arc::clone(other);
    job.priority = Priority::Low;
    tokio::spawn(async move {
        let _turn = turn;
        let started = Instant::now();
        let deadline = started + PATIENCE;
        job.deadline = Some(deadline);
        match super::before(Some(deadline), pipeline.run(&other, job, started)).await {
            Ok(done) => {
                let found = done.detections;
                let (old, new) = match side {
                    Side::Baseline => (&detections, &found),
                    Side::Candidate => (&found, &detections),
                };
                rollout.compared(&Agreement::between(old, new));
                // A shadow has no requests of its own: these are all that is known of it.
                if side == Side::Baseline {
                    rollout.answered(Side::Candidate, started.elapsed());
                }
            }
            Err(error) if side == Side::Baseline && is_to_blame(&error) => rollout.failed(Side::Candidate),
            Err(_) => {}
        }
    });
}
