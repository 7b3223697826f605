//! Who watches a job, and who may stop it.

use crate::pipeline::Stop;
use crate::pipeline::counters::Counters;
use crate::report::{Event, Reporter};
use std::sync::Arc;

/// The surroundings of a job.
#[derive(Clone)]
pub struct Context {
    /// Is told what happens.
    pub reporter: Arc<dyn Reporter>,
    /// Live numbers, for whoever shows progress.
    pub counters: Arc<Counters>,
    /// Asks for an orderly end.
    pub stop: Stop,
}

impl Context {
    pub(super) fn tell(&self, event: &Event) {
        self.reporter.event(event);
    }

    pub(super) fn warn(&self, message: impl Into<String>) {
        self.tell(&Event::Warning {
            message: message.into(),
        });
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
