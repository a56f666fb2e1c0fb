//! Connections of the HTTP port.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::config::ServerConfig;

/// How long a client may take to send the head of a request, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Connections beyond the limit that are told so at once; further ones are closed without a word.
const REFUSALS: usize = 64;

/// How long a refused client is listened to: one that writes its request whole before it reads would otherwise find a
/// broken connection in place of the refusal.
const LISTEN: Duration = Duration::from_secs(1);

/// Answers connections by `router` until `closing`; then those that are open get the answers that they wait for.
pub async fn serve(listener: TcpListener, router: Router, config: ServerConfig, closing: CancellationToken) {
    let connections = TaskTracker::new();
    let most = config.max_connections.get();
    let (places, refusals) = (Arc::new(Semaphore::new(most)), Arc::new(Semaphore::new(REFUSALS)));
    while let Some(accepted) = closing.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                    let connection = connection(stream, router.clone(), config.clone(), closing.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                } else if let Ok(turn) = Arc::clone(&refusals).try_acquire_owned() {
                    connections.spawn(async move {
                        refuse(stream, most).await;
                        drop(turn);
                    });
                }
            }
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to be closed.
                warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, router: Router, config: ServerConfig, closing: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        return debug!(%error, "an HTTP connection ended before its first request");
    }
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_concurrent_streams.get())
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "an HTTP connection ended");
    }
}

/// Answers one connection that has no place, whatever it asks.
async fn refuse(mut stream: TcpStream, most: usize) {
    let body = json!({ "error": format!("server.max_connections: {most} connections are open, the most") }).to_string();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Retry-After: 1\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let telling = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut thrown_away = [0; 4096];
        while stream.read(&mut thrown_away).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    if !matches!(tokio::time::timeout(LISTEN, telling).await, Ok(Ok(()))) {
        debug!("an HTTP connection beyond the limit was closed");
    }
}
