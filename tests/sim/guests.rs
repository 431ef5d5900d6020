//! What goes on inside the VMs: work, heartbeats, messages, and other endings.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use vcycle::model::Dn;
use vcycle::server::{Access, Client, Credentials, Router};

use crate::plan::DN;

/// What the VMs of a cloud are like at the moment: chances, in percent.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// They find work, and end with 200.
    pub work: u32,
    /// They find none, and end with 300 soon.
    pub idle: u32,
    /// They find the site broken, and end with 500 soon.
    pub broken: u32,
    /// They shut down without a word, soon or late.
    pub silent: u32,
    /// They hang: no heartbeat, no end.
    pub hang: u32,
    /// They write heartbeats and never end.
    pub endless: u32,
}

impl Manners {
    pub const GOOD: Self = Self {
        work: 1,
        idle: 0,
        broken: 0,
        silent: 0,
        hang: 0,
        endless: 0,
    };

    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        let mut some = |most| rng.random_range(0..=most);
        Self {
            work: 10,
            idle: some(10),
            broken: some(3),
            silent: some(3),
            hang: some(2),
            endless: some(2),
        }
    }
}

/// One VM.
#[derive(Clone, Debug)]
struct Guest {
    beats: bool,
    /// When it ends by itself.
    until: Option<u64>,
    message: Option<&'static str>,
    /// Whether it goes when it is told to.
    listens: bool,
    next_beat: u64,
    tries: u32,
}

/// What the inside of a VM asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    ShutOff,
}

/// All VMs of one cloud.
#[derive(Debug, Default)]
pub struct Guests {
    guests: BTreeMap<String, Guest>,
    /// The last message of each machine that was answered with success, and when that was.
    pub accepted: BTreeMap<String, (&'static str, u64)>,
    pub heartbeats: u64,
    /// When the last heartbeat of a machine was taken.
    pub heard: BTreeMap<String, u64>,
    /// When the last one came that a full disk, or one that cannot be written to, did not take.
    pub refused: BTreeMap<String, u64>,
}

impl Guests {
    /// Lets the VM with this identifier do what is due. `machine` is the name that it was made
    /// with.
    pub async fn live(
        &mut self,
        (id, machine): (&str, &str),
        router: &Router,
        manners: Manners,
        now: u64,
        rng: &mut ChaCha8Rng,
    ) -> Wish {
        let guest = self
            .guests
            .entry(id.to_owned())
            .or_insert_with(|| Guest::draw(manners, now, rng));
        let beat = guest.beats && now >= guest.next_beat;
        if beat {
            guest.next_beat = now + rng.random_range(60..=200);
            let answer = put(router, machine, "heartbeat", "").await;
            if answer.is_success() {
                self.heard.insert(machine.to_owned(), now);
            } else if answer == StatusCode::INSUFFICIENT_STORAGE {
                self.refused.insert(machine.to_owned(), now);
            }
            self.heartbeats += 1;
        }
        let mut message = guest.message;
        let mut over = guest.until.is_some_and(|until| now >= until);
        if guest.listens && !over && beat {
            let told = get(router, machine, "machinefeatures/shutdowntime").await;
            let told: Option<u64> = told.and_then(|text| text.parse().ok());
            if told.is_some_and(|told| now + 200 >= told) {
                message = Some("100 Shutdown as requested by the host");
                over = true;
            }
        }
        if !over {
            return Wish::Nothing;
        }
        if let Some(text) = message {
            guest.tries += 1;
            let answer = put(router, machine, "shutdown_message", text).await;
            if answer.is_success() {
                self.accepted.insert(machine.to_owned(), (text, now));
            } else if guest.tries < 4 {
                return Wish::Nothing;
            }
        }
        Wish::ShutOff
    }
}

impl Guest {
    fn draw(manners: Manners, now: u64, rng: &mut ChaCha8Rng) -> Self {
        let kinds = [
            manners.work,
            manners.idle,
            manners.broken,
            manners.silent,
            manners.hang,
            manners.endless,
        ];
        let mut draw = rng.random_range(0..kinds.iter().sum::<u32>().max(1));
        let kind = kinds.iter().position(|weight| {
            let chosen = draw < *weight;
            draw = draw.saturating_sub(*weight);
            chosen
        });
        let soon = now + rng.random_range(20..=200);
        let late = now + rng.random_range(400..=3000);
        let (until, message, beats) = match kind {
            Some(1) => (Some(soon), Some("300 No more work"), true),
            Some(2) => (Some(soon), Some("500 No CVMFS"), true),
            Some(3) if rng.random_bool(0.5) => (Some(soon), None, true),
            Some(3) => (Some(late), None, true),
            Some(4) => (None, None, false),
            Some(5) => (None, None, true),
            _ => (Some(late), Some("200 Success"), true),
        };
        Self {
            beats,
            until,
            message,
            listens: message == Some("200 Success"),
            next_beat: now,
            tries: 0,
        }
    }
}

fn client() -> Client {
    Client {
        address: SocketAddr::from(([192, 0, 2, 1], 4711)),
        access: Access::Tls(Credentials::Verified(Dn::parse(DN).unwrap())),
    }
}

async fn put(router: &Router, machine: &str, file: &str, text: &'static str) -> StatusCode {
    let request = Request::put(format!("/machines/{machine}/joboutputs/{file}"))
        .header("content-length", text.len())
        .body(Full::new(Bytes::from_static(text.as_bytes())))
        .unwrap();
    router.answer(request, &client()).await.status()
}

async fn get(router: &Router, machine: &str, path: &str) -> Option<String> {
    let request = Request::get(format!("/machines/{machine}/{path}"))
        .body(Full::new(Bytes::new()))
        .unwrap();
    let answer = router.answer(request, &client()).await;
    if !answer.status().is_success() {
        return None;
    }
    let body = answer.into_body().collect().await.ok()?.to_bytes();
    String::from_utf8(body.to_vec()).ok()
}
