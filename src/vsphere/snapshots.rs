//! Snapshots with our tag: made once, found again, removed until they are gone.
//!
//! A snapshot is known by its name alone, so a call that got lost is settled by looking: a snapshot
//! of that name is there or is not. One task of ours runs on a VM at a time, and one of somebody
//! else's (a backup, a merge) is waited for.

use super::inventory::Machine;
use super::soap::Moref;
use super::soap::answer;
use super::soap::calls;
use super::soap::fault;
use super::tree::{Snapshot, Tag};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Whether the guest writes out its caches before a snapshot.
///
/// What is cut over is always copied from a guest that was shut down, so this matters only for
/// copies that are tried out before.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quiescing {
    /// It must, or there is no snapshot.
    Require,
    /// It is asked to; if it cannot, the disks are as after a power cut.
    Prefer,
    /// It is not asked.
    #[default]
    Never,
}

/// A snapshot that is there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Made {
    /// Its object.
    pub on: Moref,
    /// Whether the guest wrote out its caches before.
    pub quiesced: bool,
    /// Why it did not, if it was asked to.
    pub why_not: Option<String>,
}

/// How long to go on when something is in the way.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For another task that works on the VM, or a host that is away.
    pub others: Duration,
    /// Removals that fail for other reasons, before it is given up.
    pub removals: u32,
    /// Time before the second try; doubled each time, up to a minute.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            others: Duration::from_secs(15 * 60),
            removals: 6,
            pause: Duration::from_secs(1),
        }
    }
}

const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Counts tries, and knows how long to wait before the next one.
struct Tries {
    pause: Duration,
    ends: Instant,
    failures: u32,
    patience: Patience,
}

impl Tries {
    fn new(patience: Patience) -> Self {
        let now = Instant::now();
        Self {
            pause: patience.pause,
            ends: now.checked_add(patience.others).unwrap_or(now),
            failures: 0,
            patience,
        }
    }

    /// Waits before the next try, or gives `error` back if there should be none.
    async fn again(&mut self, error: Error) -> Result<()> {
        let over = match error.kind() {
            Kind::Transient => Instant::now() >= self.ends,
            Kind::Io => {
                self.failures = self.failures.saturating_add(1);
                self.failures >= self.patience.removals
            }
            _ => true,
        };
        if over {
            return Err(error);
        }
        tracing::debug!("{}; trying again in {:?}", error.line(), self.pause);
        sleep(self.pause).await;
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        Ok(())
    }
}

impl Machine {
    /// The snapshot with that tag, if it is there.
    ///
    /// # Errors
    /// The VM cannot be asked.
    pub async fn tagged(&self, tag: &Tag) -> Result<Option<Snapshot>> {
        let all = self.snapshots().await?;
        Ok(all
            .into_iter()
            .find(|snapshot| snapshot.tag.as_ref() == Some(tag)))
    }

    /// Makes the snapshot with that tag, or gives it again if it is there.
    ///
    /// # Errors
    /// It could not be made, and is not there.
    pub async fn freeze(
        &self,
        tag: &Tag,
        quiescing: Quiescing,
        patience: Patience,
    ) -> Result<Made> {
        let doing = || format!("make the snapshot {:?} of {:?}", tag.to_string(), self.name);
        let _task = self.tasks.lock().await;
        let mut quiesce = quiescing != Quiescing::Never;
        let mut why_not = None;
        let mut tries = Tries::new(patience);
        loop {
            // Also after a call that got lost: then it may be there by now.
            if let Some(found) = self.tagged(tag).await? {
                return Ok(Made {
                    on: found.on,
                    quiesced: found.quiesced,
                    why_not,
                });
            }
            let what = "made to copy the disks of this VM; removed by itself";
            let request = calls::create_snapshot(&self.on, &tag.to_string(), what, quiesce);
            let error = match self.session.run(&request).await {
                Ok(result) => {
                    let on = result
                        .as_ref()
                        .and_then(|result| answer::reference(result).ok());
                    match on {
                        Some(on) => {
                            return Ok(Made {
                                on,
                                quiesced: quiesce,
                                why_not,
                            });
                        }
                        None => continue_by_name(tag),
                    }
                }
                Err(error) => error,
            };
            let fault = fault::of(&error);
            if quiesce && fault.is_some_and(fault::Fault::quiesce_failed) {
                if quiescing == Quiescing::Require {
                    return Err(error.context(doing()));
                }
                (quiesce, why_not) = (false, fault.map(ToString::to_string));
                continue;
            }
            match error.kind() {
                Kind::Transient => tries.again(error).await.map_err(|e| e.context(doing()))?,
                _ => return Err(error.context(doing())),
            }
        }
    }

    /// Removes the snapshot with that tag and waits until its disks are merged. None is fine.
    ///
    /// # Errors
    /// It may still be there, or its disks are not merged.
    pub async fn thaw(&self, tag: &Tag, patience: Patience) -> Result<()> {
        let doing = || {
            format!(
                "remove the snapshot {:?} of {:?}",
                tag.to_string(),
                self.name
            )
        };
        let _task = self.tasks.lock().await;
        let mut tries = Tries::new(patience);
        loop {
            let done = async {
                // Whoever made it twice, in spite of all, must not leave one.
                while let Some(snapshot) = self.tagged(tag).await? {
                    self.remove(&snapshot).await?;
                }
                self.merge().await
            };
            match done.await {
                Ok(()) => return Ok(()),
                Err(error) => tries.again(error).await.map_err(|e| e.context(doing()))?,
            }
        }
    }

    async fn remove(&self, snapshot: &Snapshot) -> Result<()> {
        let removed = self
            .session
            .run(&calls::remove_snapshot(&snapshot.on))
            .await;
        match removed {
            Ok(_) => Ok(()),
            // Of the snapshot or of the task: looking again tells which.
            Err(error) if fault::of(&error).is_some_and(|fault| fault.gone()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Merges disks that a removal left apart, as it does when a host was busy.
    async fn merge(&self) -> Result<()> {
        let apart = self.ask(&["runtime.consolidationNeeded"]).await?;
        if !apart.is_true("runtime.consolidationNeeded") {
            return Ok(());
        }
        tracing::info!("the disks of {:?} need to be merged", self.name);
        self.session.run(&calls::consolidate(&self.on)).await?;
        Ok(())
    }
}

/// A task that succeeded without saying what it made: the next look finds it.
fn continue_by_name(tag: &Tag) -> Error {
    Error::new(
        Kind::Transient,
        format!("the snapshot {tag} is not there yet"),
    )
}
