//! The whole daemon against a real OpenStack: the built binary, from its configuration files to
//! servers of Nova, and back.
//!
//! Each test is one scenario on a [`Stage`]. They take turns, because they share a project, and
//! each prints one line with the seconds that it took. What they make bears the mark of
//! [`FACTORY`]; all of it is deleted at the end of each scenario, whatever its outcome, and at the
//! beginning of the next run when a run was killed. Nothing else is touched.

mod crash;
mod factory;
mod faults;
mod images;
mod life;
mod paging;
mod placing;
mod proxy;
mod quota;
mod shutdown;
mod x509;

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use serde_json::Value;

use super::openstack_site::{Bystander, Site, site};

/// The name of the factory in all scenarios, by which what it made is known again.
const FACTORY: &str = "vcycle-test-tier.example.org";
/// The metadata key of servers that a scenario made itself.
const MADE_BY: &str = "vcycle_test_made_by";
/// How long deleted servers may take to go.
const CLEANUP: Duration = Duration::from_secs(180);

/// What a scenario has.
struct Stage {
    site: Site,
    /// The project's user, beside the daemon.
    user: Bystander,
    admin: Option<Bystander>,
    /// The image that servers boot from.
    image: String,
    /// How many servers were there before: they count towards the limits.
    present: usize,
}

/// Plays one scenario, cleans up, says how long it took, and fails if it failed.
fn scenario(name: &str, play: impl AsyncFnOnce(&Stage)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let Some((site, _turn)) = site(name).await else {
            return;
        };
        let began = Instant::now();
        let stage = Stage::set(site).await;
        let outcome = AssertUnwindSafe(play(&stage)).catch_unwind().await;
        let played = began.elapsed().as_secs_f32();
        stage.clean_up().await;
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!(
            "{word} {name}: {played:.0} s, and {:.0} s to clean up",
            began.elapsed().as_secs_f32() - played
        );
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Stage {
    async fn set(site: Site) -> Self {
        let user = Bystander::log_in(&site).await;
        let admin = match &site.admin {
            Some(admin) => {
                let (user, password) = (&admin.user, &admin.password);
                Some(Bystander::log_in_as(&site, user, password, &admin.project).await)
            }
            None => None,
        };
        let image = match &site.image {
            Some(image) => image.clone(),
            None => user.image().await,
        };
        delete_ours(&user).await;
        let present = user.servers().await.len();
        Self {
            site,
            user,
            admin,
            image,
            present,
        }
    }

    /// Servers of the main project that the daemon has made for a space.
    async fn servers(&self, space: &str) -> Vec<Value> {
        servers_of(&self.user, space).await
    }

    /// The identifier of the image, which the file may give by name.
    async fn image_id(&self) -> String {
        let images = format!("{}/v2/images", self.user.image);
        let by_id = self.user.get(&format!("{images}?id={}", self.image)).await;
        let found = match by_id["images"].as_array().map(Vec::as_slice) {
            Some([]) | None => {
                let name: String =
                    url::form_urlencoded::byte_serialize(self.image.as_bytes()).collect();
                self.user.get(&format!("{images}?name={name}")).await
            }
            Some(_) => by_id,
        };
        text(&found["images"][0], "id").to_owned()
    }

    async fn clean_up(&self) {
        delete_ours(&self.user).await;
        for project in self.site.projects.values() {
            if project.project != self.site.project {
                let (name, password) = (&self.site.user, &self.site.password);
                let user = Bystander::log_in_as(&self.site, name, password, &project.project).await;
                delete_ours(&user).await;
            }
        }
    }
}

/// Servers of a project that our factory has made for a space.
async fn servers_of(user: &Bystander, space: &str) -> Vec<Value> {
    let mut servers = user.servers().await;
    servers.retain(|server| {
        server["metadata"]["manager"] == FACTORY && server["metadata"]["space"] == space
    });
    servers
}

fn is_ours(server: &Value) -> bool {
    let metadata = &server["metadata"];
    server["name"].as_str().unwrap().starts_with("vcycle-")
        && (metadata["manager"] == FACTORY || metadata[MADE_BY] == FACTORY)
}

/// Deletes every server that bears our mark and waits until none is listed, twice: a request of a
/// daemon that was killed can still be on its way.
async fn delete_ours(user: &Bystander) {
    let end = Instant::now() + CLEANUP;
    let mut clean = 0;
    while clean < 2 {
        let left: Vec<String> = user
            .servers()
            .await
            .iter()
            .filter(|server| is_ours(server))
            .map(|server| server["id"].as_str().unwrap().to_owned())
            .collect();
        clean = if left.is_empty() { clean + 1 } else { 0 };
        assert!(
            left.is_empty() || Instant::now() < end,
            "these servers of the tests do not go away: {left:?}"
        );
        futures_util::stream::iter(&left)
            .for_each_concurrent(5, |id| user.delete(id))
            .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn text<'a>(server: &'a Value, member: &str) -> &'a str {
    server[member].as_str().unwrap()
}

fn is_active(server: &Value) -> bool {
    server["status"] == "ACTIVE" && server["OS-EXT-STS:task_state"].is_null()
}
