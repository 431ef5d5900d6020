//! Images that the daemon uploads: larger than its memory, and in spite of crashes.

use std::fs::File;
use std::time::Instant;

use reqwest::Method;
use serde_json::Value;

use super::factory::{Factory, Space};
use super::life::all_running;
use super::{FACTORY, Stage, scenario, text};

const MEBIBYTE: u64 = 1024 * 1024;

/// The size of the image in MiB: `VCYCLE_TEST_IMAGE_MIB`, by default one that costs little.
fn size() -> u64 {
    let told = std::env::var("VCYCLE_TEST_IMAGE_MIB");
    told.map_or(192, |told| told.parse().unwrap()) * MEBIBYTE
}

/// The images of a space that the daemon has made, of whatever status.
async fn images(stage: &Stage, space: &str) -> Vec<Value> {
    let mut query = form(&[("tag", &format!("manager={FACTORY}"))]);
    query.push_str(&format!("&{}", form(&[("tag", &format!("space={space}"))])));
    let url = format!("{}/v2/images?visibility=private&{query}", stage.user.image);
    let found = stage.user.get(&url).await;
    found["images"].as_array().unwrap().clone()
}

fn form(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish()
}

async fn remove_images(stage: &Stage, space: &str) {
    for image in images(stage, space).await {
        let url = format!("{}/v2/images/{}", stage.user.image, text(&image, "id"));
        let (status, said) = stage.user.ask(Method::DELETE, &url, None).await;
        // One that is still being saved goes with its upload.
        assert!(matches!(status, 204 | 404 | 409), "{status} {said}");
    }
}

/// A file of this size that takes no room.
fn sparse(factory: &Factory, name: &str, size: u64) {
    File::create(factory.path(name))
        .unwrap()
        .set_len(size)
        .unwrap();
}

/// Plays a scenario with one machinetype whose image is the sparse file `disk.img`.
async fn with_image(stage: &Stage, name: &str, size: u64, play: impl AsyncFnOnce(&Factory)) {
    use futures_util::FutureExt;

    remove_images(stage, name).await;
    let machinetypes = [("job", "fizzle_seconds = 600\nroot_image = disk.img\n")];
    let space = Space::new(stage, name, 1, &machinetypes);
    let factory = Factory::new(stage, &space);
    let file = format!("state/spaces/{name}/machinetypes/job/files/disk.img");
    sparse(&factory, &file, size);
    let playing = std::panic::AssertUnwindSafe(play(&factory));
    let outcome = playing.catch_unwind().await;
    factory.kill();
    super::delete_ours(&stage.user).await;
    remove_images(stage, name).await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn an_image_larger_than_the_memory_is_uploaded_and_booted_from() {
    scenario("upload a large image", async |stage| {
        let name = "upload.example.org";
        with_image(stage, name, size(), async |factory| {
            factory.run();
            factory.more_passes(1).await;
            let before = factory.memory();
            let began = Instant::now();
            let ready = factory
                .until("the upload", 600, async || {
                    let found = images(stage, name).await;
                    assert!(found.len() <= 1, "{found:?}");
                    assert!(
                        factory.machines().is_empty() || found[0]["status"] == "active",
                        "no machine before its image"
                    );
                    found.into_iter().find(|image| image["status"] == "active")
                })
                .await;
            let servers = all_running(stage, factory, name, 1, 120).await;
            let after = factory.memory();
            println!(
                "{} MiB in {:.1} s; the most memory of the daemon was {before} kB before and {after} kB after",
                size() / MEBIBYTE,
                began.elapsed().as_secs_f32()
            );
            assert!(after < before + 24 * 1024, "{before} kB, then {after} kB");
            assert_eq!(ready["size"], size());
            assert_eq!(ready["visibility"], "private");
            assert_eq!(ready["disk_format"], "raw");
            assert_eq!(servers[0]["image"]["id"], ready["id"]);
            assert!(factory.passes() > 1);
            let steps = factory.logged(&["uploading", " MiB ("]).len();
            println!("the log says {steps} times how far the upload is");
            factory.more_passes(2).await;
            assert_eq!(images(stage, name).await.len(), 1);
            assert_eq!(factory.complaints(), Vec::<String>::new());
        })
        .await;
    });
}

#[test]
fn an_upload_that_was_killed_is_replaced() {
    scenario("kill -9 in the middle of an upload", async |stage| {
        let name = "broken-upload.example.org";
        with_image(stage, name, size().max(1024 * MEBIBYTE), async |factory| {
            factory.run();
            let broken = factory
                .until("the upload begins", 60, async || {
                    let found = images(stage, name).await.pop();
                    found.filter(|image| image["status"] == "saving")
                })
                .await;
            let plan = factory.plan(&[name]);
            let stopped = &plan["report"]["machinetypes"]["job"]["stopped_by"];
            assert_eq!(stopped["rule"], "image", "{plan}");
            assert!(
                stopped["why"]
                    .as_str()
                    .unwrap()
                    .contains("is being uploaded"),
                "{plan}"
            );
            factory.kill();
            assert!(factory.machines().is_empty());
            let left = images(stage, name).await;
            println!(
                "after the kill: {:?}",
                left.iter().map(|i| text(i, "status")).collect::<Vec<_>>()
            );
            assert_ne!(left[0]["status"], "active", "killed too late");

            // Asked to end in the middle of the next, it ends at once.
            factory.run();
            let second = factory
                .until("the second upload begins", 60, async || {
                    let mut found = images(stage, name).await.into_iter();
                    found.find(|image| image["id"] != broken["id"] && image["status"] == "saving")
                })
                .await;
            let began = Instant::now();
            factory.stop();
            let took = began.elapsed().as_secs_f32();
            println!("asked to end in the middle of an upload, it took {took:.2} s");
            assert!(took < 3.0, "{took}");

            factory.run();
            let ready = factory
                .until("the third upload", 300, async || {
                    let mut found = images(stage, name).await.into_iter();
                    found.find(|image| image["status"] == "active")
                })
                .await;
            assert!(ready["id"] != broken["id"] && ready["id"] != second["id"]);
            let servers = all_running(stage, factory, name, 1, 120).await;
            assert_eq!(servers[0]["image"]["id"], ready["id"]);
            assert_eq!(images(stage, name).await.len(), 1, "{}", factory.tail());
            assert_eq!(factory.complaints(), Vec::<String>::new());
        })
        .await;
    });
}
