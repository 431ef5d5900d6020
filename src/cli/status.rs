//! `vcycled status`: what the factory has and does, for people and for programs.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use super::args::StatusOptions;
use super::ask::{self, Answer};
use super::exit::{Exit, Failure};
use super::human::Style;
use super::{show, story, told};
use crate::daemon::Settings;
use crate::daemon::admin::Told;
use crate::model::SpaceName;
use crate::state::Layout;

/// Clears a terminal and goes to its upper left corner.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Prints the status, once or again and again.
pub fn run(settings: &Settings, options: &StatusOptions) -> Result<(), Failure> {
    let style = Style::of_stdout();
    let Some(every) = options.every() else {
        return write(&text(settings, options, style)?);
    };
    let in_place = std::io::stdout().is_terminal();
    loop {
        // A daemon that is being restarted is no reason to stop looking.
        let shown = match text(settings, options, style) {
            Ok(shown) => shown,
            Err(failure) => match failure.message {
                Some(message) => format!("vcycled: {message}\n"),
                None => return Err(failure),
            },
        };
        let clear = if in_place { CLEAR } else { "" };
        write(&format!("{clear}{shown}"))?;
        std::thread::sleep(Duration::from_secs(every));
    }
}

fn text(settings: &Settings, options: &StatusOptions, style: Style) -> Result<String, Failure> {
    if let Some(machine) = &options.machine {
        return story::tell(settings, machine, options.json, style);
    }
    if options.json && options.space.is_none() {
        // As it comes: what a later daemon tells is for whoever asks.
        let layout = Layout::new(&settings.state_dir);
        if let Answer::Told(body) = ask::daemon(&layout, "/v1/status")? {
            let mut line = String::from_utf8_lossy(&body).into_owned();
            line.push('\n');
            return Ok(line);
        }
    }
    let mut known = told::everything(settings)?;
    if let Some(space) = &options.space {
        only(&mut known.told, space)?;
    }
    if options.json {
        return to_json(&known.told);
    }
    Ok(show::factory(&known, options.all, style))
}

fn only(told: &mut Told, space: &SpaceName) -> Result<(), Failure> {
    let spaces = &mut told.status.spaces;
    let Some(found) = spaces.get(space).map(Arc::clone) else {
        let known: Vec<&str> = spaces.keys().map(SpaceName::as_str).collect();
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "there is no space {space}; the spaces are {}",
                known.join(", ")
            ),
        ));
    };
    spaces.clear();
    spaces.insert(space.clone(), found);
    Ok(())
}

/// A value on one line.
pub fn to_json(value: &impl serde::Serialize) -> Result<String, Failure> {
    let mut json = serde_json::to_string(value)
        .map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    json.push('\n');
    Ok(json)
}

/// Writes to standard output. A reader that has seen enough is no failure.
pub fn write(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Err(Failure::silent(Exit::Ok))
        }
        other => other.map_err(|error| Failure::new(Exit::Io, format!("cannot write: {error}"))),
    }
}
