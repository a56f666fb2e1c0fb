//! A call's body as it arrives, over gRPC or HTTP: in time, without long pauses, in messages that are not too large, and
//! within the bytes that all calls together may hold.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::status::to_status;
use crate::budget::{Budget, Held};
use crate::error::{Error, ErrorCode};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The longest pause between two pieces of the request of a call that is no stream. It bounds how long a caller that
/// states no deadline and sends nothing keeps its place.
pub const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The setting that limits messages.
pub const MAX_MESSAGE_BYTES: &str = "server.max_message_bytes";

/// What a body must keep to.
pub struct Terms {
    /// The call's deadline.
    pub deadline: Option<Instant>,
    /// The longest time between two pieces; `None` for a stream, which may pause and has many messages.
    pub max_pause: Option<Duration>,
    /// The largest message.
    pub max_message_bytes: usize,
    /// Shared by all calls.
    pub budget: Budget,
}

/// A body that fails when it breaks its terms: with a status where it is framed as gRPC, with an [`Error`] where it is one
/// message without a frame.
pub struct Arriving<B> {
    body: B,
    terms: Terms,
    last_piece: Instant,
    /// Armed only once the body has to be waited for: most are there when they are asked for.
    late: Option<Pin<Box<Sleep>>>,
    messages: Messages,
    held: Held,
}

/// How a body is divided.
enum Messages {
    /// As gRPC does it.
    Framed(Framing),
    /// It is one message, of which so many bytes have come; the limit on them has a name.
    Whole(usize, &'static str),
}

impl<B> Arriving<B> {
    /// A gRPC call's `body` on `terms`.
    pub fn framed(body: B, terms: Terms) -> Self {
        Self::new(body, terms, Messages::Framed(Framing::default()))
    }

    /// A `body` that is one message, on `terms`, whose limit on its bytes is called `limit`.
    pub fn whole(body: B, terms: Terms, limit: &'static str) -> Self {
        Self::new(body, terms, Messages::Whole(0, limit))
    }

    fn new(body: B, terms: Terms, messages: Messages) -> Self {
        Self { body, terms, last_piece: Instant::now(), late: None, messages, held: Held::default() }
    }

    /// The rest of the body, without terms.
    pub fn into_inner(self) -> B {
        self.body
    }

    /// What the call holds of the budget.
    pub fn held(&self) -> Held {
        Arc::clone(&self.held)
    }

    fn is_stream(&self) -> bool {
        self.terms.max_pause.is_none()
    }

    /// The reader of a stream asks for more only when it has taken every whole message.
    fn release_taken(&self) {
        if let (Some(held), Messages::Framed(framing)) = (self.held.lock().as_mut(), &self.messages) {
            let taken = held.num_permits().saturating_sub(framing.unfinished);
            drop(held.split(taken));
        }
    }

    fn arrived(&mut self, data: &[u8]) -> Result<(), Error> {
        let (limit, is_stream) = (self.terms.max_message_bytes, self.is_stream());
        match &mut self.messages {
            Messages::Framed(framing) => framing.read(data, limit, is_stream)?,
            Messages::Whole(length, name) => {
                *length += data.len();
                if *length > limit {
                    return Err(larger_than(limit, name, "more"));
                }
            }
        }
        self.terms.budget.take(data.len(), &self.held)
    }

    fn failure(&self, error: Error) -> BoxError {
        match self.messages {
            Messages::Framed(_) => to_status(&error, "").into(),
            Messages::Whole(..) => error.into(),
        }
    }

    /// A body that always has more must not outlive its deadline either.
    fn in_time(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if self.terms.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Error::deadline("before the request had arrived"));
        }
        self.last_piece = now;
        Ok(())
    }

    /// Waits for the next piece; ready when it is too late.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<Error> {
        let pause = self.terms.max_pause.map(|pause| self.last_piece + pause);
        let limit = match (self.terms.deadline, pause) {
            (Some(deadline), Some(pause)) => deadline.min(pause),
            (deadline, pause) => match deadline.or(pause) {
                Some(limit) => limit,
                None => return Poll::Pending,
            },
        };
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(limit.into())));
        if late.deadline() != limit.into() {
            late.as_mut().reset(limit.into());
        }
        ready!(late.as_mut().poll(context));
        Poll::Ready(match self.terms.max_pause {
            Some(pause) if self.terms.deadline != Some(limit) => {
                let message = format!("the request: expected its next piece within {pause:?}, none came");
                Error::new(ErrorCode::DeadlineExceeded, message)
            }
            _ => Error::deadline("before the request had arrived"),
        })
    }
}

impl<B> Body for Arriving<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.is_stream() {
            this.release_taken();
        }
        let frame = match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                let error = ready!(this.poll_late(context));
                return Poll::Ready(Some(Err(this.failure(error))));
            }
        };
        let accepted = this.in_time().and_then(|()| frame.data_ref().map_or(Ok(()), |data| this.arrived(data)));
        Poll::Ready(Some(match accepted {
            Ok(()) => Ok(frame),
            Err(error) => Err(this.failure(error)),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The flag and the length before each message, as gRPC frames them.
const PREFIX: usize = 5;

/// Where in gRPC's framing the body is.
#[derive(Default)]
struct Framing {
    prefix: Vec<u8>,
    /// Bytes of the message that are still to come, once its prefix is there.
    missing: usize,
    /// Bytes of the unfinished message that have come, prefix included.
    unfinished: usize,
    messages: usize,
}

impl Framing {
    fn read(&mut self, mut data: &[u8], limit: usize, is_stream: bool) -> Result<(), Error> {
        while !data.is_empty() {
            if self.messages > 0 && !is_stream {
                return Err(Error::invalid("the request: expected one message, got more"));
            }
            let missing = if self.prefix.len() < PREFIX { PREFIX - self.prefix.len() } else { self.missing };
            let (now, rest) = data.split_at(missing.min(data.len()));
            self.unfinished += now.len();
            data = rest;
            if self.prefix.len() < PREFIX {
                self.prefix.extend_from_slice(now);
                let &[_, a, b, c, d] = self.prefix.as_slice() else { continue };
                self.missing = u32::from_be_bytes([a, b, c, d]) as usize;
                if self.missing > limit {
                    return Err(too_large(limit, &format!("{} bytes", self.missing)));
                }
            } else {
                self.missing -= now.len();
            }
            if self.missing == 0 {
                *self = Self { messages: self.messages + 1, ..Self::default() };
            }
        }
        Ok(())
    }
}

/// A message beyond `limit`.
pub fn too_large(limit: usize, came: &str) -> Error {
    larger_than(limit, MAX_MESSAGE_BYTES, came)
}

/// A message beyond `limit`, which is called `name`.
pub fn larger_than(limit: usize, name: &str, came: &str) -> Error {
    Error::invalid(format!("the message: expected at most {limit} bytes, {name}, got {came}"))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use tonic::{Code, Status};

    use super::*;

    /// Gives its pieces, then nothing for ever.
    struct Pieces(VecDeque<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            self.0.pop_front().map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(piece)))))
        }
    }

    fn arriving(
        pieces: &[&[u8]],
        deadline: Option<Instant>,
        pause: Option<Duration>,
        budget: &Budget,
    ) -> Arriving<Pieces> {
        let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
        let terms = Terms { deadline, max_pause: pause, max_message_bytes: 100, budget: budget.clone() };
        Arriving::framed(Pieces(pieces), terms)
    }

    /// The next piece's length, or the status that it failed with.
    async fn next(body: &mut Arriving<Pieces>) -> Result<usize, Status> {
        match poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await.expect("a frame") {
            Ok(frame) => Ok(frame.into_data().expect("data").len()),
            Err(error) => Err(*error.downcast::<Status>().expect("a status")),
        }
    }

    fn message(length: u8) -> Vec<u8> {
        [&[0, 0, 0, 0, length], vec![7; length.into()].as_slice()].concat()
    }

    const LONG: Option<Duration> = Some(Duration::from_secs(600));

    #[tokio::test]
    async fn a_deadline_and_a_pause_end_a_body_that_does_not_come() {
        let budget = Budget::new(1000);
        let soon = Instant::now() + Duration::from_millis(10);
        for pause in [LONG, None] {
            let status = next(&mut arriving(&[], Some(soon), pause, &budget)).await.unwrap_err();
            assert_eq!(status.code(), Code::DeadlineExceeded);
            assert!(status.message().contains("before the request had arrived"), "{}", status.message());
        }
        let mut paused = arriving(&[&message(9)[..3]], None, Some(Duration::from_millis(10)), &budget);
        assert_eq!(next(&mut paused).await.unwrap(), 3);
        let status = next(&mut paused).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("within 10ms"), "{}", status.message());
    }

    #[tokio::test]
    async fn bytes_are_held_until_the_call_ends_and_refused_beyond_the_limit() {
        let budget = Budget::new(100);
        let mut first = arriving(&[&message(65)], None, LONG, &budget);
        assert_eq!(next(&mut first).await.unwrap(), 70);
        let held = first.held();
        drop(first);
        let status = next(&mut arriving(&[&message(26)], None, LONG, &budget)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("server.max_bytes_in_flight"), "{}", status.message());
        assert!(status.metadata().contains_key("retry-after-ms"));
        drop(held);
        assert_eq!(next(&mut arriving(&[&message(26)], None, LONG, &budget)).await.unwrap(), 31);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_stream_gives_back_the_bytes_of_messages_that_were_taken() {
        let budget = Budget::new(100);
        let pieces = [message(20), [message(0), message(40)[..10].to_vec()].concat(), message(40)[10..].to_vec()];
        let pieces: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
        let mut stream = arriving(&pieces, None, None, &budget);
        for held in [25, 15, 45] {
            next(&mut stream).await.unwrap();
            assert_eq!(budget.used(), held);
        }
        drop(stream);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn messages_that_are_too_large_or_too_many_are_named() {
        let budget = Budget::new(1000);
        let large = message(101);
        let mut body = arriving(&[&large[..2], &large[2..8]], None, None, &budget);
        assert_eq!(next(&mut body).await.unwrap(), 2);
        let status = next(&mut body).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        for part in ["at most 100 bytes", "server.max_message_bytes", "got 101 bytes"] {
            assert!(status.message().contains(part), "{}", status.message());
        }
        let two = [message(1), message(1)].concat();
        let status = next(&mut arriving(&[&two], None, LONG, &budget)).await.unwrap_err();
        assert!(status.message().contains("expected one message"), "{}", status.message());
    }
}
