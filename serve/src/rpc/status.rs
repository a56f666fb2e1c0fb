//! From the daemon's errors to gRPC: the only place that makes a status, and the only one that logs a refusal.

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
    Status::with_metadata(code(error.code), error.message.clone(), metadata)
}

/// The error of one image among several.
pub fn to_message(error: &Error, request_id: &str) -> wire::Error {
    log(error, request_id);
    wire::Error { code: code(error.code) as i32, message: error.message.clone() }
}

fn log(error: &Error, request_id: &str) {
    let Error { code, message, .. } = error;
    if *code == ErrorCode::Internal {
        error!(request_id, ?code, message, "a request failed");
    } else {
        // The caller is told, and the metrics count it; a log line each would only help an attacker fill the disk.
        debug!(request_id, ?code, message, "a request was refused");
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
}
