//! A VM that is shut down, and confirmed to be.

use super::inventory::{Machine, Power};
use super::soap::calls;
use super::soap::fault;
use crate::error::{Error, Kind, Result};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a VM that shuts down is looked at.
const LOOK: Duration = Duration::from_secs(1);

impl Machine {
    /// Whether it runs.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn power(&self) -> Result<Power> {
        Power::of(&self.ask(&["runtime.powerState"]).await?)
    }

    /// Asks the guest to shut down, and waits until the host says that it has.
    ///
    /// # Errors
    /// The guest cannot be asked, or did not shut down within `patience`: it still runs.
    pub async fn shut_down(&self, patience: Duration) -> Result<()> {
        if self.power().await? == Power::Off {
            return Ok(());
        }
        let doing = || format!("shut down the guest of {:?}", self.name);
        let _task = self.tasks.lock().await;
        if let Err(error) = self.session.call(&calls::shutdown_guest(&self.on)).await {
            // Between the look and the call it may have gone off by itself.
            if !fault::of(&error).is_some_and(|fault| fault.is("InvalidPowerState")) {
                return Err(error.context(doing()));
            }
        }
        let ends = Instant::now().checked_add(patience);
        loop {
            if self.power().await? == Power::Off {
                return Ok(());
            }
            if ends.is_none_or(|ends| Instant::now() >= ends) {
                let why = format!("it still runs after {} s", patience.as_secs());
                return Err(Error::new(Kind::Io, doing()).because(why));
            }
            sleep(LOOK.min(patience)).await;
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// It does not run.
    pub async fn power_on(&self) -> Result<()> {
        if self.power().await? == Power::On {
            return Ok(());
        }
        let doing = || format!("power on {:?}", self.name);
        let _task = self.tasks.lock().await;
        let done = self.session.run(&calls::power_on(&self.on)).await;
        match (done, self.power().await?) {
            (_, Power::On) => Ok(()),
            (Err(error), _) => Err(error.context(doing())),
            (Ok(_), _) => Err(Error::new(Kind::Io, doing()).because("it does not run")),
        }
    }

    /// Pulls the plug.
    ///
    /// # Errors
    /// It still runs.
    pub async fn power_off(&self) -> Result<()> {
        if self.power().await? == Power::Off {
            return Ok(());
        }
        let doing = || format!("power off {:?}", self.name);
        let _task = self.tasks.lock().await;
        let done = self.session.run(&calls::power_off(&self.on)).await;
        // What counts is the state, not what the task says of it.
        match (done, self.power().await?) {
            (_, Power::Off) => Ok(()),
            (Err(error), _) => Err(error.context(doing())),
            (Ok(_), _) => Err(Error::new(Kind::Io, doing()).because("it still runs")),
        }
    }
}
