//! Decoding, resizing and reading large JSON, on threads of their own: none of it on the async runtime.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::error::Error;

/// A fixed set of threads for CPU work. Every job that is waited for holds a place in a bounded queue, which bounds the
/// jobs. One that nobody waits for any more drops its work at once; an empty shell of it stays in line until its turn.
pub struct CpuPool {
    pool: rayon::ThreadPool,
}

impl CpuPool {
    /// A pool of `threads` threads; 0 means one a core.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn new(threads: usize) -> Result<Self, Error> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("decode-{index}"))
            .build()
            .map(|pool| Self { pool })
            .map_err(|error| Error::unavailable(format!("no threads for decoding: {error}")))
    }

    /// Runs `work`, in turn. When the caller stops waiting before its turn has come, it is not run at all, and
    /// what it holds is dropped there and then.
    ///
    /// # Errors
    /// What `work` answers; [`crate::error::ErrorCode::Internal`] when it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let job = Job(Arc::new(Mutex::new(Some(work))));
        let turn = Arc::clone(&job.0);
        self.pool.spawn_fifo(move || {
            let Some(work) = turn.lock().take() else { return };
            let result = catch_unwind(AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err(Error::internal("preparing the request panicked")));
            let _ = reply.send(result);
        });
        let result = answer.await;
        drop(job);
        result.unwrap_or_else(|_| Err(Error::internal("preparing the request ended without an answer")))
    }
}

/// The waiting side's hold of work whose turn has not come. Dropped, it takes the work back.
struct Job<F>(Arc<Mutex<Option<F>>>);

impl<F> Drop for Job<F> {
    fn drop(&mut self) {
        // Out of the lock first: dropping an image's bytes must not hold up the thread whose turn it is.
        let work = self.0.lock().take();
        drop(work);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::error::ErrorCode;

    #[tokio::test]
    async fn a_panic_is_an_answer_and_the_pool_goes_on() {
        let pool = CpuPool::new(1).unwrap();
        let panicked = pool.run(|| -> Result<(), Error> { panic!("for the test") }).await;
        assert_eq!(panicked.unwrap_err().code, ErrorCode::Internal);
        assert_eq!(pool.run(|| Ok(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn abandoned_work_is_dropped_at_once_and_not_run() {
        let pool = Arc::new(CpuPool::new(1).unwrap());
        let (release, blocked) = sync_channel::<()>(1);
        let runs = Arc::new(AtomicUsize::new(0));
        let busy = {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { pool.run(move || Ok(blocked.recv().is_ok())).await })
        };
        tokio::task::yield_now().await;
        let (counted, bytes) = (Arc::clone(&runs), Arc::new(vec![0_u8; 1000]));
        let held = Arc::clone(&bytes);
        let abandoned = pool.run(move || {
            drop(held);
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        let waited = tokio::time::timeout(std::time::Duration::from_millis(20), abandoned).await;
        assert!(waited.is_err(), "the only thread is busy");
        assert_eq!(Arc::strong_count(&bytes), 1, "what the work held is gone before the thread is free");
        release.send(()).unwrap();
        assert_eq!(busy.await.unwrap(), Ok(true));
        assert_eq!(pool.run(|| Ok(())).await, Ok(()));
        assert_eq!(runs.load(Ordering::SeqCst), 0);
    }
}
