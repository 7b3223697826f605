//! Properties of an object, and tasks waited for.

use super::session::{Session, nonsense};
use super::soap::Moref;
use super::soap::answer::{self, Properties};
use super::soap::calls;
use super::soap::fault::Fault;
use super::soap::request::Request;
use super::soap::xml::Node;
use crate::error::{Error, Kind, Result};
use std::time::Duration;
use tokio::time::sleep;

/// Time before a task is looked at for the second time; doubled each time.
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// And no longer than this.
const LONGEST_LOOK: Duration = Duration::from_secs(2);

/// Pages of the properties of one object: more is a server that never ends.
const PAGES_MAX: usize = 1000;

impl Session {
    /// Those of `paths` that `on` has.
    ///
    /// # Errors
    /// The object is gone, or a property may not be read: then none is believed.
    pub async fn properties(&self, on: &Moref, paths: &[&str]) -> Result<Properties> {
        let collector = &self.service().property_collector;
        let mut request = calls::retrieve_properties(collector, on, paths);
        for _ in 0..PAGES_MAX {
            let values = self.call(&request).await?;
            let page = answer::page(&values).map_err(|error| nonsense(&request, error))?;
            if let Some(fault) = page.missing {
                return Err(fault.into_error(format!("read properties of {on}")));
            }
            if let Some((_, found)) = page.objects.into_iter().find(|(object, _)| object == on) {
                return Ok(found);
            }
            match page.token {
                Some(token) => request = calls::continue_retrieve_properties(collector, &token),
                None => break,
            }
        }
        let what = format!("{} tells nothing of {on}", self.authority());
        Err(Error::new(Kind::Corrupt, what))
    }

    /// Starts a task and waits for its end, for as long as the server says that it runs.
    ///
    /// # Errors
    /// It could not be started, or failed: then the fault is in the error. After a transient
    /// error that is no fault, nobody knows whether it was done.
    pub async fn run(&self, request: &Request) -> Result<Option<Node>> {
        let started = self.call(request).await?;
        let task = started.first().map(answer::reference);
        let task = match task {
            Some(Ok(task)) => task,
            _ => return Err(nonsense(request, answer::BadAnswer::Missing("returnval"))),
        };
        let mut pause = FIRST_LOOK;
        loop {
            let info = self
                .properties(&task, &["info.state", "info.result", "info.error"])
                .await?;
            match info.text("info.state") {
                Some("success") => return Ok(info.get("info.result").cloned()),
                Some("error") => {
                    let fault = info.get("info.error").map(Fault::of_task);
                    let what = format!("{request:?} at {}", self.authority());
                    return Err(match fault {
                        Some(fault) => fault.into_error(what),
                        None => Error::new(Kind::Io, what).because("it failed without a reason"),
                    });
                }
                Some("queued" | "running") => {}
                _ => return Err(nonsense(request, answer::BadAnswer::Missing("info.state"))),
            }
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_LOOK);
        }
    }
}
