//! Pages of the listing that are not what they should be.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;
use serde_json::Value;
use url::Url;

use super::answer::Refusal;
use super::call::{Call, parameter};
use super::nova::Page;
use super::{Ask, Cloud, Lie, Reply, Server};

/// The servers at one time, by their position in the history.
pub(super) type Snapshot = BTreeMap<usize, Arc<Server>>;

impl Cloud {
    /// The answer to a listing, mostly the honest one.
    pub(super) fn tell_lie(&mut self, now: u64, call: &Call, ask: &Ask, honest: Reply) -> Reply {
        if *call != Call::ListServers || !honest.status.is_success() {
            return honest;
        }
        let Some(lie) = self.draw(Lie::ALL.iter().copied(), 1.0) else {
            return honest;
        };
        let told = match lie {
            Lie::Stale => self.stale(now, &ask.url),
            Lie::Empty
            | Lie::Truncated
            | Lie::PageSkipped
            | Lie::PageShort
            | Lie::Twice
            | Lie::TwiceAcross
            | Lie::StatusNull
            | Lie::StatusMissing
            | Lie::NameNull
            | Lie::MetadataMissing
            | Lie::MetadataNull
            | Lie::CreatedMissing
            | Lie::FlavorMissing
            | Lie::PowerStateNull
            | Lie::LaunchedNull
            | Lie::UpdatedMissing
            | Lie::UpdatedNull
            | Lie::TaskStateMissing
            | Lie::IdMissing => self
                .page(self.servers(), now, &ask.url)
                .and_then(|page| self.distort(lie, page, now, &ask.url)),
        };
        let told = match told {
            Ok(page) => self.page_reply(page, &ask.url),
            Err(refusal) => refusal.reply(call.service()),
        };
        if told == honest {
            return honest;
        }
        self.count(lie);
        told
    }

    /// The page of the list as it was some seconds ago.
    fn stale(&mut self, now: u64, url: &Url) -> Result<Page, Refusal> {
        let age = self.rng.random_range(self.setup.stale.clone());
        let then = now.saturating_sub(age);
        let old = self.snapshots.iter().rev().find(|(from, _)| *from <= then);
        match old {
            Some((_, servers)) => self.page(servers.values().map(Arc::as_ref), then, url),
            None => self.page(self.servers(), now, url),
        }
    }

    fn distort(&mut self, lie: Lie, mut page: Page, now: u64, url: &Url) -> Result<Page, Refusal> {
        match lie {
            Lie::Empty => {
                page.servers.clear();
                page.next = None;
            }
            Lie::Truncated => {
                let keep = self.rng.random_range(0..page.servers.len().max(1));
                page.servers.truncate(keep);
                page.next = None;
            }
            Lie::PageSkipped => {
                if let Some(marker) = page.next.clone() {
                    let mut link = url.clone();
                    link.query_pairs_mut().append_pair("marker", &marker);
                    let skipped = self.page(self.servers(), now, &link)?;
                    page.next = if skipped.servers.is_empty() {
                        Some(marker)
                    } else {
                        skipped.next
                    };
                }
            }
            Lie::PageShort => {
                let building = |s: &Value| s.get("status").is_some_and(|s| s == "BUILD");
                // The one that is just getting its host is on the page, and still in BUILD.
                let all_but_last = page.servers.iter().rev().skip(1);
                if page.next.is_some() && all_but_last.clone().any(building) {
                    page.servers.pop();
                    page.next = None;
                }
            }
            Lie::Twice => {
                if let Some(again) = self.pick(&page.servers) {
                    page.servers.push(again);
                }
            }
            Lie::TwiceAcross => {
                if let Some(before) = parameter(url, "marker").and_then(|id| self.shown(now, &id)) {
                    page.servers.insert(0, before);
                }
            }
            Lie::StatusNull => self.spoil_member(&mut page, "status", true),
            Lie::StatusMissing => self.spoil_member(&mut page, "status", false),
            Lie::NameNull => self.spoil_member(&mut page, "name", true),
            Lie::MetadataMissing => self.spoil_member(&mut page, "metadata", false),
            Lie::MetadataNull => self.spoil_member(&mut page, "metadata", true),
            Lie::CreatedMissing => self.spoil_member(&mut page, "created", false),
            Lie::FlavorMissing => self.spoil_member(&mut page, "flavor", false),
            Lie::PowerStateNull => self.spoil_member(&mut page, "OS-EXT-STS:power_state", true),
            Lie::LaunchedNull => self.spoil_member(&mut page, "OS-SRV-USG:launched_at", true),
            Lie::UpdatedMissing => self.spoil_member(&mut page, "updated", false),
            Lie::UpdatedNull => self.spoil_member(&mut page, "updated", true),
            Lie::TaskStateMissing => self.spoil_member(&mut page, "OS-EXT-STS:task_state", false),
            Lie::IdMissing => self.spoil_member(&mut page, "id", false),
            Lie::Stale => {}
        }
        Ok(page)
    }

    /// Takes a member away from one of the servers, or its value.
    fn spoil_member(&mut self, page: &mut Page, member: &str, leave_null: bool) {
        let having: Vec<usize> = (0..page.servers.len())
            .filter(|at| {
                let value = page.servers.get(*at).and_then(|s| s.get(member));
                value.is_some_and(|value| !value.is_null())
            })
            .collect();
        let Some(at) = self.pick(&having) else {
            return;
        };
        let Some(server) = page.servers.get_mut(at).and_then(Value::as_object_mut) else {
            return;
        };
        if leave_null {
            server.insert(member.to_owned(), Value::Null);
        } else {
            server.remove(member);
        }
    }

    /// How the listing shows a server that is there.
    fn shown(&self, now: u64, id: &str) -> Option<Value> {
        let server = self.server(id).filter(|server| !server.is_gone())?;
        Some(super::detail::detail(
            &self.base,
            server,
            now,
            super::detail::Place::Listing,
        ))
    }

    /// Remembers the list of servers as it is from now on, for the stale listings to come.
    pub(super) fn note(&mut self, now: u64) {
        if self.faults.chance(Lie::Stale) <= 0.0 {
            self.snapshots.clear();
            return;
        }
        if !std::mem::take(&mut self.changed) && !self.snapshots.is_empty() {
            return;
        }
        let current = self.snapshot();
        match self.snapshots.back_mut() {
            Some((from, last)) if *from == now => *last = current,
            Some(_) | None => self.snapshots.push_back((now, current)),
        }
        let oldest = now.saturating_sub(*self.setup.stale.end());
        while self
            .snapshots
            .get(1)
            .is_some_and(|(from, _)| *from <= oldest)
        {
            self.snapshots.pop_front();
        }
    }
    /// The servers that there are, sharing with the last snapshot those that are as they were.
    fn snapshot(&self) -> Snapshot {
        let last = self.snapshots.back().map(|(_, last)| last);
        let present = self.present.iter();
        present
            .filter_map(|at| Some((*at, self.all.get(*at)?)))
            .map(|(at, server)| {
                let known = last.and_then(|last| last.get(&at));
                let same = known.filter(|known| ***known == *server).cloned();
                (at, same.unwrap_or_else(|| Arc::new(server.clone())))
            })
            .collect()
    }
}
