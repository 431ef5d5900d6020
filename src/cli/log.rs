//! `vcycled log`: tells a running daemon what to log.

use super::args::LogOptions;
use super::ask::{self, Answer};
use super::exit::{Exit, Failure};
use super::status::write;
use crate::daemon::Settings;
use crate::state::Layout;

/// Sets the level.
pub fn run(settings: &Settings, options: &LogOptions) -> Result<(), Failure> {
    let layout = Layout::new(&settings.state_dir);
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("level", options.level.word());
    if let Some(space) = &options.space {
        query.append_pair("space", space.as_str());
    }
    let path = format!("/v1/log?{}", query.finish());
    match ask::order(&layout, &path)? {
        Answer::Told(_) => write(&format!(
            "{}: {}, until a reload or the end of the daemon\n",
            options
                .space
                .as_ref()
                .map_or_else(|| "everything".to_owned(), |space| format!("space {space}")),
            options.level.word()
        )),
        Answer::Unknown => {
            let why = match &options.space {
                Some(space) => format!("the daemon has no space {space}"),
                None => "the daemon that runs is of another version, and cannot do that".to_owned(),
            };
            Err(Failure::new(Exit::Usage, why))
        }
        Answer::NoDaemon => Err(Failure::new(
            Exit::Unavailable,
            format!("no daemon runs on {}", layout.root().display()),
        )),
    }
}
