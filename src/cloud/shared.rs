//! Look-ups that concurrent creations share: one asks, the others wait and take its answer, or
//! its error. Ten creations at once on a cloud whose image service hangs wait once, not ten times
//! in a row.

use std::collections::HashMap;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cloud::CloudError;

/// Answers by key. The keys are those of the configuration, so that there are few.
#[derive(Debug)]
pub(super) struct Shared<T>(Mutex<HashMap<String, Entry<T>>>);

#[derive(Debug)]
enum Entry<T> {
    Known(T),
    Failed(Instant, CloudError),
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Shared<T> {
    /// What is known for `key` if it is still `fresh`, else what `look_up` finds. An error is
    /// shared with those who were waiting for it, and forgotten after that.
    ///
    /// # Errors
    /// Those of `look_up`.
    pub(super) async fn get(
        &self,
        key: &str,
        fresh: impl Fn(&T) -> bool,
        look_up: impl Future<Output = Result<T, CloudError>>,
    ) -> Result<T, CloudError> {
        let asked = Instant::now();
        let mut entries = self.0.lock().await;
        match entries.get(key) {
            Some(Entry::Known(known)) if fresh(known) => return Ok(known.clone()),
            Some(Entry::Failed(when, error)) if *when > asked => return Err(error.clone()),
            Some(Entry::Known(_) | Entry::Failed(..)) | None => {}
        }
        let outcome = look_up.await;
        let entry = match &outcome {
            Ok(found) => Entry::Known(found.clone()),
            Err(error) => Entry::Failed(Instant::now(), error.clone()),
        };
        entries.insert(key.to_owned(), entry);
        outcome
    }

    /// Forgets everything: the cloud has refused something that we took for known.
    pub(super) async fn forget(&self) {
        self.0.lock().await.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::CloudErrorKind;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    async fn many(shared: &Shared<u32>, outcome: Result<u32, CloudError>) -> usize {
        let count = AtomicUsize::new(0);
        let look_up = || async {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(90)).await;
            outcome.clone()
        };
        let (a, b, c) = tokio::join!(
            shared.get("k", |_| true, look_up()),
            shared.get("k", |_| true, look_up()),
            shared.get("k", |_| true, look_up()),
        );
        assert_eq!((&a, &b, &c), (&outcome, &outcome, &outcome));
        count.load(Ordering::SeqCst)
    }

    #[tokio::test(start_paused = true)]
    async fn answers_and_errors_are_shared_by_those_who_wait() {
        let shared = Shared::default();
        let error = CloudError::new(CloudErrorKind::Transient, "GET x", "no answer");
        assert_eq!(many(&shared, Err(error.clone())).await, 1);
        assert_eq!(
            many(&shared, Err(error)).await,
            1,
            "later callers ask again, once"
        );
        assert_eq!(many(&shared, Ok(7)).await, 1);
        assert_eq!(many(&shared, Ok(7)).await, 0);
        shared.forget().await;
        assert_eq!(many(&shared, Ok(8)).await, 1);
    }

    #[tokio::test]
    async fn what_is_stale_is_looked_up_again() {
        let shared = Shared::default();
        let get =
            async |fresh: bool, found: u32| shared.get("k", |_| fresh, async { Ok(found) }).await;
        assert_eq!(get(true, 1).await, Ok(1));
        assert_eq!(get(true, 2).await, Ok(1));
        assert_eq!(get(false, 3).await, Ok(3));
    }
}
