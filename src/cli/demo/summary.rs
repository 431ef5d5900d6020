//! What the demo was to show, and whether it was seen.

use crate::state::Layout;

use super::show;
use super::site::{MAX_MACHINES, Role, Site};
use super::watch::{self, Row, View};

/// How far from its share a machinetype may be in a full space, in machines: those that have just
/// ended leave a gap until the next cycles.
const TOLERANCE: usize = 2;

/// What is remembered of all views.
#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    last: View,
    /// Machines of the space that fills, in the fullest moment whose shares were right, as
    /// machines in the order of the rows.
    fullest: Vec<usize>,
}

impl Summary {
    /// Takes the next view in.
    pub(super) fn note(&mut self, view: View) {
        let shares = view.shares();
        let machines: Vec<usize> = shares.iter().map(|(_, machines)| *machines).collect();
        let fuller = machines.iter().sum::<usize>() > self.fullest.iter().sum();
        if fuller && are_right(&shares) {
            self.fullest = machines;
        }
        self.last = view;
    }

    /// The same with the very last view.
    pub(super) fn with_last(mut self, view: View) -> Self {
        self.note(view);
        self
    }

    /// What was to be seen and was not. Where clouds have `faults`, a space may not fill in so
    /// short a time, and any machinetype may have aborts.
    pub(super) fn missing(&self, faults: bool) -> Vec<String> {
        let last = &self.last;
        let mut missing = last.problems.clone();
        let mut expect = |seen: bool, what: String| {
            if !seen {
                missing.push(what);
            }
        };
        expect(
            faults || self.fullest.iter().sum::<usize>() + TOLERANCE >= max_machines(),
            format!("a space filled to {MAX_MACHINES} machines by its shares"),
        );
        expect(last.heartbeats > 0, "heartbeats of machines".to_owned());
        for row in &last.rows {
            let name = &row.kind.machinetype;
            match row.kind.role {
                Role::Works => {
                    expect(row.succeeded > 0, format!("work done by {name}"));
                    expect(faults || row.aborted == 0, format!("{name} without aborts"));
                }
                Role::Idles => {
                    expect(row.aborted > 0, format!("{name} finding no work"));
                    expect(row.backoffs > 0, format!("{name} backing off"));
                }
            }
        }
        expect(last.archived > 0, "accounting records".to_owned());
        expect(
            last.outgoing > 0,
            "accounting records to be sent".to_owned(),
        );
        expect(
            last.archived == last.accountable,
            format!(
                "one accounting record for each of {} machines, but {}",
                last.accountable, last.archived
            ),
        );
        missing
    }

    /// The summary for people.
    pub(super) fn to_string(&self, site: &Site) -> String {
        let last = &self.last;
        let total = |count: fn(&Row) -> usize| last.rows.iter().map(count).sum::<usize>();
        let mut text = format!("\n{}\n\nSummary\n", show::table(last));
        let mut line = |what: &str, value: String| {
            text += &format!("  {what:<30} {value}\n");
        };
        for row in &last.rows {
            line(
                &format!("{} in {}", row.kind.machinetype, row.kind.space),
                format!(
                    "{} created, {} ended ({} with work done), {} abort(s), {} backoff(s)",
                    row.created, row.ended, row.succeeded, row.aborted, row.backoffs
                ),
            );
        }
        line(
            "machines in all",
            format!(
                "{} created, {} ended",
                total(|row| row.created),
                total(|row| row.ended)
            ),
        );
        let fullest: Vec<String> = self.fullest.iter().map(ToString::to_string).collect();
        line("fullest by shares", fullest.join(" : "));
        line("heartbeats received", last.heartbeats.to_string());
        line(
            "accounting records",
            format!("{}, {} of them to be sent", last.archived, last.outgoing),
        );
        let layout = Layout::new(&site.state_dir);
        let mut spaces: Vec<_> = site.kinds.iter().map(|kind| &kind.space).collect();
        spaces.dedup();
        for space in spaces {
            let left = watch::servers_left(&layout, space);
            line(
                &format!("VMs left in {space}"),
                left.map_or_else(|| "unknown".to_owned(), |left| left.to_string()),
            );
        }
        text
    }
}

fn max_machines() -> usize {
    usize::try_from(MAX_MACHINES).unwrap_or(usize::MAX)
}

/// Whether each machinetype has what its share says, within the tolerance.
fn are_right(shares: &[(u32, usize)]) -> bool {
    let all: usize = shares.iter().map(|(_, machines)| machines).sum();
    let parts: u32 = shares.iter().map(|(share, _)| share).sum();
    let in_parts = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    shares.iter().all(|(share, machines)| {
        let due = all.saturating_mul(in_parts(*share)) / in_parts(parts.max(1));
        machines.abs_diff(due) <= TOLERANCE
    })
}

#[cfg(test)]
mod tests {
    use super::super::site::Kind;
    use super::*;
    use crate::model::{MachinetypeName, SpaceName};

    fn row(machinetype: &str, share: u32, role: Role, running: usize) -> Row {
        Row {
            kind: Kind {
                space: SpaceName::new("north").unwrap(),
                machinetype: MachinetypeName::new(machinetype).unwrap(),
                share,
                role,
            },
            created: running + 1,
            starting: 0,
            running,
            ended: 1,
            succeeded: usize::from(role == Role::Works),
            aborted: usize::from(role == Role::Idles),
            backoffs: usize::from(role == Role::Idles),
            backing_off_until: None,
        }
    }

    fn good_view() -> View {
        View {
            rows: vec![
                row("atlas", 2, Role::Works, 12),
                row("lhcb", 1, Role::Works, 6),
                row("belle", 1, Role::Idles, 1),
            ],
            archived: 2,
            outgoing: 2,
            accountable: 2,
            heartbeats: 9,
            ..View::default()
        }
    }

    fn missing(view: View) -> Vec<String> {
        Summary::default().with_last(view).missing(false)
    }

    #[test]
    fn a_demo_that_showed_everything_misses_nothing() {
        assert_eq!(missing(good_view()), Vec::<String>::new());
    }

    #[test]
    fn each_thing_that_was_not_seen_is_named() {
        type Change = fn(&mut View);
        let cases: [(Change, &str); 7] = [
            (|v| v.archived = 1, "one accounting record for each of 2"),
            (|v| v.outgoing = 0, "accounting records to be sent"),
            (|v| v.heartbeats = 0, "heartbeats"),
            (|v| v.rows[0].succeeded = 0, "work done by atlas"),
            (|v| v.rows[2].backoffs = 0, "belle backing off"),
            (|v| v.rows[0].running = 5, "a space filled to 18"),
            (|v| v.problems.push("damaged".into()), "damaged"),
        ];
        for (change, expected) in cases {
            let mut view = good_view();
            change(&mut view);
            let missing = missing(view);
            assert!(missing.iter().any(|m| m.contains(expected)), "{missing:?}");
        }
        assert!(missing(View::default()).len() >= 4);
    }

    #[test]
    fn shares_are_right_within_the_tolerance() {
        assert!(are_right(&[(2, 12), (1, 6)]));
        assert!(are_right(&[(2, 10), (1, 6)]));
        assert!(!are_right(&[(2, 9), (1, 9)]));
        assert!(are_right(&[]));
    }
}
