//! Many requests on one stream, answered as they are ready.

use std::sync::Arc;
use std::time::{Duration, Instant};

use detectd_proto::detect::v1 as wire;
use futures_util::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::deadline::StreamDeadline;
use super::detect::DetectRpc;
use super::status::to_message;
use crate::lifecycle::Lifecycle;

/// Answers every request that comes on `requests` with `one`, at most `limit` at once: while so many are unanswered, or
/// answered but not taken, nothing is read, and the sender's flow-control window closes.
///
/// When the daemon refuses work, nothing more is read; what was read is answered, and the stream ends with UNAVAILABLE
/// unless its caller has sent nothing else.
pub fn answer<Q, A, F>(
    lifecycle: Arc<Lifecycle>,
    mut requests: Streaming<Q>,
    limit: usize,
    one: impl Fn(Q) -> F + Send + Sync + 'static,
) -> ReceiverStream<Result<A, Status>>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Future<Output = A> + Send + 'static,
{
    let (answers, taken) = mpsc::channel(1);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(limit));
        // Dropped when this task ends early, which ends the work of a caller that went away.
        let mut running = JoinSet::new();
        let broken = loop {
            let (place, next) = tokio::select! {
                biased;
                () = answers.closed() => return,
                () = lifecycle.refused() => break None,
                next = next(&places, &mut requests) => next,
            };
            while running.try_join_next().is_some() {}
            match next {
                Ok(Some(request)) => {
                    let (answer, answers) = (one(request), answers.clone());
                    running.spawn(async move {
                        let response = answer.await;
                        // A caller that is gone takes no answer.
                        let _ = answers.send(Ok(response)).await;
                        drop(place);
                    });
                }
                Ok(None) => break None,
                // The stream itself is broken, for instance by a message that is none: this ends it.
                Err(status) => break Some(status),
            }
        };
        // No more requests; what is under way is answered, unless nobody is there to take it.
        tokio::select! {
            () = async { while running.join_next().await.is_some() {} } => {}
            () = answers.closed() => return,
        }
        if let Some(status) = broken.or_else(|| unread(&mut requests)) {
            // A caller that is gone takes no status either.
            let _ = answers.send(Err(status)).await;
        }
    });
    ReceiverStream::new(taken)
}

/// The next request, as soon as there is a place for it.
async fn next<Q>(
    places: &Arc<Semaphore>,
    requests: &mut Streaming<Q>,
) -> (Option<OwnedSemaphorePermit>, Result<Option<Q>, Status>) {
    // The semaphore is never closed, so that there always is a place in the end.
    let place = Arc::clone(places).acquire_owned().await.ok();
    (place, requests.message().await)
}

/// The refusal of what the caller has sent, or may be sending, beyond what was read; none if it has closed its side.
fn unread<Q>(requests: &mut Streaming<Q>) -> Option<Status> {
    let closed = matches!(requests.message().now_or_never(), Some(Ok(None)));
    (!closed).then(|| Status::unavailable("the server is shutting down; requests without an answer were not run"))
}

/// One request of `DetectStream`.
pub async fn detect(
    rpc: DetectRpc,
    request: wire::DetectStreamRequest,
    deadline: StreamDeadline,
) -> wire::DetectStreamResponse {
    let own = (request.timeout_ms > 0).then(|| Duration::from_millis(request.timeout_ms.into()));
    let deadline = deadline.request(Instant::now(), own);
    let result = match rpc.one(request.request.unwrap_or_default(), deadline).await {
        Ok(response) => wire::detect_stream_response::Result::Response(response),
        Err((error, id)) => {
            rpc.metrics().refused(&error);
            wire::detect_stream_response::Result::Error(to_message(&error, &id))
        }
    };
    wire::DetectStreamResponse { id: request.id, result: Some(result) }
}
