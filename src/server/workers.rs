//! The threads that serve connections.
//!
//! Each has a runtime of its own, and a connection stays on the thread that accepted it: an answer
//! takes tens of microseconds, which waking another thread would double. What may take long (large
//! bodies, what has to be synced) is still done on threads for that.

use std::io;
use std::num::NonZero;

use tokio::runtime::{Builder, Handle, Runtime};

/// The most threads: a signature for each of a thousand handshakes a second is work for two.
const MOST: usize = 8;

/// The threads. Dropping them ends what runs on them where it is.
#[derive(Debug)]
pub struct Workers(Vec<Runtime>);

impl Workers {
    /// As many as there are processors, but not many.
    ///
    /// # Errors
    /// When the system gives no more threads or descriptors.
    pub fn start() -> io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        // What has been started ends as it has to (see `drop`) when another cannot be.
        let mut workers = Self(Vec::new());
        for _ in 0..processors.min(MOST) {
            let runtime = Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("vcycled-https")
                .enable_all()
                .build()?;
            workers.0.push(runtime);
        }
        Ok(workers)
    }

    /// What is to run on each.
    pub fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.0.iter().map(Runtime::handle)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for runtime in self.0.drain(..) {
            // A runtime must not wait for its threads where it may be dropped: on another one.
            runtime.shutdown_background();
        }
    }
}
