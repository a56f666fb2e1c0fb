//! Many requests on one stream, answered as they are ready, or in their order where their model asks for that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use detectd_proto::detect::v1 as wire;
use futures_util::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
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
/// Requests that are `ordered` are answered in the order in which they came; the others as soon as they can be.
///
/// When the daemon refuses work, nothing more is read; what was read is answered, and the stream ends with UNAVAILABLE
/// unless its caller has sent nothing else.
pub fn answer<Q, A, F>(
    lifecycle: Arc<Lifecycle>,
    mut requests: Streaming<Q>,
    limit: usize,
    ordered: impl Fn(&Q) -> bool + Send + 'static,
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
        let mut turns = Turns::default();
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
                    let turn = ordered(&request).then(|| turns.next());
                    let (answer, answers) = (one(request), answers.clone());
                    running.spawn(async move {
                        let response = answer.await;
                        let turn = match turn {
                            Some(turn) => Some(turn.come().await),
                            None => None,
                        };
                        // A caller that is gone takes no answer.
                        let _ = answers.send(Ok(response)).await;
                        drop((turn, place));
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

/// Who sends after whom.
#[derive(Default)]
struct Turns {
    last: Option<oneshot::Receiver<()>>,
}

/// A place in that order. However it is given up, the next one has its turn then.
struct Turn {
    before: Option<oneshot::Receiver<()>>,
    done: oneshot::Sender<()>,
}

impl Turns {
    /// The turn after those given so far.
    fn next(&mut self) -> Turn {
        let (done, ended) = oneshot::channel();
        Turn { before: self.last.replace(ended), done }
    }
}

impl Turn {
    /// Waits until those before have ended. The turn ends when what comes back is dropped.
    async fn come(self) -> oneshot::Sender<()> {
        if let Some(before) = self.before {
            // Nothing is ever sent: the sender is dropped, also by a panic.
            let _ = before.await;
        }
        self.done
    }
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
