//! A signal asks for an orderly end.

use crate::error::{Error, Kind, Result};
use tokio::sync::watch;

/// Asks everything that holds a [`Stop`] of it to end.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Tells whether an end was asked for.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stopper {
    /// A stopper and what it stops.
    #[must_use]
    pub fn new() -> (Self, Stop) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Stop(receiver))
    }

    /// Asks for the end.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// A stop that never comes.
    #[must_use]
    pub fn never() -> Self {
        Stopper::new().1
    }

    /// Returns when an end is asked for; never, if nobody can ask any more.
    pub async fn requested(&mut self) {
        if self.0.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What `work` comes to, unless an end is asked for first: then it is given up where it is.
    ///
    /// # Errors
    /// Those of the work; `Interrupted` if an end is asked for.
    pub async fn interrupts<T>(mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.requested() => Err(Error::new(Kind::Interrupted, "stopped by a signal")),
            done = work => done,
        }
    }

    /// Whether an end was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::{Stop, Stopper};
    use futures_util::FutureExt;

    #[test]
    fn a_stop_is_seen_by_those_who_wait_and_those_who_come_later() {
        let (stopper, mut stop) = Stopper::new();
        assert!(stop.requested().now_or_never().is_none());
        stopper.stop();
        assert!(stop.clone().requested().now_or_never().is_some());
        assert!(stop.is_requested());
    }

    #[test]
    fn without_a_stopper_the_end_never_comes() {
        assert!(Stop::never().requested().now_or_never().is_none());
    }
}
