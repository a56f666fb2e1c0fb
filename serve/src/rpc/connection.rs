//! Connections of the gRPC port. HTTP/2 is served by hyper itself and not by tonic's server, because that one answers
//! a deadline that has passed with CANCELLED; ours is answered with DEADLINE_EXCEEDED by the pipeline.

use std::convert::Infallible;
use std::io::{self, Cursor};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::Admission;
use crate::config::ServerConfig;

/// How much of a stream's body may be under way, and of all bodies of a connection: enough for pictures without waiting
/// for the window, little enough that a thousand idle connections cost nothing.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const MAX_FRAME: u32 = 128 << 10;
const MAX_HEADER_LIST: u32 = 16 << 10;

/// What a client sends first, and how long it may take to.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection that is being closed may stay open without work: its last answers may be under way, and its
/// client acknowledges the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// The open connections, to be closed and waited for.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    closing: CancellationToken,
    aborting: CancellationToken,
    tasks: TaskTracker,
}

impl Connections {
    /// Accepts no more connections or calls. Calls that are being answered go on, and their connections with them;
    /// health and reflection are no work that would keep a connection open.
    pub fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
    }

    /// Ends what is still open, answered or not.
    pub fn abort(&self) {
        self.aborting.cancel();
    }

    /// Waits until every connection has ended.
    pub async fn ended(&self) {
        self.tasks.wait().await;
    }
}

/// Accepts connections until `connections` is closed. One beyond the limit is closed, which its client takes for
/// UNAVAILABLE.
pub async fn serve(listener: TcpListener, service: Admission, config: ServerConfig, connections: Connections) {
    let places = Arc::new(Semaphore::new(config.max_connections.get()));
    loop {
        let accepted = tokio::select! {
            () = connections.closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    debug!(%peer, "server.max_connections are open: another one is closed");
                    continue;
                };
                let connection = connection(stream, service.clone(), config.clone(), connections.closing.clone());
                let aborting = connections.aborting.clone();
                connections.tasks.spawn(async move {
                    aborting.run_until_cancelled(connection).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to be closed.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(mut stream: TcpStream, service: Admission, config: ServerConfig, closing: CancellationToken) {
    let begun = async {
        stream.set_nodelay(true)?;
        preface(&mut stream, PREFACE_TIMEOUT).await
    };
    let preface = match closing.run_until_cancelled(begun).await {
        Some(Ok(preface)) => preface,
        Some(Err(error)) => return debug!(%error, "a connection ended before its first call"),
        None => return,
    };
    let (read, write) = stream.into_split();
    let stream = tokio::io::join(Cursor::new(preface).chain(read), write);

    let calls = TaskTracker::new();
    let tracker = calls.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let call = is_work(request.uri().path()).then(|| tracker.token());
        let answer = service.clone().oneshot(request);
        async move { Ok::<_, Infallible>(answer.await?.map(|body| Answer { body, _call: call })) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_concurrent_streams(config.max_concurrent_streams.get())
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let aged = async {
        match config.max_connection_age {
            Some(age) => tokio::time::sleep(age).await,
            None => std::future::pending().await,
        }
    };
    let over = async {
        closing.cancelled().await;
        calls.close();
        calls.wait().await;
        tokio::time::sleep(FAREWELL).await;
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = async { tokio::select! { () = closing.cancelled() => {} () = aged => {} } } => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection => result,
                () = over => return debug!("a connection that does no work is left at the shutdown"),
            }
        }
    };
    if let Err(error) = result {
        debug!(%error, "a connection ended");
    }
}

/// Whether a call is one that a shutdown waits for: health and reflection, gRPC's own services, are none.
fn is_work(path: &str) -> bool {
    !path.starts_with("/grpc.")
}

/// Reads the connection's preface, or as much as shows that it is another: HTTP/2 then answers that.
async fn preface(stream: &mut (impl AsyncRead + Unpin), within: Duration) -> io::Result<Vec<u8>> {
    let mut read = Vec::with_capacity(PREFACE.len());
    let reading = async {
        while read.len() < PREFACE.len() && PREFACE.starts_with(&read) {
            let missing = PREFACE.len() - read.len();
            if (&mut *stream).take(missing as u64).read_buf(&mut read).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
        Ok(())
    };
    tokio::time::timeout(within, reading).await??;
    Ok(read)
}

/// The body of an answer, whose call is in work until it has been sent.
struct Answer {
    body: tonic::body::Body,
    _call: Option<TaskTrackerToken>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_preface_is_read_alone_and_whole() {
        let (mut client, mut server) = tokio::io::duplex(7);
        let sent = tokio::spawn(async move {
            client.write_all(PREFACE).await.unwrap();
            client.write_all(b"more").await.unwrap();
        });
        assert_eq!(preface(&mut server, PREFACE_TIMEOUT).await.unwrap(), PREFACE);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"more");
        sent.await.unwrap();
    }

    #[tokio::test]
    async fn another_protocol_is_not_waited_for() {
        let (mut client, mut server) = tokio::io::duplex(64);
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert_eq!(preface(&mut server, PREFACE_TIMEOUT).await.unwrap(), b"GET / HTTP/1.1\r\n");
        let (client, mut server) = tokio::io::duplex(64);
        drop(client);
        assert_eq!(preface(&mut server, PREFACE_TIMEOUT).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn half_a_preface_is_not_waited_for_without_end() {
        let (mut client, mut server) = tokio::io::duplex(64);
        client.write_all(&PREFACE[..9]).await.unwrap();
        let within = Duration::from_millis(20);
        assert_eq!(preface(&mut server, within).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_shutdown_waits_for_no_health_and_no_reflection() {
        for (path, work) in [
            ("/detect.v1.DetectService/DetectStream", true),
            ("/inference.GRPCInferenceService/ModelInfer", true),
            ("/detect.v1.AdminService/Rollout", true),
            ("/grpc.health.v1.Health/Watch", false),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", false),
        ] {
            assert_eq!(is_work(path), work, "{path}");
        }
    }
}
