//! Who watches a job, and who may stop it.

use super::options::Tuning;
use super::throttle::Throttle;
use crate::buffer::Budget;
use crate::pipeline::counters::Counters;
use crate::pipeline::{RateLimit, Stop, Team};
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
    /// What it shares with other jobs.
    pub shared: Shared,
    /// Whoever runs it decides what becomes of a pass whose tracker is no use: it fails with
    /// [`Untracked`](super::Untracked). Else all of the disk is compared once it left out a change.
    pub steered: bool,
}

/// What the jobs of one VM, or of one host, share. By default nothing.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// Memory and requests of all of them together; else the job has its own, as its options say.
    pub budget: Option<Budget>,
    /// Limits on what they copy together, besides the job's own: of a host, in total.
    pub rates: Vec<RateLimit>,
    /// Those among whom requests are shared out so that they end together.
    pub team: Option<Team>,
}

impl Context {
    /// The surroundings of a job by itself.
    #[must_use]
    pub fn new(reporter: Arc<dyn Reporter>, stop: Stop) -> Self {
        Self {
            reporter,
            counters: Arc::default(),
            stop,
            shared: Shared::default(),
            steered: false,
        }
    }

    /// The memory and requests that the job lives on.
    pub(super) fn budget(&self, tuning: &Tuning) -> Budget {
        let own = || {
            let memory = usize::try_from(tuning.memory).unwrap_or(usize::MAX);
            Budget::new(memory, tuning.requests)
        };
        self.shared.budget.clone().unwrap_or_else(own)
    }

    /// Every limit on what the job copies.
    pub(super) fn rates(&self, tuning: &Tuning) -> Vec<RateLimit> {
        let own = tuning.rate.map(|rate| RateLimit::new(Some(rate)));
        self.shared.rates.iter().cloned().chain(own).collect()
    }

    /// The same for what the pipeline does not read.
    pub(super) fn throttle(&self, tuning: &Tuning) -> Throttle {
        Throttle::new(self.rates(tuning), self.counters.clone())
    }

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
