//! Work that may block: files, mostly.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does `work` where it keeps nobody waiting: on a thread of its own. A runtime that has only one
/// thread does it on the spot, in a fixed order with everything else: a simulation is such a
/// runtime, and has to be the same each time. A panic in `work` goes on in the caller.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
