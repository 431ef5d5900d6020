//! What a factory has been told of a cloud's room, and the rule for that: a flavor that had none in
//! a zone is not asked for there for three minutes.

use std::collections::BTreeMap;

use serde_json::Value;

/// How long, in seconds.
const PAUSE: u64 = 180;

/// A flavor and the zone that it was asked for in; `None` where there are no zones.
type Place = (String, Option<String>);

/// Servers that one factory has asked for, and what became of them for want of room.
#[derive(Debug, Default)]
pub struct Room {
    /// By identifier: what was asked for.
    servers: BTreeMap<String, Place>,
    /// When a server was first shown as failed without ever having run.
    failed: BTreeMap<String, u64>,
    /// Found out in the pass that is going on, with the true time of it.
    fresh: Vec<(Place, u64)>,
    /// What the factory must know.
    known: BTreeMap<Place, u64>,
}

impl Room {
    /// Nothing is remembered: the daemon has begun again, or has dropped the space.
    pub fn forget(&mut self) {
        self.fresh.clear();
        self.known.clear();
    }

    /// A request for a server was answered: with the server, or for want of quota, which is the
    /// same in all of `zones`.
    pub fn answered(&mut self, place: Place, zones: &[String], answer: &[u8], ok: bool, now: u64) {
        if ok {
            let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
            if let Some(id) = answer.pointer("/server/id").and_then(Value::as_str) {
                self.servers.insert(id.to_owned(), place);
            }
        } else if String::from_utf8_lossy(answer).contains("Quota exceeded") {
            let others = zones
                .iter()
                .map(|zone| (place.0.clone(), Some(zone.clone())));
            self.fresh.extend(others.map(|place| (place, now)));
            self.fresh.push((place, now));
        }
    }

    /// A server was shown, in the listing or by itself.
    pub fn shown(&mut self, server: &Value, now: u64) {
        let text = |path: &str| server.pointer(path).and_then(Value::as_str);
        let Some((id, place)) = text("/id").and_then(|id| Some((id, self.servers.get(id)?))) else {
            return;
        };
        let launched = text("/OS-SRV-USG:launched_at").is_some();
        let deleting = text("/OS-EXT-STS:task_state").is_some();
        if text("/status") != Some("ERROR") || launched || deleting {
            return;
        }
        // The pause counts from the moment at which the factory has seen that it failed, and the
        // reason may have come later.
        let since = *self.failed.entry(id.to_owned()).or_insert(now);
        if text("/fault/message").is_some_and(|message| message.contains("No valid host")) {
            self.fresh.push((place.clone(), since));
        }
    }

    /// A pass came to its end, as it should or not.
    pub fn pass_has_ended(&mut self, well: bool) {
        let fresh = std::mem::take(&mut self.fresh);
        for (place, at) in fresh.into_iter().filter(|_| well) {
            let known = self.known.entry(place).or_default();
            *known = at.max(*known);
        }
    }

    /// When the factory was told that there is no room, if it may not ask again yet.
    pub fn refuses(&self, place: &Place, now: u64) -> Option<u64> {
        let told = self.known.get(place).copied();
        told.filter(|told| now < told + PAUSE)
    }
}
