//! What one host may be asked for at once, by all disks that this process reads from it.
//!
//! A vCenter takes about 52 NFC connections, and has 48 MB for what they have under way (96 MB from
//! vSphere 8); past that it fails requests of whoever comes next, also those of other programs. So
//! disks of one host share sessions and bytes.

use crate::error::{Error, Kind, Result};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Sessions of one host.
const SESSIONS: usize = 16;

/// KiB under way on one host.
const KIBIBYTES: u32 = 32 << 10;

/// What is left of one host.
#[derive(Debug)]
pub(super) struct Host {
    sessions: Arc<Semaphore>,
    kibibytes: Arc<Semaphore>,
}

/// Hosts that are read from now.
static HOSTS: LazyLock<Mutex<HashMap<String, Weak<Host>>>> = LazyLock::new(Mutex::default);

impl Host {
    /// The one that everybody shares who reads from `name`.
    pub(super) fn of(name: &str) -> Arc<Self> {
        let mut hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|_, host| host.strong_count() > 0);
        if let Some(host) = hosts.get(name).and_then(Weak::upgrade) {
            return host;
        }
        let host = Arc::new(Self {
            sessions: Arc::new(Semaphore::new(SESSIONS)),
            kibibytes: Arc::new(Semaphore::new(
                usize::try_from(KIBIBYTES).unwrap_or(Semaphore::MAX_PERMITS),
            )),
        });
        hosts.insert(name.to_owned(), Arc::downgrade(&host));
        host
    }

    /// Up to `wanted` sessions, at least one: waits for that one, and takes more if they are free.
    pub(super) async fn sessions(&self, wanted: usize) -> Result<OwnedSemaphorePermit> {
        let one = self.sessions.clone().acquire_owned().await;
        let mut held = one.map_err(|error| closed(&error))?;
        for _ in 1..wanted {
            match self.sessions.clone().try_acquire_owned() {
                Ok(more) => held.merge(more),
                Err(_) => break,
            }
        }
        Ok(held)
    }

    /// Room for a read of `bytes`. A read longer than all there is waits for all there is.
    pub(super) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let wanted = u32::try_from(bytes.div_ceil(1024)).unwrap_or(KIBIBYTES);
        let room = self
            .kibibytes
            .clone()
            .acquire_many_owned(wanted.min(KIBIBYTES));
        room.await.map_err(|error| closed(&error))
    }
}

fn closed(error: &impl ToString) -> Error {
    Error::new(Kind::Io, "wait for a session").because(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{Host, SESSIONS};
    use futures_util::FutureExt;

    #[tokio::test]
    async fn disks_of_one_host_share_its_sessions_and_the_last_one_waits() {
        let host = Host::of("shared.example.com");
        let first = host.sessions(4).await.unwrap();
        assert_eq!(first.num_permits(), 4);
        let other = Host::of("shared.example.com");
        let rest = other.sessions(100).await.unwrap();
        assert_eq!(rest.num_permits(), SESSIONS - 4);
        assert!(host.sessions(1).now_or_never().is_none(), "none is left");
        drop(rest);
        assert!(host.sessions(1).now_or_never().is_some());
        let elsewhere = Host::of("other.example.com").sessions(4).await.unwrap();
        assert_eq!(elsewhere.num_permits(), 4);
    }

    #[tokio::test]
    async fn a_read_that_is_longer_than_all_room_is_not_stuck() {
        let host = Host::of("room.example.com");
        let all = host.room(1 << 30).await.unwrap();
        assert!(host.room(1).now_or_never().is_none());
        drop(all);
        assert!(host.room(1).now_or_never().is_some());
    }
}
