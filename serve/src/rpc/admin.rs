//! `detect.v1.AdminService`: models come and go.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use detectd_proto::detect::v1 as wire;
use detectd_proto::detect::v1::admin_service_server::AdminService;
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::status::to_status;
use crate::error::Error;
use crate::lifecycle::Lifecycle;
use crate::repository::manifest::Strategy;
use crate::repository::{Event, EventKind, Figures, LoadOverrides, Repository, Requests};

/// A reason for a rollback may not be longer, in bytes: it is kept.
const MAX_REASON: usize = 1000;

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct AdminRpc {
    repository: Arc<Repository>,
    lifecycle: Arc<Lifecycle>,
}

impl AdminRpc {
    /// A service over `repository`.
    #[must_use]
    pub fn new(repository: Arc<Repository>, lifecycle: Arc<Lifecycle>) -> Self {
        Self { repository, lifecycle }
    }
}

fn refused(error: &Error) -> Status {
    to_status(error, "")
}

#[tonic::async_trait]
impl AdminService for AdminRpc {
    async fn load_model(
        &self,
        request: Request<wire::LoadModelRequest>,
    ) -> Result<Response<wire::LoadModelResponse>, Status> {
        let wire::LoadModelRequest { model, config, files } = request.into_inner();
        let overrides = LoadOverrides {
            config: Some(config).filter(|config| !config.is_empty()),
            files: files.into_iter().collect(),
        };
        self.lifecycle.admit().map_err(|error| refused(&error))?;
        self.repository.load(&model, overrides).await.map_err(|error| refused(&error))?;
        Ok(Response::new(wire::LoadModelResponse {}))
    }

    async fn unload_model(
        &self,
        request: Request<wire::UnloadModelRequest>,
    ) -> Result<Response<wire::UnloadModelResponse>, Status> {
        self.repository.unload(&request.into_inner().model).await.map_err(|error| refused(&error))?;
        Ok(Response::new(wire::UnloadModelResponse {}))
    }

    async fn get_rollout(
        &self,
        request: Request<wire::GetRolloutRequest>,
    ) -> Result<Response<wire::GetRolloutResponse>, Status> {
        let status = self.repository.trial_status(&request.into_inner().model).map_err(|error| refused(&error))?;
        let (previous, left) = status.previous.unwrap_or_default();
        Ok(Response::new(wire::GetRolloutResponse {
            answering: status.answering,
            trial: status
                .trial
                .map(|(version, strategy, elapsed, figures)| trial(version, strategy, elapsed, &figures)),
            previous,
            previous_for_ms: milliseconds(left),
        }))
    }

    async fn promote(&self, request: Request<wire::PromoteRequest>) -> Result<Response<wire::PromoteResponse>, Status> {
        self.repository.promote(&request.into_inner().model).map_err(|error| refused(&error))?;
        Ok(Response::new(wire::PromoteResponse {}))
    }

    async fn rollback(
        &self,
        request: Request<wire::RollbackRequest>,
    ) -> Result<Response<wire::RollbackResponse>, Status> {
        let wire::RollbackRequest { model, reason } = request.into_inner();
        if reason.len() > MAX_REASON {
            let message = format!("reason: expected at most {MAX_REASON} bytes, got {}", reason.len());
            return Err(refused(&Error::invalid(message)));
        }
        let reason = if reason.is_empty() { "by request".to_owned() } else { reason };
        let repository = Arc::clone(&self.repository);
        // It is written to the disk.
        let rolling_back = tokio::task::spawn_blocking(move || repository.roll_back(&model, &reason)).await;
        let result = rolling_back.map_err(|error| Error::internal(format!("the rollback ended early: {error}")));
        result.flatten().map_err(|error| refused(&error))?;
        Ok(Response::new(wire::RollbackResponse {}))
    }

    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<wire::Event, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<wire::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let model = request.into_inner().model;
        let state = (self.repository.events(), Arc::clone(&self.lifecycle), model, false);
        let events = futures_util::stream::unfold(state, |(mut events, lifecycle, model, ended)| async move {
            if ended {
                return None;
            }
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    // A watcher must not hold up the end of the server.
                    () = lifecycle.refused() => return None,
                };
                match event {
                    Ok(event) if model.is_empty() || event.model == model => {
                        return Some((Ok(wire_event(event)), (events, lifecycle, model, false)));
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(missed)) => {
                        let status = Status::data_loss(format!("{missed} events were missed: watch anew"));
                        return Some((Err(status), (events, lifecycle, model, true)));
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        Ok(Response::new(Box::pin(events)))
    }
}

fn trial(version: u64, strategy: Strategy, elapsed: Duration, figures: &Figures) -> wire::Trial {
    let requests = |requests: &Requests| wire::Requests {
        good: requests.good,
        failed: requests.failed,
        mean_latency_ms: requests.mean_seconds() * 1000.0,
    };
    let strategy = match strategy {
        Strategy::Shadow => wire::Strategy::Shadow,
        Strategy::Canary | Strategy::Immediate => wire::Strategy::Canary,
    };
    let boxes = &figures.boxes;
    wire::Trial {
        version,
        strategy: strategy.into(),
        elapsed_ms: milliseconds(elapsed),
        baseline: Some(requests(&figures.baseline)),
        candidate: Some(requests(&figures.candidate)),
        compared: figures.compared,
        agreement: figures.agreement(),
        class_changes: boxes.class_changes as u64,
        score_shift: boxes.score_shift / boxes.matched.max(1) as f64,
    }
}

fn wire_event(event: Event) -> wire::Event {
    let kind = match event.kind {
        EventKind::Loading => wire::EventKind::Loading,
        EventKind::Serving => wire::EventKind::Serving,
        EventKind::Failed => wire::EventKind::Failed,
        EventKind::OnTrial => wire::EventKind::OnTrial,
        EventKind::Promoted => wire::EventKind::Promoted,
        EventKind::RolledBack => wire::EventKind::RolledBack,
        EventKind::Retiring => wire::EventKind::Retiring,
        EventKind::Unloaded => wire::EventKind::Unloaded,
        EventKind::Reconfigured => wire::EventKind::Reconfigured,
    };
    wire::Event {
        unix_ms: milliseconds(event.at.duration_since(UNIX_EPOCH).unwrap_or_default()),
        model: event.model,
        version: event.version,
        kind: kind.into(),
        detail: event.detail,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
