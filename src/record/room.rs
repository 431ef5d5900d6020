//! Remembering where the cloud has no room, and saying so.

use tracing::{debug, info, warn};

use super::Recorder;
use crate::cloud::CloudError;
use crate::decide;
use crate::model::{EXHAUSTED_FOR, MachineFiles, MachineName, Place, Placement, Timestamp};

impl Recorder<'_> {
    /// A machine that the cloud had agreed to make has ended for want of room, known since `at`.
    /// That end is told with its reason; this adds what follows.
    pub(super) fn note_no_room(
        &mut self,
        flavor: &str,
        places: &[Place],
        at: Timestamp,
        now: Timestamp,
    ) {
        let known = &self.memory.exhausted;
        let is_old = |known: &Timestamp| *known > now || at.since(*known) >= EXHAUSTED_FOR;
        let is_news = places
            .iter()
            .any(|place| known.get(place).is_none_or(is_old));
        for place in places {
            self.memory.note_exhausted(place.clone(), at, now);
        }
        // Of many that fail together one is enough.
        if let Some(place) = places.last()
            && is_news
        {
            let until = (at + EXHAUSTED_FOR).to_rfc3339();
            info!(
                "the cloud has no room for flavor {flavor}{}; it is not asked for there until {until}",
                zone(place.zone.as_deref())
            );
        }
    }

    /// Takes over where a creation was refused for want of room, and where it was accepted.
    pub(super) fn note_refusals(
        &mut self,
        machine: &MachineName,
        no_room: &[(Placement, CloudError)],
        made: Option<&MachineFiles>,
        now: Timestamp,
    ) {
        for (placement, error) in no_room {
            let Some(shortage) = error.kind.shortage() else {
                continue;
            };
            for place in decide::places(self.config, placement.place(), shortage) {
                self.memory.note_exhausted(place, now, now);
            }
            let subject = about_room(&placement.place());
            let text = error.to_string().replace(machine.as_str(), "it");
            let until = (now + EXHAUSTED_FOR).to_rfc3339();
            let (flavor, zone) = (&placement.flavor.name, zone(placement.zone.as_deref()));
            if self.repeats.is_news(&subject, &text) {
                warn!(
                    "the cloud has no room for flavor {flavor}{zone}: {text}; it is not asked for there until {until}"
                );
            } else {
                debug!("the cloud has no room for flavor {flavor}{zone}: {text}");
            }
        }
        if let Some(files) = made.filter(|files| files.id.is_some())
            && let Some(flavor) = files.flavor.clone()
        {
            let place = Place {
                flavor,
                zone: files.zone.clone(),
            };
            if let Some(count) = self.repeats.is_over(&about_room(&place)) {
                info!(%machine, "the cloud takes its flavor there again, after {count} refusal(s)");
            }
        }
    }
}

fn zone(zone: Option<&str>) -> String {
    zone.map_or_else(String::new, |zone| format!(" in zone {zone}"))
}

/// What the log calls the trouble with one place.
fn about_room(place: &Place) -> String {
    format!(
        "room for {} in {}",
        place.flavor,
        place.zone.as_deref().unwrap_or("any zone")
    )
}
