//! How the demo looks: a table that is drawn again in place on a terminal, and now and then, with
//! a line for each event in between, anywhere else.

use std::io::{self, Write};

use crate::model::{Seconds, Timestamp};

use super::watch::{Row, View};

/// The longest bar, in machines: with it a row fits into 80 columns, so that no line is broken and
/// the table can be drawn over.
const MAX_BAR: usize = 19;
/// The longest bar of a machinetype that backs off, which is said beside it.
const MAX_BAR_BACKING_OFF: usize = 3;
/// How often the table appears where it cannot be drawn in place, in looks.
const EVERY: u64 = 10;

/// Draws one view after the other.
pub(super) struct Screen<'a> {
    out: &'a mut (dyn Write + Send),
    /// Whether a table can be drawn over the last one.
    in_place: bool,
    drawn_lines: usize,
    looks: u64,
    before: Option<View>,
}

impl<'a> Screen<'a> {
    pub(super) fn new(out: &'a mut (dyn Write + Send), in_place: bool) -> Self {
        Self {
            out,
            in_place,
            drawn_lines: 0,
            looks: 0,
            before: None,
        }
    }

    /// A line that stays.
    pub(super) fn say(&mut self, line: &str) -> io::Result<()> {
        self.erase()?;
        writeln!(self.out, "{line}")?;
        self.out.flush()
    }

    /// Shows `view`, and what has happened since the last one.
    pub(super) fn show(&mut self, view: &View) -> io::Result<()> {
        for event in events(self.before.as_ref(), view) {
            self.say(&format!("{}  {event}", time_of_day(view.now)))?;
        }
        if self.in_place || self.looks.is_multiple_of(EVERY) {
            let table = table(view);
            self.erase()?;
            write!(self.out, "\n{table}\n")?;
            self.out.flush()?;
            self.drawn_lines = table.lines().count() + 1;
        }
        self.looks += 1;
        self.before = Some(view.clone());
        Ok(())
    }

    /// Takes the last table away, where that can be done.
    fn erase(&mut self) -> io::Result<()> {
        if self.in_place && self.drawn_lines > 0 {
            write!(self.out, "\x1b[{}A\x1b[J", self.drawn_lines)?;
        }
        self.drawn_lines = 0;
        Ok(())
    }
}

/// The table of one view.
pub(super) fn table(view: &View) -> String {
    let mut text = format!(
        "{:<17} {:<11} {:>5} {:>5} {:>5} {:>5} {:>5}\n",
        "SPACE", "MACHINETYPE", "SHARE", "START", "RUN", "ENDED", "ABORT"
    );
    for row in &view.rows {
        text += &format!(
            "{:<17} {:<11} {:>5} {:>5} {:>5} {:>5} {:>5} {}",
            row.kind.space.as_str(),
            row.kind.machinetype.as_str(),
            row.kind.share,
            row.starting,
            row.running,
            row.ended,
            row.aborted,
            bar(row, view.now),
        );
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text += &format!(
        "{}   heartbeats {}   accounting records {} ({} to be sent)",
        time_of_day(view.now),
        view.heartbeats,
        view.archived,
        view.outgoing,
    );
    text
}

/// `#` for each machine that runs, `+` for each that starts, and whether it backs off.
fn bar(row: &Row, now: Timestamp) -> String {
    let machines = "#".repeat(row.running) + &"+".repeat(row.starting);
    let cut = |longest| machines.get(..longest).unwrap_or(&machines);
    match row.backing_off_until {
        None => cut(MAX_BAR).to_owned(),
        Some(until) => {
            let machines = cut(MAX_BAR_BACKING_OFF);
            format!("{machines} backs off {} s", until.since(now))
        }
    }
}

/// What is worth a line of its own.
fn events(before: Option<&View>, view: &View) -> Vec<String> {
    let Some(before) = before else {
        return Vec::new();
    };
    let mut events = Vec::new();
    for (old, new) in before.rows.iter().zip(&view.rows) {
        let name = format!("{} in {}", new.kind.machinetype, new.kind.space);
        if old.created == 0 && new.created > 0 {
            events.push(format!("first machine of {name}"));
        }
        if new.backoffs > old.backoffs {
            events.push(format!(
                "{name} found no work: no new machines for {} s",
                super::site::BACKOFF
            ));
        }
        if old.backing_off_until.is_some() && new.backing_off_until.is_none() {
            events.push(format!("{name} is tried again, one machine at a time"));
        }
    }
    if before.archived == 0 && view.archived > 0 {
        events.push("first accounting record".to_owned());
    }
    events
}

/// The time of the demo's clock, as people read it.
pub(super) fn time_of_day(time: Timestamp) -> String {
    let seconds = time.unix() % Seconds::new(86_400).get();
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::super::site::{Kind, Role};
    use super::*;
    use crate::model::{MachinetypeName, SpaceName};

    fn view(running: usize, backing_off_until: Option<u64>) -> View {
        View {
            now: Timestamp::from_unix(43_200),
            rows: vec![Row {
                kind: Kind {
                    space: SpaceName::new("north").unwrap(),
                    machinetype: MachinetypeName::new("atlas").unwrap(),
                    share: 2,
                    role: Role::Works,
                },
                created: running,
                starting: 1,
                running,
                ended: 0,
                succeeded: 0,
                aborted: 0,
                backoffs: usize::from(backing_off_until.is_some()),
                backing_off_until: backing_off_until.map(Timestamp::from_unix),
            }],
            ..View::default()
        }
    }

    #[test]
    fn a_row_shows_its_machines_and_its_backoff() {
        let text = table(&view(3, Some(43_260)));
        assert!(text.contains("### backs off 60 s"), "{text}");
        assert!(text.contains("12:00:00"), "{text}");
        let longest = table(&view(1000, Some(43_200 + 600)));
        assert!(longest.lines().all(|line| line.len() < 80), "{longest}");
        let longest = table(&view(1000, None));
        assert!(longest.lines().all(|line| line.len() < 80), "{longest}");
    }

    #[test]
    fn the_beginning_and_the_end_of_a_backoff_are_events() {
        assert_eq!(events(None, &view(1, None)), Vec::<String>::new());
        let begins = events(Some(&view(1, None)), &view(1, Some(50_000)));
        assert_eq!(
            begins,
            ["atlas in north found no work: no new machines for 600 s"]
        );
        let ends = events(Some(&view(1, Some(43_300))), &view(1, None));
        assert_eq!(
            ends,
            ["atlas in north is tried again, one machine at a time"]
        );
    }

    #[test]
    fn a_terminal_is_drawn_over_and_a_file_is_not() {
        for (in_place, drawn_over) in [(true, true), (false, false)] {
            let mut out = Vec::new();
            let mut screen = Screen::new(&mut out, in_place);
            screen.show(&view(1, None)).unwrap();
            screen.show(&view(2, None)).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.contains("\x1b[4A"), drawn_over, "{text:?}");
        }
    }
}
