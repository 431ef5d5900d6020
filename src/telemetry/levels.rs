//! What is logged, and changing that while the daemon runs: of everything of ours, or of the cycles of
//! one space.
//!
//! A level that was set counts for what this program says itself, and for nothing else: what the
//! libraries below it say at low levels may have secrets in it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::model::SpaceName;

/// The span of a cycle, which names its space.
pub const CYCLE: &str = "pass";

/// The targets of our own events begin like this.
const OURS: &str = "vcycle";

/// The levels in force, where they can be changed.
static IN_FORCE: OnceLock<reload::Handle<Levels, Registry>> = OnceLock::new();

/// Lets the levels be changed through `handle` from now on.
pub(super) fn keep(handle: reload::Handle<Levels, Registry>) {
    // There is one log of a process: the first counts.
    drop(IN_FORCE.set(handle));
}

/// Sets the level of the cycles of a space, or of everything of ours; `None` goes back to how the
/// daemon was started. Tells whether that can be done here.
pub fn set(space: Option<&SpaceName>, level: Option<LevelFilter>) -> bool {
    change(|levels| match (space, level) {
        (Some(space), Some(level)) => {
            levels.spaces.insert(space.to_string(), level);
        }
        (Some(space), None) => {
            levels.spaces.remove(space.as_str());
        }
        (None, level) => levels.all = level,
    })
}

/// Goes back to how the daemon was started. Tells whether that is another log.
pub fn reset() -> bool {
    let mut changed = false;
    change(|levels| {
        changed = levels.are_changed();
        (levels.all, levels.spaces) = (None, BTreeMap::new());
    });
    changed
}

fn change(how: impl FnOnce(&mut Levels)) -> bool {
    let handle = IN_FORCE.get();
    handle.is_some_and(|handle| handle.modify(how).is_ok())
}

/// Decides what is logged.
#[derive(Debug)]
pub struct Levels {
    /// As the daemon was started.
    base: EnvFilter,
    /// Of everything of ours.
    all: Option<LevelFilter>,
    /// Of the cycles of spaces.
    spaces: BTreeMap<String, LevelFilter>,
}

impl Levels {
    pub(super) const fn new(base: EnvFilter) -> Self {
        Self {
            base,
            all: None,
            spaces: BTreeMap::new(),
        }
    }

    fn are_changed(&self) -> bool {
        self.all.is_some() || !self.spaces.is_empty()
    }

    fn is_ours(meta: &Metadata<'_>) -> bool {
        let rest = meta.target().strip_prefix(OURS);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    }

    /// The level that was set for where we are.
    fn level_here<S>(&self, context: &Context<'_, S>) -> Option<LevelFilter>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        if self.spaces.is_empty() {
            return self.all;
        }
        let spans = context.lookup_current().into_iter();
        let mut spans = spans.flat_map(|span| span.scope());
        let space = spans.find_map(|span| {
            let extensions = span.extensions();
            let space = extensions.get::<InSpace>()?;
            self.spaces.get(&space.0).copied()
        });
        space.or(self.all)
    }
}

impl<S> Filter<S> for Levels
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn enabled(&self, meta: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        let base = || Filter::<S>::enabled(&self.base, meta, context);
        if !self.are_changed() || !Self::is_ours(meta) {
            return base();
        }
        // Spans say where we are, whatever is logged in them.
        if meta.is_span() {
            return true;
        }
        match self.level_here(context) {
            Some(level) => *meta.level() <= level,
            None => base(),
        }
    }

    fn callsite_enabled(&self, meta: &'static Metadata<'static>) -> Interest {
        let base = Filter::<S>::callsite_enabled(&self.base, meta);
        if self.are_changed() && Self::is_ours(meta) {
            Interest::sometimes()
        } else {
            base
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let set = self.spaces.values().copied().chain(self.all);
        let base = Filter::<S>::max_level_hint(&self.base)?;
        Some(set.fold(base, LevelFilter::max))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        Filter::<S>::on_new_span(&self.base, attributes, id, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        Filter::<S>::on_enter(&self.base, id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        Filter::<S>::on_exit(&self.base, id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        Filter::<S>::on_close(&self.base, id, context);
    }
}

/// The space that a span names.
struct InSpace(String);

/// Notes the spaces of cycles where [`Levels`] finds them.
#[derive(Debug)]
pub(super) struct NoteSpaces;

impl<S> Layer<S> for NoteSpaces
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut found = SpaceField(None);
        attributes.record(&mut found);
        if let (Some(space), Some(span)) = (found.0, context.span(id)) {
            span.extensions_mut().insert(InSpace(space));
        }
    }
}

struct SpaceField(Option<String>);

impl Visit for SpaceField {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "space" {
            self.0 = Some(format!("{value:?}"));
        }
    }
}
