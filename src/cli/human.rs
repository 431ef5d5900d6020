//! How things are written for people: colours, lengths of time, tables.

use crate::model::{Seconds, Timestamp};
use crate::telemetry::has_colours;

/// What a piece of text is meant to say beside its words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Paint {
    /// Nothing.
    #[default]
    Plain,
    /// A heading.
    Bold,
    /// As it should be.
    Good,
    /// Worth a look.
    Warning,
    /// Wrong.
    Bad,
    /// Of less interest.
    Faint,
}

/// Whether to use colours.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    coloured: bool,
}

impl Style {
    /// For standard output: colours on a terminal that has them, unless `NO_COLOR` is set.
    pub fn of_stdout() -> Self {
        Self {
            coloured: has_colours(&std::io::stdout()),
        }
    }

    /// `text`, painted.
    pub fn paint(self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Plain => return text.to_owned(),
            Paint::Bold => "1",
            Paint::Good => "32",
            Paint::Warning => "33",
            Paint::Bad => "31",
            Paint::Faint => "2",
        };
        if self.coloured && !text.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// One entry of a table.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    paint: Paint,
    right: bool,
}

impl Cell {
    /// Text, aligned at its left.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: printable(&text.into()),
            ..Self::default()
        }
    }

    /// A number, aligned at its right.
    pub fn number(number: impl ToString) -> Self {
        Self {
            text: number.to_string(),
            right: true,
            ..Self::default()
        }
    }

    /// The same, painted.
    pub fn painted(mut self, paint: Paint) -> Self {
        self.paint = paint;
        self
    }
}

/// What a terminal can be given: names, addresses and messages come from clouds and VMs.
pub fn printable(text: &str) -> String {
    let blank = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(blank).collect()
}

/// Rows as lines with aligned columns, each line indented by `indent` blanks. Nothing is padded at
/// the end of a line.
pub fn table(style: Style, indent: usize, rows: &[Vec<Cell>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.text.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = " ".repeat(indent);
        for (cell, width) in row.iter().zip(&widths) {
            let padding = " ".repeat(width.saturating_sub(cell.text.chars().count()));
            let painted = style.paint(cell.paint, &cell.text);
            if cell.right {
                line += &format!("{padding}{painted}  ");
            } else {
                line += &format!("{painted}{padding}  ");
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// A length of time: `12 s`, `9 min`, `2 h 3 min`, `4 d 5 h`.
pub fn length(time: Seconds) -> String {
    let seconds = time.get();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    if seconds < 120 {
        format!("{seconds} s")
    } else if minutes < 120 {
        format!("{minutes} min")
    } else if hours < 48 {
        format!("{hours} h {} min", minutes % 60)
    } else {
        format!("{days} d {} h", hours % 24)
    }
}

/// How long ago `then` was.
pub fn ago(now: Timestamp, then: Timestamp) -> String {
    format!("{} ago", length(now.since(then)))
}

/// A moment that is to come, or has.
pub fn moment(now: Timestamp, at: Timestamp) -> String {
    if at > now {
        format!("{} (in {})", at.to_rfc3339(), length(at.since(now)))
    } else {
        format!("{} ({})", at.to_rfc3339(), ago(now, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_two_figures_that_count() {
        let cases = [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7199, "119 min"),
            (7200, "2 h 0 min"),
            (172_799, "47 h 59 min"),
            (172_800, "2 d 0 h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(length(Seconds::new(seconds)), text);
        }
    }

    #[test]
    fn columns_are_aligned_whatever_their_colour() {
        let style = Style { coloured: true };
        let rows = [
            vec![Cell::text("a"), Cell::number(7)],
            vec![
                Cell::text("long\u{1b}").painted(Paint::Bad),
                Cell::number(12),
            ],
        ];
        let plain = table(Style::default(), 1, &rows);
        assert_eq!(plain, " a       7\n long   12\n");
        let coloured = table(style, 1, &rows);
        assert_eq!(coloured, " a       7\n \u{1b}[31mlong \u{1b}[0m  12\n");
    }
}
