//! From the daemon's errors to gRPC: the only place that makes a status, and the only one that logs a refusal.

use std::sync::Arc;

use detectd_proto::detect::v1 as wire;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tracing::{debug, error};

use crate::error::{Error, ErrorCode};

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

/// The status of a call that fails as a whole.
pub fn to_status(error: &Error, request_id: &str) -> Status {
    log(error, request_id);
    let mut metadata = MetadataMap::new();
    if let Some(after) = error.retry_after {
        let milliseconds = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        metadata.insert("retry-after-ms", MetadataValue::from(milliseconds));
    }
    let mut status = Status::with_metadata(code(error.code), error.message.clone(), metadata);
    status.set_source(Arc::new(error.clone()));
    status
}

/// The error of one image among several.
pub fn to_message(error: &Error, request_id: &str) -> wire::Error {
    log(error, request_id);
    wire::Error { code: code(error.code) as i32, message: error.message.clone() }
}

/// Notes that a request was answered.
pub fn log_answer(request_id: &str) {
    debug!(request_id, "a request was answered");
}

/// The error that a status was made from; `None` where tonic made the status.
pub fn cause(status: &Status) -> Option<&Error> {
    std::error::Error::source(status)?.downcast_ref()
}

fn log(error: &Error, request_id: &str) {
    // The event's own text has the name `message`.
    let Error { code, message: reason, .. } = error;
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
    fn a_log_line_has_the_request_and_the_reason_once() {
        let lines = Lines::default();
        let log = tracing_subscriber::fmt().json().with_max_level(tracing::Level::DEBUG).with_writer(lines.clone());
        tracing::subscriber::with_default(log.finish(), || {
            let _ = to_status(&Error::invalid("no picture"), "7");
            log_answer("8");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let [refused, answered] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert_eq!(refused.matches("\"message\"").count(), 1, "{refused}");
        for part in [r#""request_id":"7""#, r#""reason":"no picture""#, r#""code":"InvalidArgument""#] {
            assert!(refused.contains(part), "{refused}");
        }
        assert!(answered.contains(r#""request_id":"8""#), "{answered}");
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
