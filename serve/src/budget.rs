//! The bytes of requests that the whole server may hold at once, over every transport.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;

/// The bytes of message bodies that all calls together may hold.
#[derive(Clone)]
pub struct Budget {
    room: Arc<Semaphore>,
    limit: usize,
}

/// A call's part of the budget, given back when the last holder drops it. A stream gives back the bytes of each message
/// when it is taken; other calls keep theirs until they are answered.
pub type Held = Arc<Mutex<Option<OwnedSemaphorePermit>>>;

impl Budget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { room: Arc::new(Semaphore::new(limit)), limit }
    }

    /// The bytes held now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.limit - self.room.available_permits()
    }

    /// Takes `bytes` more for a call.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is no room for them.
    pub fn take(&self, bytes: usize, held: &Held) -> Result<(), Error> {
        let full = || {
            let limit = self.limit;
            let message = format!(
                "server.max_bytes_in_flight: the calls in work may hold {limit} bytes, no room for {bytes} more"
            );
            Error::exhausted(message, Duration::from_millis(100))
        };
        let count = u32::try_from(bytes).map_err(|_| full())?;
        let taken = Arc::clone(&self.room).try_acquire_many_owned(count).map_err(|_| full())?;
        let mut held = held.lock();
        match held.as_mut() {
            Some(held) => held.merge(taken),
            None => *held = Some(taken),
        }
        Ok(())
    }
}
