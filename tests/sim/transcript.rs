//! What happened, line by line: the log of the daemons, and what the simulation did to them.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::earth::{BEGINNING, Earth};

/// The transcript of one simulation. Lines begin with the true time since its beginning.
#[derive(Clone, Debug)]
pub struct Transcript {
    earth: Arc<Earth>,
    /// The directory of the simulation, which has another name each time.
    root: String,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Vec<String>,
    /// What must never be in a line of a log.
    secrets: Vec<String>,
    /// The first line of a log that should not be there.
    offence: Option<String>,
}

impl Transcript {
    pub fn new(earth: Arc<Earth>, root: &Path) -> Self {
        Self {
            earth,
            root: root.display().to_string(),
            shared: Arc::default(),
        }
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line of the simulation's own.
    pub fn say(&self, line: impl AsRef<str>) {
        let line = format!("{}        {}", self.time(), line.as_ref()).replace(&self.root, "");
        self.shared().lines.push(line);
    }

    /// Nothing like this may appear in a log from now on.
    pub fn must_not_show(&self, secret: &str) {
        let secrets = &mut self.shared().secrets;
        if !secrets.iter().any(|known| known == secret) {
            secrets.push(secret.to_owned());
        }
    }

    /// The first line that shows a secret or tells of an internal error.
    pub fn offence(&self) -> Option<String> {
        self.shared().offence.clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.shared().lines.clone()
    }

    fn time(&self) -> String {
        let seconds = self.earth.now() - BEGINNING;
        format!(
            "{}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        )
    }
}

impl<S: Subscriber> Layer<S> for Transcript {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        let mut text = Text::default();
        event.record(&mut text);
        let line = format!(
            "{} {level:>5}  {}{}",
            self.time(),
            text.message,
            text.fields
        );
        let line = line.replace(&self.root, "");
        let mut shared = self.shared();
        if shared.offence.is_none() {
            let shows = |secret: &String| line.contains(secret.as_str());
            if shared.secrets.iter().any(shows) {
                shared.offence = Some(format!("a secret is in the log: {line}"));
            } else if line.contains("internal error") || line.contains("panicked") {
                shared.offence = Some(line.clone());
            } else if line.contains('\n') {
                shared.offence = Some(format!("a log entry has two lines: {line}"));
            }
        }
        if level <= Level::INFO {
            shared.lines.push(line);
        }
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
        written.unwrap();
    }
}
