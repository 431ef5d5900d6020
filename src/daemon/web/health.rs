//! `/healthz` and `/readyz`: for whoever starts, restarts and watches the process.

use std::time::Duration;

use http::{Response, StatusCode};
use tokio::sync::oneshot;

use super::Context;
use super::reply::{self, Body};
use crate::daemon::Status;

/// The driver comes round in no time, but for the reading of the configuration.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the driver comes round.
pub(super) async fn alive(context: &Context) -> Response<Body> {
    let (asker, answer) = oneshot::channel();
    let asked = async {
        context.driver.send(asker).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Some(())) => reply::text(StatusCode::OK, "ok"),
        Ok(None) => reply::text(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending"),
        Err(_) => {
            let why = format!("the daemon has not come round for {} s", PATIENCE.as_secs());
            reply::text(StatusCode::SERVICE_UNAVAILABLE, &why)
        }
    }
}

/// Whether everything has been looked at once.
pub(super) fn ready(status: &Status) -> Response<Body> {
    let missing = missing(status);
    if missing.is_empty() {
        reply::text(StatusCode::OK, "ready")
    } else {
        let text = format!("not ready\n{}", missing.join("\n"));
        reply::text(StatusCode::SERVICE_UNAVAILABLE, &text)
    }
}

fn missing(status: &Status) -> Vec<String> {
    if status.config.loaded.is_none() {
        return vec!["no good configuration has been loaded".to_owned()];
    }
    let mut missing = Vec::new();
    for name in &status.config.spaces {
        let space = status.spaces.get(name);
        // Decisions follow on complete scans only.
        if space.is_some_and(|space| space.decided.is_some()) {
            continue;
        }
        let why = space.and_then(|space| space.error.as_deref());
        let why = why.map_or_else(String::new, |why| format!(": {}", why.replace('\n', " ")));
        missing.push(format!("space {name} has not been looked at{why}"));
    }
    missing
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::daemon::SpaceStatus;
    use crate::model::{SpaceName, Timestamp};

    #[test]
    fn what_is_missing_is_told() {
        let now = Timestamp::from_unix(1000);
        let names = ["a.org", "b.org", "c.org"].map(|name| SpaceName::new(name).unwrap());
        let mut status = Status::default();
        assert_eq!(missing(&status).len(), 1);
        status.config.loaded = Some(now);
        status.config.spaces = names.to_vec();
        let looked_at = SpaceStatus {
            decided: Some(now),
            // A cloud that fails later has been looked at.
            error: Some("down".to_owned()),
            ..SpaceStatus::default()
        };
        let failing = SpaceStatus {
            error: Some("down\nand out".to_owned()),
            ..SpaceStatus::default()
        };
        status
            .spaces
            .insert(names[0].clone(), Arc::new(looked_at.clone()));
        status.spaces.insert(names[1].clone(), Arc::new(failing));
        let expected = [
            "space b.org has not been looked at: down and out",
            "space c.org has not been looked at",
        ];
        assert_eq!(missing(&status), expected);
        assert_eq!(ready(&status).status(), StatusCode::SERVICE_UNAVAILABLE);
        for name in names {
            status.spaces.insert(name, Arc::new(looked_at.clone()));
        }
        assert_eq!(ready(&status).status(), StatusCode::OK);
    }
}
