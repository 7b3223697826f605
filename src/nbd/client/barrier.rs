//! Whether a flush can still vouch for all writes before it. Pure.
//!
//! A server that answered a write may hold the bytes in memory until a flush. If the connection
//! is lost before that flush, the server may have crashed, and a flush of its successor says
//! nothing about those bytes. Nothing can be told from outside, so the client assumes the worst:
//! once such a gap has opened, no flush of this client succeeds any more. Whoever writes must open
//! the target again and go on from the last barrier.

/// What was written and what of it is known to be durable.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    /// Connections that were made again.
    generation: u64,
    /// Requests that changed the export and were answered.
    written: u64,
    /// How many of them a flush has vouched for.
    durable: u64,
    broken: Option<Broken>,
}

/// Why no flush can succeed any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Broken {
    /// Writes that were answered before a connection was lost may be gone.
    Reconnected,
    /// The server reported that a flush failed; it may have forgotten what it could not write.
    FlushFailed,
}

impl Barrier {
    /// Connections that were made again.
    #[must_use]
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// A request that changed the export was answered.
    pub(super) fn wrote(&mut self) {
        self.written = self.written.saturating_add(1);
    }

    /// A flush is about to be sent: gives what it will vouch for.
    ///
    /// # Errors
    /// It could not vouch for everything.
    pub(super) fn begin(&self) -> Result<u64, Broken> {
        self.broken.map_or(Ok(self.written), Err)
    }

    /// The flush that began with `mark` was answered.
    ///
    /// # Errors
    /// A connection was lost meanwhile.
    pub(super) fn succeeded(&mut self, mark: u64) -> Result<(), Broken> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        self.durable = self.durable.max(mark);
        Ok(())
    }

    /// The server says that a flush failed.
    pub(super) fn failed(&mut self) {
        self.broken.get_or_insert(Broken::FlushFailed);
    }

    /// A connection was made again; `elsewhere` tells whether writes are under way on others,
    /// whose answers may come from the server that is gone.
    pub(super) fn reconnected(&mut self, elsewhere: bool) {
        self.generation = self.generation.saturating_add(1);
        if self.written > self.durable || elsewhere {
            self.broken.get_or_insert(Broken::Reconnected);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Barrier, Broken};

    #[test]
    fn a_flush_after_a_reconnect_fails_for_good_if_answered_writes_were_not_flushed() {
        let mut barrier = Barrier::default();
        barrier.wrote();
        barrier.reconnected(false);
        assert_eq!(barrier.begin(), Err(Broken::Reconnected));
        barrier.wrote();
        assert_eq!(barrier.begin(), Err(Broken::Reconnected), "still");
    }

    #[test]
    fn a_reconnect_with_everything_flushed_harms_nothing() {
        let mut barrier = Barrier::default();
        barrier.wrote();
        let mark = barrier.begin().unwrap();
        barrier.succeeded(mark).unwrap();
        barrier.reconnected(false);
        barrier.wrote();
        let mark = barrier.begin().unwrap();
        assert_eq!(barrier.succeeded(mark), Ok(()));
        assert_eq!(barrier.generation(), 1);
    }

    #[test]
    fn a_flush_does_not_vouch_for_writes_that_were_answered_after_it_began() {
        let mut barrier = Barrier::default();
        let mark = barrier.begin().unwrap();
        barrier.wrote();
        barrier.succeeded(mark).unwrap();
        barrier.reconnected(false);
        assert_eq!(barrier.begin(), Err(Broken::Reconnected));
    }

    #[test]
    fn a_reconnect_during_the_flush_or_with_writes_elsewhere_breaks_it() {
        let mut barrier = Barrier::default();
        barrier.wrote();
        let mark = barrier.begin().unwrap();
        barrier.reconnected(false);
        assert_eq!(barrier.succeeded(mark), Err(Broken::Reconnected));
        let mut barrier = Barrier::default();
        barrier.reconnected(true);
        assert_eq!(barrier.begin(), Err(Broken::Reconnected));
    }

    #[test]
    fn a_failed_flush_stays_failed() {
        let mut barrier = Barrier::default();
        barrier.failed();
        barrier.reconnected(true);
        assert_eq!(barrier.begin(), Err(Broken::FlushFailed));
    }
}
