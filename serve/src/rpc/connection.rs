//! Connections of the gRPC port. HTTP/2 is served by hyper itself and not by tonic's server, because that one answers
//! a deadline that has passed with CANCELLED; ours is answered with DEADLINE_EXCEEDED by the pipeline.

use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::Admission;
use crate::config::ServerConfig;

/// How much of a stream's body may be under way, and of all bodies of a connection: enough for pictures without waiting
/// for the window, little enough that a thousand idle connections cost nothing.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const MAX_FRAME: u32 = 128 << 10;
const MAX_HEADER_LIST: u32 = 16 << 10;

/// The open connections, to be closed and waited for.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    closing: CancellationToken,
    aborting: CancellationToken,
    tasks: TaskTracker,
}

impl Connections {
    /// Accepts no more connections or calls; calls that are being answered go on.
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

/// Accepts connections until `connections` is closed.
pub async fn serve(listener: TcpListener, service: Admission, config: ServerConfig, connections: Connections) {
    loop {
        let accepted = tokio::select! {
            () = connections.closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, service.clone(), config.clone(), connections.closing.clone());
                let aborting = connections.aborting.clone();
                connections.tasks.spawn(async move { aborting.run_until_cancelled(connection).await });
            }
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to be closed.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, service: Admission, config: ServerConfig, closing: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "a connection ended at once");
        return;
    }
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_concurrent_streams(config.max_concurrent_streams.get())
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let aged = async {
        match config.max_connection_age {
            Some(age) => tokio::time::sleep(age).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = closing.cancelled() => finish(connection).await,
        () = aged => finish(connection).await,
    };
    if let Err(error) = result {
        debug!(%error, "a connection ended");
    }
}

type Http2<'a> = std::pin::Pin<
    &'a mut hyper::server::conn::http2::Connection<TokioIo<TcpStream>, TowerToHyperService<Admission>, TokioExecutor>,
>;

async fn finish(mut connection: Http2<'_>) -> Result<(), hyper::Error> {
    connection.as_mut().graceful_shutdown();
    connection.await
}
