//! Making a VM quiet, and seeing that it is.
//!
//! That a guest turned itself off must not end QEMU, because its disks are read through QEMU after
//! that: `set-action shutdown=pause` (QEMU 6.0), which `-no-shutdown` is the same as. The plug is
//! pulled by a reset that is a shutdown: `set-action reboot=shutdown`, then `system_reset`. The VM
//! is then as if its guest had turned it off: QEMU refuses to let it run on, but serves its disks.
//!
//! `qemu-storage-daemon` runs no VM. Whoever writes to its disks does so through exports; it is
//! quiet when there are none but ours.

use super::client::refused;
use super::drive::Vm;
use crate::changes::guest::{Quiesce, Quiet, Shutdown};
use crate::error::{Error, Kind, Result};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// How soon a VM is looked at again, if no event says so before.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a VM whose plug was pulled may take.
const PLUG: Duration = Duration::from_secs(30);

/// What is known of a VM's processors.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Power {
    /// They may write: why that is so.
    Runs(String),
    /// They stand still, and can be woken.
    Paused(String),
    /// They stand still, and are not ours to wake: switched off, crashed, never started.
    Off(String),
    /// There are none: `qemu-storage-daemon`.
    None,
}

/// What `query-status` means for the disks.
///
/// An I/O error has stopped the VM in the middle of a write that is repeated when it goes on; a
/// sleeping one is woken by its devices; one that was migrated away may write elsewhere.
fn judge(status: &str) -> Power {
    let said = format!("query-status: {status}");
    match status {
        "paused" => Power::Paused(said),
        "shutdown" | "prelaunch" | "guest-panicked" | "watchdog" | "debug" => Power::Off(said),
        _ => Power::Runs(said),
    }
}

impl Vm {
    pub(super) async fn power(&self) -> Result<Power> {
        match self.client.call("query-status", json!({})).await? {
            Ok(answer) => Ok(judge(answer["status"].as_str().unwrap_or("unknown"))),
            Err(refusal) if refusal.is_unknown_command() => Ok(Power::None),
            Err(refusal) => Err(refused("query-status", refusal)),
        }
    }

    /// Whether the VM is quiet; if not, why.
    pub(super) async fn quiet(&self) -> Result<Result<Quiet, String>> {
        let (power, view) = (self.power().await?, self.look().await?);
        if let Some((export, disk)) = view.site().foreign_export() {
            let node = &disk.node;
            return Ok(Err(format!(
                "export {export} may write to disk {} (node {node})",
                disk.name
            )));
        }
        let found = |how, evidence| Ok(Quiet { how, evidence });
        Ok(match power {
            Power::Runs(said) => Err(said),
            Power::Paused(said) => found(Shutdown::Pause, said),
            Power::Off(said) => found(Shutdown::External, said),
            Power::None => {
                let evidence = "query-block-exports: none but ours".to_owned();
                found(Shutdown::External, evidence)
            }
        })
    }

    pub(super) async fn quiesce(&self, how: &Quiesce) -> Result<Quiet> {
        let first = self.shut_down(how.how, how.timeout).await;
        let (error, second) = match (first, how.otherwise) {
            (Ok(quiet), _) => return Ok(quiet),
            (Err(error), Some(second)) if error.kind() == Kind::Refused => (error, second),
            (Err(error), _) => return Err(error),
        };
        tracing::warn!("{}; now: {second:?}", error.line());
        self.shut_down(second, how.timeout).await
    }

    /// Whether it could be made quiet this way.
    pub(super) async fn check_shutdown(&self, how: Shutdown) -> Result<()> {
        self.check(how).await.map(|_| ())
    }

    /// The same, and what is known of its processors.
    async fn check(&self, how: Shutdown) -> Result<Power> {
        let power = self.power().await?;
        let never = |what: &'static str, hint: &'static str| {
            let error = Error::new(Kind::Unsupported, what);
            Err(error.hint(hint))
        };
        let off = matches!(how, Shutdown::Guest | Shutdown::PowerOff);
        match &power {
            Power::None if how != Shutdown::External => never(
                "qemu-storage-daemon has no VM that could be stopped",
                "use \"external\", and see to it that nobody writes",
            ),
            Power::Runs(_) | Power::Paused(_) if off && self.world().await?.is_of_libvirt() => {
                never(
                    "libvirt ends QEMU when its guest is off, and the disks are read through QEMU",
                    "use \"pause\"; a guest that must write out its caches is shut down by hand, \
                     and started again with virsh start --paused",
                )
            }
            _ => Ok(power),
        }
    }

    /// One way to make it quiet; [`Kind::Refused`] if it just did not become so.
    async fn shut_down(&self, how: Shutdown, timeout: Duration) -> Result<Quiet> {
        let power = self.check(how).await?;
        let patience = match (how, &power) {
            (Shutdown::External, _) => timeout,
            (_, Power::Off(_)) => return self.settled(None, PLUG).await,
            (Shutdown::Guest, Power::Paused(said)) => {
                let what = format!("a guest that does not run cannot shut down ({said})");
                return Err(Error::new(Kind::Refused, what));
            }
            (Shutdown::Guest, _) => {
                self.stay_after("shutdown").await?;
                self.client.ask("system_powerdown", json!({})).await?;
                timeout
            }
            (Shutdown::Pause, _) => {
                self.client.ask("stop", json!({})).await?;
                PLUG
            }
            (Shutdown::PowerOff, Power::Paused(_)) => PLUG,
            (Shutdown::PowerOff, _) => {
                self.pull_the_plug().await?;
                PLUG
            }
        };
        self.settled(Some(how), patience).await
    }

    /// Waits until it is quiet.
    async fn settled(&self, by: Option<Shutdown>, patience: Duration) -> Result<Quiet> {
        let deadline = Instant::now() + patience;
        loop {
            let quiet = self.quiet().await.map_err(|error| match by {
                Some(Shutdown::Guest) => error.hint(
                    "if QEMU ended with its guest, its disks must be read some other way; \
                     QEMU before 6.0 stays only with -no-shutdown, and under libvirt it never does",
                ),
                _ => error,
            })?;
            let why = match quiet {
                Ok(quiet) => return Ok(credit(quiet, by)),
                Err(why) => why,
            };
            if Instant::now() >= deadline {
                let seconds = patience.as_secs();
                let what = match by {
                    Some(Shutdown::Guest) => {
                        format!("the guest did not shut down within {seconds} s and still runs")
                    }
                    _ => format!("the VM is not quiet after {seconds} s"),
                };
                return Err(Error::new(Kind::Refused, what).because(why));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.client.stirred(PAUSE.min(left)).await;
        }
    }

    /// Has QEMU stay, with the disks open, when `event` ends the VM.
    async fn stay_after(&self, event: &str) -> Result<()> {
        let stay: Value = match event {
            "reboot" => json!({"reboot": "shutdown", "shutdown": "pause"}),
            _ => json!({"shutdown": "pause"}),
        };
        match self.client.call("set-action", stay).await? {
            Ok(_) => Ok(()),
            // Then it was started with -no-shutdown, or it will end: that shows.
            Err(refusal) if refusal.is_unknown_command() && event == "shutdown" => Ok(()),
            Err(refusal) => Err(refused("set-action", refusal)),
        }
    }

    async fn pull_the_plug(&self) -> Result<()> {
        self.stay_after("reboot").await?;
        self.client.ask("system_reset", json!({})).await?;
        // Whoever starts that VM again can reset it as before.
        let deadline = Instant::now() + PLUG;
        while matches!(self.power().await?, Power::Runs(_)) && Instant::now() < deadline {
            self.client.stirred(PAUSE).await;
        }
        self.client
            .ask("set-action", json!({"reboot": "reset"}))
            .await?;
        Ok(())
    }

    pub(super) async fn wake(&self) -> Result<()> {
        if !matches!(self.power().await?, Power::Paused(_)) {
            return Ok(());
        }
        self.client.ask("cont", json!({})).await?;
        match self.power().await? {
            Power::Paused(said) => Err(Error::new(Kind::Io, "wake the VM").because(said)),
            Power::Runs(_) | Power::Off(_) | Power::None => Ok(()),
        }
    }
}

/// Who made it so: we, if that is what we did.
fn credit(quiet: Quiet, by: Option<Shutdown>) -> Quiet {
    match (quiet.how, by) {
        (Shutdown::External, Some(how @ (Shutdown::Guest | Shutdown::PowerOff))) => {
            Quiet { how, ..quiet }
        }
        _ => quiet,
    }
}

#[cfg(test)]
mod tests {
    use super::{Power, judge};

    #[test]
    fn only_a_vm_whose_processors_stand_still_with_nothing_left_to_write_is_quiet() {
        for status in [
            "running",
            "io-error",
            "suspended",
            "postmigrate",
            "inmigrate",
            "colo",
            "",
        ] {
            assert!(matches!(judge(status), Power::Runs(_)), "{status}");
        }
        for status in ["shutdown", "prelaunch", "guest-panicked"] {
            assert!(matches!(judge(status), Power::Off(_)), "{status}");
        }
        assert!(matches!(judge("paused"), Power::Paused(_)));
    }
}
