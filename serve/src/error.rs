//! What a request can be refused with. `rpc/status.rs` turns it into a gRPC status, and nothing else does.

use std::fmt;
use std::time::Duration;

/// Why a request has no answer, by what its sender can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The request cannot be served as it is: an image, an option, a shape.
    InvalidArgument,
    /// No such model or version.
    NotFound,
    /// The model is known but does not serve now, or the server is shutting down.
    Unavailable,
    /// A bounded queue or a limit is full.
    ResourceExhausted,
    /// The sender's deadline passed.
    DeadlineExceeded,
    /// The sender went away.
    Cancelled,
    /// The protocol has it, this server does not.
    Unimplemented,
    /// The engine failed on this request.
    Internal,
}

/// A request's failure: a code, a message that names what was wrong, and when to come again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of failure.
    pub code: ErrorCode,
    /// The thing, what was expected, and what came.
    pub message: String,
    /// After which time a retry may succeed.
    pub retry_after: Option<Duration>,
    /// Whether a metric counts the request already.
    pub counted: bool,
}

impl Error {
    /// A failure without a hint when to retry.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, counted: false }
    }

    /// The request cannot be served as it is.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// No such model or version.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// Known, but not serving now.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message)
    }

    /// A bounded queue or a limit is full; `retry_after` tells when there may be room.
    #[must_use]
    pub fn exhausted(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ErrorCode::ResourceExhausted, message) }
    }

    /// The sender's deadline passed at `stage`.
    #[must_use]
    pub fn deadline(stage: &str) -> Self {
        Self::new(ErrorCode::DeadlineExceeded, format!("the deadline passed {stage}"))
    }

    /// The protocol has it, this server does not.
    #[must_use]
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unimplemented, message)
    }

    /// The engine failed.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }

    /// The same failure of a request that a metric counts.
    #[must_use]
    pub fn counted(mut self) -> Self {
        self.counted = true;
        self
    }

    /// The same failure with `context` before its message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
