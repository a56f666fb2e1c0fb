//! Whether the daemon takes work: serving, then not ready any more, then refusing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// The daemon's own state, shared by everything that asks whether to go on.
#[derive(Debug, Default)]
pub struct Lifecycle {
    not_ready: CancellationToken,
    refusing: CancellationToken,
    requests: AtomicUsize,
}

impl Lifecycle {
    /// Whether the daemon wants to be sent work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.not_ready.is_cancelled()
    }

    /// Readiness ends here; work is still taken, until those who watch readiness have seen it.
    pub fn begin_shutdown(&self) {
        self.not_ready.cancel();
    }

    /// New work is refused from here on.
    pub fn refuse(&self) {
        self.refusing.cancel();
    }

    /// Resolves when new work is refused.
    pub async fn refused(&self) {
        self.refusing.cancelled().await;
    }

    /// Resolves when readiness has ended.
    pub async fn shutting_down(&self) {
        self.not_ready.cancelled().await;
    }

    /// Whether new work is taken.
    ///
    /// # Errors
    /// UNAVAILABLE while the daemon shuts down.
    pub fn admit(&self) -> Result<(), Error> {
        if self.refusing.is_cancelled() {
            return Err(Error::unavailable("the server is shutting down"));
        }
        Ok(())
    }

    /// Calls of the detection and inference services that are being answered.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }

    /// Takes one of `limit` places for a call.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when all are taken.
    pub fn enter(self: &Arc<Self>, limit: usize) -> Result<Entered, Error> {
        let before = self.requests.fetch_add(1, Ordering::AcqRel);
        let entered = Entered { lifecycle: Arc::clone(self) };
        if before >= limit {
            return Err(Error::exhausted(
                format!("the server answers {limit} requests at once, its limit"),
                std::time::Duration::from_millis(100),
            ));
        }
        Ok(entered)
    }
}

/// A call that is being answered.
#[derive(Debug)]
pub struct Entered {
    lifecycle: Arc<Lifecycle>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.lifecycle.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn places_are_given_back() {
        let lifecycle = Arc::new(Lifecycle::default());
        let first = lifecycle.enter(2).unwrap();
        let _second = lifecycle.enter(2).unwrap();
        assert_eq!(lifecycle.enter(2).unwrap_err().code, ErrorCode::ResourceExhausted);
        drop(first);
        assert!(lifecycle.enter(2).is_ok());
        assert_eq!(lifecycle.requests(), 1);
    }

    #[test]
    fn readiness_ends_before_work_is_refused() {
        let lifecycle = Lifecycle::default();
        lifecycle.begin_shutdown();
        assert!(!lifecycle.is_ready());
        assert!(lifecycle.admit().is_ok());
        lifecycle.refuse();
        assert_eq!(lifecycle.admit().unwrap_err().code, ErrorCode::Unavailable);
    }
}
