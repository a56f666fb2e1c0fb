//! Bodies: how a request's is read, and how an answer's is followed to its last byte.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Rest;
use crate::budget::Held;
use crate::error::{Error, ErrorCode};
use crate::rpc::body::{Arriving, MAX_MESSAGE_BYTES, MAX_PAUSE, Terms, larger_than};

/// A body that says how long it is gets at most so much room before it has come.
const FIRST_ROOM: usize = 1 << 20;

/// How long a refused request is still listened to.
const LISTEN: Duration = Duration::from_secs(5);

/// The largest body of a call that neither infers nor loads: it states a few settings.
const MAX_CONTROL_BYTES: usize = 1 << 20;

/// The largest body of a call.
#[derive(Clone, Copy)]
pub struct Limit {
    bytes: usize,
    name: &'static str,
}

impl Rest {
    /// For bodies that bring tensors or files.
    pub(super) fn message_limit(&self) -> Limit {
        Limit { bytes: self.max_message_bytes, name: MAX_MESSAGE_BYTES }
    }

    /// For all others.
    pub(super) fn control_limit(&self) -> Limit {
        let control = Limit { bytes: MAX_CONTROL_BYTES, name: "the most for a call that neither infers nor loads" };
        if self.max_message_bytes < control.bytes { self.message_limit() } else { control }
    }

    /// Reads a request's body, decompressed. What it holds of the budget is given back with the second part.
    ///
    /// # Errors
    /// It is too large, comes too late, is broken, or compressed in a way that is not known; there is no room for it.
    pub(super) async fn read(
        &self,
        request: Request,
        deadline: Option<Instant>,
        limit: Limit,
    ) -> Result<(Bytes, Held), Error> {
        let length = match announced(request.headers(), limit) {
            Ok(length) => length,
            Err(error) => {
                discard(request, self.max_message_bytes).await;
                return Err(error);
            }
        };
        let mut body = Arriving::whole(
            request.into_body(),
            Terms { deadline, max_pause: Some(MAX_PAUSE), max_message_bytes: limit.bytes, budget: self.budget.clone() },
            limit.name,
        );
        let held = body.held();
        let result = collect(&mut body, length).await;
        // Whoever is late already is waited for no longer.
        if result.as_ref().is_err_and(|error| error.code != ErrorCode::DeadlineExceeded) {
            drain(body.into_inner(), self.max_message_bytes).await;
        }
        result.map(|bytes| (bytes, held))
    }
}

/// The body's length, if its headers say it; that of a compressed one they do not, as decompression has taken it away.
fn announced(headers: &HeaderMap, limit: Limit) -> Result<Option<usize>, Error> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        let encoding = String::from_utf8_lossy(encoding.as_bytes());
        return Err(Error::unimplemented(format!(
            "Content-Encoding: expected gzip, deflate or none, got `{encoding}`"
        )));
    }
    let length: Option<usize> = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    match length {
        Some(length) if length > limit.bytes => Err(larger_than(limit.bytes, limit.name, &format!("{length} bytes"))),
        length => Ok(length),
    }
}

async fn collect(body: &mut Arriving<axum::body::Body>, length: Option<usize>) -> Result<Bytes, Error> {
    let mut bytes = BytesMut::with_capacity(length.unwrap_or(0).min(FIRST_ROOM));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.downcast::<Error>() {
            Ok(error) => *error,
            Err(error) => Error::invalid(format!("the body cannot be read: {}", innermost(&*error))),
        })?;
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
        // Decompressing gives one piece after the other without waiting for any.
        tokio::task::consume_budget().await;
    }
    Ok(bytes.freeze())
}

/// Reads on and throws away, a while: a client that writes its request whole before it reads the answer would otherwise
/// find a broken connection in place of the refusal. One that asks before it sends is not kept waiting.
pub async fn discard(request: Request, most: usize) {
    if !request.headers().contains_key(header::EXPECT) {
        drain(request.into_body(), most).await;
    }
}

async fn drain(mut body: axum::body::Body, most: usize) {
    let reading = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            // Some more than is allowed: who is just over the limit shall read that it is.
            if read > 2 * most {
                return;
            }
            tokio::task::consume_budget().await;
        }
    };
    // Whoever takes longer has to do with a broken connection.
    let _ = tokio::time::timeout(LISTEN, reading).await;
}

fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error)
}

/// The body of an answer, whose call is in work until it has been sent.
pub struct Tracked {
    body: axum::body::Body,
    _call: TaskTrackerToken,
}

impl Tracked {
    /// `body` of the answer to `call`.
    pub fn new(body: axum::body::Body, call: TaskTrackerToken) -> Self {
        Self { body, _call: call }
    }
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
