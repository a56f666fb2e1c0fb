//! From the daemon's errors to gRPC and HTTP: the only place that makes a status, and the only one that logs a refusal.
//!
//! | [`ErrorCode`] | gRPC | HTTP | Triton's HTTP |
//! |---|---|---|---|
//! | `InvalidArgument` | INVALID_ARGUMENT | 400 | 400 |
//! | `NotFound` | NOT_FOUND | 404 | 404; 400 for some unknown models |
//! | `Unavailable` | UNAVAILABLE | 503 | 503 |
//! | `ResourceExhausted` | RESOURCE_EXHAUSTED, `retry-after-ms` | 429, `Retry-After` and `retry-after-ms` | 503 |
//! | `DeadlineExceeded` | DEADLINE_EXCEEDED | 504 | 503 |
//! | `Cancelled` | CANCELLED | 499, which nobody is there to read | 400 |
//! | `Unimplemented` | UNIMPLEMENTED | 501 | 501 |
//! | `Internal` | INTERNAL | 500 | 500 |
//!
//! HTTP differs from Triton where its one code 503 would not tell a client whether to come again, and when.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use detectd_proto::detect::v1 as wire;
use serde_json::json;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tracing::{debug, error};

use crate::error::{Error, ErrorCode};

const RETRY_AFTER_MS: header::HeaderName = header::HeaderName::from_static("retry-after-ms");

/// The most bytes of an error's message that a caller is told. A message may quote what came, and that may be long: gRPC
/// has messages among its headers, which clients take a few kilobytes of.
const MAX_MESSAGE_BYTES: usize = 1024;

/// The gRPC code of an error.
pub fn code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::InvalidArgument => Code::InvalidArgument,
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::Unavailable => Code::Unavailable,
        ErrorCode::ResourceExhausted => Code::ResourceExhausted,
        ErrorCode::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorCode::Cancelled => Code::Cancelled,
        ErrorCode::Unimplemented => Code::Unimplemented,
        ErrorCode::Internal => Code::Internal,
    }
}

/// The HTTP status of an error.
pub fn http_code(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidArgument => StatusCode::BAD_REQUEST,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        // Client closed request: what proxies log for a caller that is gone.
        ErrorCode::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        ErrorCode::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The status of a call that fails as a whole.
pub fn to_status(error: &Error, request_id: &str) -> Status {
    log(error, request_id);
    let mut metadata = MetadataMap::new();
    if let Some(after) = error.retry_after {
        let milliseconds = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        metadata.insert("retry-after-ms", MetadataValue::from(milliseconds));
    }
    let mut status = Status::with_metadata(code(error.code), told(error), metadata);
    status.set_source(Arc::new(error.clone()));
    status
}

/// The same over HTTP: the message as `{"error": …}`. The error itself is among the response's extensions.
pub fn to_response(error: &Error, request_id: &str) -> Response {
    log(error, request_id);
    let mut response = (http_code(error.code), Json(json!({ "error": told(error) }))).into_response();
    if let Some(after) = error.retry_after {
        // The header has whole seconds only.
        let seconds = after.as_millis().div_ceil(1000).max(1);
        let headers = response.headers_mut();
        for (name, value) in [(header::RETRY_AFTER, seconds), (RETRY_AFTER_MS, after.as_millis())] {
            headers.insert(name, HeaderValue::from(u64::try_from(value).unwrap_or(u64::MAX)));
        }
    }
    response.extensions_mut().insert(error.clone());
    response
}

/// The error of one image among several.
pub fn to_message(error: &Error, request_id: &str) -> wire::Error {
    log(error, request_id);
    wire::Error { code: code(error.code) as i32, message: told(error).into_owned() }
}

/// Notes that a request was answered.
pub fn log_answer(request_id: &str) {
    let request_id = stated(request_id);
    debug!(request_id, "a request was answered");
}

/// The error that a status was made from; `None` where tonic made the status.
pub fn cause(status: &Status) -> Option<&Error> {
    std::error::Error::source(status)?.downcast_ref()
}

/// The error's message, or its beginning.
fn told(error: &Error) -> Cow<'_, str> {
    let message = &error.message;
    if message.len() <= MAX_MESSAGE_BYTES {
        return message.into();
    }
    format!("{}…", &message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)]).into()
}

/// A caller need not name its request; then its log lines have no such field.
fn stated(request_id: &str) -> Option<&str> {
    Some(request_id).filter(|id| !id.is_empty())
}

fn log(error: &Error, request_id: &str) {
    let request_id = stated(request_id);
    // The event's own text has the name `message`.
    let (code, reason) = (&error.code, told(error).into_owned());
    if *code == ErrorCode::Internal {
        error!(request_id, ?code, reason, "a request failed");
    } else {
        // The caller is told, and the metrics count it; a log line each would only help an attacker fill the disk.
        debug!(request_id, ?code, reason, "a request was refused");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_hint_when_to_retry_is_in_the_trailers() {
        let status = to_status(&Error::exhausted("full", Duration::from_millis(250)), "7");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "full");
        assert_eq!(status.metadata().get("retry-after-ms").unwrap(), "250");
        assert!(to_status(&Error::invalid("no"), "").metadata().is_empty());
    }

    #[test]
    fn http_has_the_hint_in_its_headers_and_the_message_in_its_body() {
        let response = to_response(&Error::exhausted("full", Duration::from_millis(1250)), "7");
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["retry-after-ms"], "1250");
        assert!(response.extensions().get::<Error>().is_some_and(|error| error.message == "full"));
        assert!(!to_response(&Error::invalid("no"), "").headers().contains_key("retry-after"));
    }

    #[test]
    fn a_message_that_quotes_too_much_is_cut_between_characters() {
        for first in ["", "x"] {
            let error = Error::invalid(format!("{first}{}", "ä".repeat(10_000)));
            let status = to_status(&error, "");
            let beginning = status.message().strip_suffix('…').unwrap();
            assert!(error.message.starts_with(beginning), "{beginning}");
            assert!(matches!(beginning.len(), 1023 | 1024), "{}", beginning.len());
            assert_eq!(to_message(&error, "").message, status.message());
        }
        let most = Error::invalid("x".repeat(1024));
        assert_eq!(to_status(&most, "").message(), most.message);
    }

    #[test]
    fn a_log_line_has_the_request_and_the_reason_once() {
        let lines = Lines::default();
        let log = tracing_subscriber::fmt().json().with_max_level(tracing::Level::DEBUG).with_writer(lines.clone());
        tracing::subscriber::with_default(log.finish(), || {
            let _ = to_status(&Error::invalid("no picture"), "7");
            log_answer("8");
            log_answer("");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let [refused, answered, nameless] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert_eq!(refused.matches("\"message\"").count(), 1, "{refused}");
        for part in [r#""request_id":"7""#, r#""reason":"no picture""#, r#""code":"InvalidArgument""#] {
            assert!(refused.contains(part), "{refused}");
        }
        assert!(answered.contains(r#""request_id":"8""#), "{answered}");
        assert!(!nameless.contains("request_id"), "{nameless}");
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<parking_lot::Mutex<Vec<u8>>>);

    impl tracing_subscriber::fmt::MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
