//! Bytes of one file to sections and options with their lines. Knows no meaning.
//!
//! Site files rely on the rules of Python 2.7's `RawConfigParser`, which are rules about *lines*:
//! what is a comment, what continues a value, where a comment begins inside a value. One pass here
//! applies them, keeps the line numbers and finds the errors, and writes every section header and
//! option in one canonical, quoted form (`[LINE name|]`, `LINE name|="value"`), which rust-ini then
//! reads. The differences from Python are deliberate:
//!
//! - a UTF-8 byte order mark and carriage returns before line ends are dropped;
//! - the names of sections are put in lower case, with single blanks between their words;
//! - every line in error is reported, also after a line before the first section.
//!
//! Nothing here echoes a line that could not be read: it may be a part of a password.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use ini::{Ini, ParseOption};

use super::problem::{Origin, Problem};

/// Lines in error that are reported one by one; the rest of a file is only counted.
const MOST_BAD_LINES: usize = 50;

/// What ends a name in the canonical form: rust-ini would drop a blank of Unicode there, and a name
/// that is not the one in the file would count.
const END: char = '|';

/// A section as it stands in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileSection {
    /// The header's text, in lower case, with single blanks.
    pub name: String,
    /// The header's line.
    pub origin: Origin,
    /// Name in lower case, value, line; in the order of the file, repeated names included.
    pub options: Vec<(String, String, Origin)>,
}

/// Reads one file. Sections and options that are in order come back even when others are not.
pub(super) fn parse(file: &Arc<Path>, bytes: &[u8]) -> (Vec<FileSection>, Vec<Problem>) {
    if bytes.contains(&0) {
        let problem = Problem::error("is not a text file: it has NUL bytes in it")
            .in_file(file)
            .with_help(Some("save it as UTF-8 text".to_owned()));
        return (Vec::new(), vec![problem]);
    }
    let mut lines = LinePass::default();
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for (index, line) in bytes.split(|&b| b == b'\n').enumerate() {
        lines.line(index.saturating_add(1), line);
    }
    let mut problems = lines.problems(file);
    let sections = match Ini::load_from_str_opt(&lines.canonical(), canonical_form()) {
        Ok(ini) => sections_of(&ini, file),
        Err(error) => {
            problems.push(Problem::error(format!("cannot be read: {error}")).in_file(file));
            Vec::new()
        }
    };
    (sections, problems)
}

fn canonical_form() -> ParseOption {
    ParseOption {
        enabled_quote: true,
        enabled_escape: true,
        enabled_indented_mutiline_value: false,
        ..ParseOption::default()
    }
}

fn sections_of(ini: &Ini, file: &Arc<Path>) -> Vec<FileSection> {
    let place = |text: &str| {
        let (line, name) = text.split_once(' ').unwrap_or((text, ""));
        let name = name.strip_suffix(END).unwrap_or(name);
        let origin = Origin::Line {
            file: Arc::clone(file),
            line: line.parse().unwrap_or(0),
        };
        (name.to_owned(), origin)
    };
    let mut sections = Vec::new();
    for (header, properties) in ini.iter() {
        let Some(header) = header else { continue };
        let (name, origin) = place(header);
        let options = properties
            .iter()
            .map(|(key, value)| {
                let (name, origin) = place(key);
                (name, value.to_owned(), origin)
            })
            .collect();
        sections.push(FileSection {
            name,
            origin,
            options,
        });
    }
    sections
}

/// An option while its continuation lines are still coming.
struct Pending {
    line: usize,
    name: String,
    value: String,
}

/// Python's rules, one line after the other.
#[derive(Default)]
struct LinePass {
    canonical: String,
    in_section: bool,
    pending: Option<Pending>,
    headerless: Option<usize>,
    bad: Vec<(usize, &'static str)>,
    bad_count: usize,
}

const NO_FORM: &str =
    "expected [SECTION], NAME = VALUE, or white space and more of the value above";
const NOT_UTF8: &str = "is not UTF-8 text";

impl LinePass {
    fn line(&mut self, number: usize, bytes: &[u8]) {
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if is_blank_or_comment(bytes) {
            return;
        }
        let Ok(line) = std::str::from_utf8(bytes) else {
            self.bad_line(number, NOT_UTF8);
            return;
        };
        if line.starts_with(is_space)
            && let Some(pending) = &mut self.pending
        {
            pending.value.push('\n');
            pending.value.push_str(line.trim_matches(is_space));
        } else if let Some(header) = section_header(line) {
            self.finish_option();
            self.in_section = true;
            let name = escaped(&section_name(header));
            self.emit(format_args!("[{number} {name}{END}]\n"));
        } else if !self.in_section {
            self.headerless.get_or_insert(number);
        } else if let Some((name, value)) = option(line) {
            self.finish_option();
            self.pending = Some(Pending {
                line: number,
                name: name.to_lowercase(),
                value: value.to_owned(),
            });
        } else {
            self.bad_line(number, NO_FORM);
        }
    }

    fn bad_line(&mut self, number: usize, why: &'static str) {
        self.bad_count = self.bad_count.saturating_add(1);
        if self.bad.len() < MOST_BAD_LINES {
            self.bad.push((number, why));
        }
    }

    fn finish_option(&mut self) {
        if let Some(Pending { line, name, value }) = self.pending.take() {
            let (name, value) = (escaped(&name), escaped(&value));
            self.emit(format_args!("{line} {name}{END}=\"{value}\"\n"));
        }
    }

    fn emit(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _: std::fmt::Result = self.canonical.write_fmt(text);
    }

    fn canonical(&mut self) -> String {
        self.finish_option();
        std::mem::take(&mut self.canonical)
    }

    fn problems(&self, file: &Arc<Path>) -> Vec<Problem> {
        let at = |line| Origin::Line {
            file: Arc::clone(file),
            line,
        };
        let mut problems = Vec::new();
        if let Some(line) = self.headerless {
            let what = "stands before the first [SECTION] of the file";
            problems.push(Problem::error(what).at(Some(&at(line))));
        }
        for &(line, why) in &self.bad {
            problems.push(Problem::error(why).at(Some(&at(line))));
        }
        let unsaid = self.bad_count.saturating_sub(self.bad.len());
        if unsaid > 0 {
            let what = format!("has {unsaid} more lines that cannot be read");
            problems.push(Problem::error(what).in_file(file));
        }
        problems
    }
}

/// The name of a section as it counts: in lower case, with single blanks between its words.
pub(super) fn section_name(header: &str) -> String {
    let name = header.to_lowercase();
    let words: Vec<&str> = name.split(is_space).filter(|w| !w.is_empty()).collect();
    words.join(" ")
}

/// White space as Python 2 has it for byte strings.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// A comment need not be UTF-8: many an old file has a Latin-1 name in one.
fn is_blank_or_comment(line: &[u8]) -> bool {
    let is_space = |b: &u8| is_space(char::from(*b));
    match line.first() {
        None | Some(b'#' | b';') => true,
        Some(_) if line.iter().all(is_space) => true,
        // `rem` is a comment only as a whole word in the first column.
        Some(b'r' | b'R') => {
            let word = line.split(is_space).next().unwrap_or_default();
            word.eq_ignore_ascii_case(b"rem")
        }
        Some(_) => false,
    }
}

/// The text between `[` in the first column and the next `]`; what follows it is ignored.
fn section_header(line: &str) -> Option<&str> {
    let (header, _) = line.strip_prefix('[')?.split_once(']')?;
    (!header.is_empty()).then_some(header)
}

/// Name and value of `name = value` or `name: value`, whichever delimiter comes first.
fn option(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(['=', ':'])?;
    if name.is_empty() || name.starts_with(is_space) {
        return None;
    }
    let value = value.trim_start_matches(is_space);
    let value = without_comment(value).trim_matches(is_space);
    let value = if value == "\"\"" { "" } else { value };
    Some((name.trim_end_matches(is_space), value))
}

/// Drops a comment from the first line of a value. Only the first semicolon can begin one. Where
/// the value begins with a semicolon, Python looks at the *last* character to decide.
fn without_comment(value: &str) -> &str {
    let Some((before, _)) = value.split_once(';') else {
        return value;
    };
    let deciding = if before.is_empty() { value } else { before };
    if deciding.ends_with(is_space) {
        before
    } else {
        value
    }
}

/// `text` so that rust-ini gives it back as it is.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '"' => escaped.extend(['\\', c]),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> (Vec<FileSection>, Vec<Problem>) {
        parse(&Path::new("/f").into(), text.as_bytes())
    }

    /// The options of a text that has one section and no error.
    fn options(text: &str) -> Vec<(String, String, usize)> {
        let (sections, problems) = read(&format!("[s]\n{text}"));
        assert_eq!(problems, [], "{text:?}");
        assert_eq!(sections.len(), 1, "{text:?}");
        sections[0]
            .options
            .iter()
            .map(|(name, value, origin)| (name.clone(), value.clone(), origin.line().unwrap()))
            .collect()
    }

    fn value(text: &str) -> String {
        let all = options(text);
        assert_eq!(all.len(), 1, "{text:?}: {all:?}");
        all[0].1.clone()
    }

    #[test]
    fn names_and_values() {
        assert_eq!(
            options("A = 1\nb:2\nC D=x = y: z\n"),
            [
                ("a".to_owned(), "1".to_owned(), 2),
                ("b".to_owned(), "2".to_owned(), 3),
                ("c d".to_owned(), "x = y: z".to_owned(), 4)
            ]
        );
        for (line, expected) in [
            ("x = ", ""),
            ("x =", ""),
            ("x = \"\"", ""),
            ("x = \"a b\"", "\"a b\""),
            ("x = 'a'", "'a'"),
            ("x = %d %(y)s", "%d %(y)s"),
            ("x = a#b # c", "a#b # c"),
            ("x = C:\\new\\", "C:\\new\\"),
            ("x\t=\t y \t", "y"),
            ("x = é", "é"),
            ("rem_x = 1", "1"),
        ] {
            assert_eq!(value(line), expected, "{line:?}");
        }
    }

    #[test]
    fn comments() {
        for (lines, expected) in [
            ("x = a ; b", "a"),
            ("x = a\t;b", "a"),
            ("x = a;b", "a;b"),
            // Only the first semicolon counts.
            ("x = a;b ; c", "a;b ; c"),
            // Python looks at the character before the first, which is the last.
            ("x = ;b", ";b"),
            ("x = ;b ", ""),
            ("# c\nx = a\n; c\nrem c\nREM\n", "a"),
            // A comment in the first column does not end a value, an indented one is part of it.
            ("x = a\n# c\n  b\n", "a\nb"),
            ("x = a\n  # b\n", "a\n# b"),
            ("x = a\n  b ; c\n", "a\nb ; c"),
        ] {
            assert_eq!(value(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn continued_values() {
        for (lines, expected) in [
            ("x = a\n b\n\tc d\n", "a\nb\nc d"),
            ("x =\n  a\n  b\n", "\na\nb"),
            ("x = a\n\n   \n b\n", "a\nb"),
            ("x = a\n [t]\n y = 2\n", "a\n[t]\ny = 2"),
            ("x = a\r\n b\r\n", "a\nb"),
        ] {
            assert_eq!(value(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn headers() {
        let (sections, problems) =
            read("\u{feff}[Space  Example.ORG] ; x\r\nA=1\r\n[a b]c\n[a b]\n");
        assert_eq!(problems, []);
        let names: Vec<_> = sections
            .iter()
            .map(|section| (section.name.as_str(), section.origin.line().unwrap()))
            .collect();
        assert_eq!(names, [("space example.org", 1), ("a b", 3), ("a b", 4)]);
    }

    #[test]
    fn only_blanks_of_ascii_are_blanks() {
        let (sections, problems) =
            read("[\u{a0}s\u{a0}]\n\u{2003}x\u{2003} = \u{a0}1\u{a0}\nx|=2\n");
        assert_eq!(problems, []);
        assert_eq!(sections[0].name, "\u{a0}s\u{a0}");
        let options: Vec<_> = sections[0]
            .options
            .iter()
            .map(|(name, value, _)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            options,
            [("\u{2003}x\u{2003}", "\u{a0}1\u{a0}"), ("x|", "2")]
        );
    }

    #[test]
    fn every_bad_line_is_reported_and_none_is_echoed() {
        let (sections, problems) =
            read("secret\nx = 1\n[s]\n indented = 1\nsecret\n=secret\n[]\ny = 2\nc2VjcmV0\n z\n");
        assert_eq!(sections.len(), 1);
        assert_eq!(sections[0].options.len(), 1);
        let lines: Vec<_> = problems.iter().filter_map(|p| p.line).collect();
        assert_eq!(lines, [1, 4, 5, 6, 7, 9]);
        let all: String = problems.iter().map(ToString::to_string).collect();
        assert!(!all.contains("secret") && !all.contains("c2Vj"), "{all}");
        assert!(all.contains("before the first [SECTION]"), "{all}");
    }

    #[test]
    fn files_that_are_no_text() {
        let file: Arc<Path> = Path::new("/f").into();
        let (sections, problems) = parse(&file, b"[s]\nx=1\0\n");
        assert_eq!((sections.len(), problems.len()), (0, 1));
        // Latin-1 does no harm in a comment.
        let (sections, problems) = parse(&file, b"# Andr\xe9\n[s]\nx = 1\ny = Andr\xe9\n");
        assert_eq!(sections[0].options.len(), 1);
        assert_eq!(problems[0].to_string(), "/f:4: is not UTF-8 text");
        let junk: Vec<u8> = (0..4000).flat_map(|_| *b"\xff\n").collect();
        let (_, problems) = parse(&file, &[b"[s]\n".as_slice(), &junk].concat());
        assert_eq!(problems.len(), MOST_BAD_LINES + 1);
        assert!(problems[50].to_string().contains("3950 more lines"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            parse(&Path::new("/f").into(), &bytes);
        }

        /// rust-ini gives back exactly what the pass over the lines found.
        #[test]
        fn any_name_and_value_survive(
            name in r#"[!-9<>-Z\\^-~]([!-9;<>-~]|"|é| ){0,8}[a-z]"#,
            value in r#"[^;\n\r\x00]{0,20}"#,
        ) {
            prop_assume!(!name.starts_with(['#', ';']) && !name.to_lowercase().starts_with("rem"));
            prop_assume!(value != "\"\"");
            let got = options(&format!("{name}={value}"));
            let expected = value.trim_matches(is_space).to_owned();
            prop_assert_eq!(got, [(name.to_lowercase(), expected, 2)]);
        }
    }
}
