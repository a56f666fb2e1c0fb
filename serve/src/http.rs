//! The HTTP port: metrics, probes, a page that shows what is served, and the KServe protocol.

mod connections;

pub use connections::serve;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::{any, get};
use prometheus::{Encoder as _, Registry, TextEncoder};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tracing::error;

/// What the HTTP port answers from.
#[derive(Clone)]
pub struct HttpState {
    /// The daemon's metrics.
    pub registry: Registry,
    /// Whether the daemon wants to be sent work.
    pub ready: Arc<dyn Fn() -> bool + Send + Sync>,
    /// What is served: an object with the list `models`, each at least with `model`, `version`, `state`, and `reason`
    /// where the state needs one.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
}

/// `/metrics` in Prometheus' text format; `/livez`, which answers as long as the process does; `/readyz`, 503 with the
/// reasons unless work is wanted; `/`, a page for people; under `/v2` what `rest` answers, or that it is off.
pub fn router(state: HttpState, rest: Option<Router>) -> Router {
    let rest = rest.unwrap_or_else(|| Router::new().fallback(rest_is_off));
    let root = rest.clone();
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { Json(json!({ "live": true })) }))
        .route("/readyz", get(readyz))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there are /, /metrics, /livez, /readyz and /v2\n") })
        .with_state(state)
        // Nesting alone leaves this one path out.
        .route("/v2/", any(|request| at_root(root, request)))
        .nest("/v2", rest)
}

async fn rest_is_off() -> Response {
    let error = "the KServe protocol over HTTP is off: `server.rest = true` turns it on";
    (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
}

/// Answers as `router` does at its root.
async fn at_root(router: Router, mut request: Request) -> Result<Response, Infallible> {
    *request.uri_mut() = Uri::from_static("/");
    router.oneshot(request).await
}

async fn metrics(State(state): State<HttpState>) -> Response {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    // GPUs are asked at each scrape, which may take the driver a while.
    let gathered = tokio::task::spawn_blocking(move || state.registry.gather()).await;
    match encoder.encode(&gathered.unwrap_or_default(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(reason) => {
            error!(%reason, "metrics cannot be encoded");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be encoded: {reason}\n")).into_response()
        }
    }
}

async fn readyz(State(state): State<HttpState>) -> Response {
    if (state.ready)() {
        return Json(json!({ "ready": true })).into_response();
    }
    let status = (state.status)();
    let waiting: Vec<_> = models(&status).filter(|model| model["state"] != "ready").collect();
    let reason = if waiting.is_empty() { "the server is shutting down" } else { "not every model is ready" };
    let body = json!({ "ready": false, "reason": reason, "models": waiting });
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

async fn page(State(state): State<HttpState>) -> Html<String> {
    let status = (state.status)();
    let rows: String = models(&status).map(row).collect();
    let readiness = if (state.ready)() { "ready" } else { "not ready" };
    Html(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>detectd</title>\
         <meta name=\"viewport\" content=\"width=device-width\">\n<style>{STYLE}</style></head>\n<body>\
         <h1>detectd {version} <small>{readiness}</small></h1>\n\
         <table><thead><tr><th>Model<th>Version<th>State<th>About</tr></thead>\n<tbody>\n{rows}</tbody></table>\n\
         <p><a href=\"/metrics\">/metrics</a> <a href=\"/readyz\">/readyz</a> <a href=\"/livez\">/livez</a></p>\
         </body></html>\n",
        version = env!("CARGO_PKG_VERSION"),
    ))
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}\
    small{font-weight:normal;color:#667}table{border-collapse:collapse;width:100%}\
    th,td{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #ccd}\
    .failed{color:#a22}.ready{color:#171}a{margin-right:1rem}";

/// One model version: what is not a column of its own goes, named, into the last one.
fn row(model: &Value) -> String {
    let about: Vec<_> = model
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| !["model", "version", "state"].contains(&name.as_str()) && !value.is_null())
        .map(|(name, value)| format!("{}: {}", name.replace('_', " "), plain(value)))
        .collect();
    let state = escaped(&plain(&model["state"]));
    format!(
        "<tr><td>{}<td>{}<td class=\"{state}\">{state}<td>{}</tr>\n",
        escaped(&plain(&model["model"])),
        escaped(&plain(&model["version"])),
        escaped(&about.join(", ")),
    )
}

fn models(status: &Value) -> impl Iterator<Item = &Value> {
    status["models"].as_array().into_iter().flatten()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" x "),
        other => other.to_string(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use prometheus::IntCounter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Asks a real server on a port of its own; gives the answer's head and body.
    async fn ask(state: HttpState, path: &str) -> (String, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(async move { axum::serve(listener, router(state, None)).await });
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        server.abort();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head.to_owned(), body.to_owned())
    }

    fn state(ready: bool, models: &Value) -> HttpState {
        let registry = Registry::new();
        let counter = IntCounter::new("detectd_things_total", "Things that were counted.").expect("a counter");
        counter.inc_by(3);
        registry.register(Box::new(counter)).expect("registered");
        let status = json!({ "models": models });
        let ready = AtomicBool::new(ready);
        HttpState {
            registry,
            ready: Arc::new(move || ready.load(Ordering::Relaxed)),
            status: Arc::new(move || status.clone()),
        }
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text() {
        let (head, body) = ask(state(true, &json!([])), "/metrics").await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("# HELP detectd_things_total Things that were counted."), "{body}");
        assert!(body.contains("\ndetectd_things_total 3\n"), "{body}");
    }

    #[tokio::test]
    async fn readiness_says_what_is_missing() {
        let (head, _) = ask(state(true, &json!([])), "/readyz").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let models = json!([
            { "model": "a", "version": 1, "state": "ready" },
            { "model": "b", "version": 2, "state": "failed", "reason": "no file" },
        ]);
        let (head, body) = ask(state(false, &models), "/readyz").await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["models"], json!([{ "model": "b", "version": 2, "state": "failed", "reason": "no file" }]));
        let (_, body) = ask(state(false, &json!([])), "/readyz").await;
        assert!(body.contains("shutting down"), "{body}");
    }

    #[tokio::test]
    async fn liveness_does_not_ask_for_readiness() {
        let (head, _) = ask(state(false, &json!([])), "/livez").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    }

    #[tokio::test]
    async fn the_page_shows_models_and_escapes_their_names() {
        let models =
            json!([{ "model": "<b>&", "version": 1, "state": "ready", "input_size": [640, 480], "reason": null }]);
        let (head, body) = ask(state(true, &models), "/").await;
        assert!(head.contains("text/html"), "{head}");
        assert!(body.contains("&lt;b&gt;&amp;") && body.contains("input size: 640 x 480"), "{body}");
        assert!(!body.contains("reason"), "{body}");
    }

    #[tokio::test]
    async fn another_path_names_those_that_are_there() {
        let (head, body) = ask(state(true, &json!([])), "/nothing").await;
        assert!(head.starts_with("HTTP/1.1 404") && body.contains("/metrics"), "{head} {body}");
        for path in ["/v2", "/v2/", "/v2/health/live", "/v2/models/parts/infer"] {
            let (head, body) = ask(state(true, &json!([])), path).await;
            assert!(head.starts_with("HTTP/1.1 404") && body.contains("server.rest"), "{path}: {head} {body}");
        }
    }
}
