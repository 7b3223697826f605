//! Buffers that are aligned for direct I/O, reused while they are warm, and paid for.
//!
//! A [`Budget`] is the memory contract of a job: so many bytes, so many requests. A request takes a
//! [`Buffer`] out of it and holds bytes and slot until the last reference to the buffer is gone,
//! so a lost request cannot leak its credit. The buffer that was given back last is handed out
//! first: it is the one that is still in the cache.
//!
//! ```text
//!  memory.rs   aligned memory, in huge pages where it is large
//!  shelf.rs    memory that waits to be used again, and how much of it there may be
//! ```

mod memory;
mod shelf;

use bytes::Bytes;
use memory::Memory;
use shelf::Shelf;
use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Address alignment of every buffer: enough for O_DIRECT on any sector size in use.
pub const ALIGN: usize = 4096;

/// Unit in which bytes are counted against a budget, so that a budget fits a semaphore.
const UNIT: usize = 4096;

/// Bytes and request slots shared by the requests of a job. Cloning shares the same budget.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    bytes: Arc<Semaphore>,
    slots: Arc<Semaphore>,
    capacity: usize,
    shelf: Mutex<Shelf>,
}

impl Budget {
    /// A budget of `bytes` (at least one unit of 4 KiB) and `slots` requests.
    #[must_use]
    pub fn new(bytes: usize, slots: usize) -> Self {
        let units = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self(Arc::new(Shared {
            bytes: Arc::new(Semaphore::new(units)),
            slots: Arc::new(Semaphore::new(slots.max(1))),
            capacity: units.saturating_mul(UNIT),
            shelf: Mutex::new(Shelf::new(units.saturating_mul(UNIT))),
        }))
    }

    /// The largest buffer that this budget can ever give.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// Waits for a slot and `len` bytes, first come first served. The content is unspecified.
    ///
    /// A request larger than the whole budget waits for all of it and exceeds it alone, rather
    /// than waiting for ever.
    pub async fn take(&self, len: usize) -> Buffer {
        let slot = acquire(&self.0.slots, 1).await;
        let units = len.min(self.0.capacity).div_ceil(UNIT);
        let bytes = acquire(&self.0.bytes, u32::try_from(units).unwrap_or(u32::MAX)).await;
        let memory = self.0.shelf().take(class_of(len));
        Buffer {
            memory,
            len,
            credit: Some(Credit {
                _bytes: bytes,
                _slot: slot,
                home: self.0.clone(),
            }),
        }
    }
}

/// Takes permits; `None` cannot happen, as these semaphores are never closed.
async fn acquire(semaphore: &Arc<Semaphore>, permits: u32) -> Option<OwnedSemaphorePermit> {
    semaphore.clone().acquire_many_owned(permits).await.ok()
}

impl Shared {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sizes come in classes, so that memory can be reused for another request of similar size.
fn class_of(len: usize) -> usize {
    len.max(UNIT).next_power_of_two()
}

/// What a buffer owes to its budget.
struct Credit {
    _bytes: Option<OwnedSemaphorePermit>,
    _slot: Option<OwnedSemaphorePermit>,
    home: Arc<Shared>,
}

/// Bytes for one request, at an address aligned to [`ALIGN`].
///
/// Filled by a read, then [frozen](Self::freeze) into cheaply cloned slices for the writes.
pub struct Buffer {
    memory: Memory,
    len: usize,
    credit: Option<Credit>,
}

impl Buffer {
    /// A buffer outside any budget, for small fixed needs: probes, headers, tests.
    #[must_use]
    pub fn unbudgeted(len: usize) -> Self {
        Self {
            memory: Memory::new(class_of(len)),
            len,
            credit: None,
        }
    }

    /// Keeps the first `len` bytes. Longer than it is does nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Gives up the right to change the bytes for the right to share slices of them.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.bytes().get(..self.len).unwrap_or(&[])
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        self.memory.bytes_mut().get_mut(..len).unwrap_or(&mut [])
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(credit) = self.credit.take() {
            // Memory first, credit second: whoever gets the credit finds the memory.
            credit.home.shelf().put(mem::take(&mut self.memory));
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budget({} bytes)", self.0.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::{ALIGN, Budget, Buffer};
    use futures_util::FutureExt;

    #[test]
    fn a_buffer_is_aligned_and_as_long_as_asked() {
        for len in [1, 511, 4096, 70_000, 1 << 20] {
            let buffer = Buffer::unbudgeted(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().align_offset(ALIGN), 0);
        }
    }

    #[test]
    fn the_budget_is_full_until_the_last_slice_is_gone() {
        let budget = Budget::new(8192, 9);
        let a = budget.take(4096).now_or_never().unwrap();
        let b = budget.take(4096).now_or_never().unwrap();
        assert!(budget.take(1).now_or_never().is_none(), "no bytes are left");
        let slice = b.freeze().slice(10..20);
        assert!(
            budget.take(1).now_or_never().is_none(),
            "a slice keeps the bytes"
        );
        drop(slice);
        assert!(budget.take(4096).now_or_never().is_some());
        drop(a);
    }

    #[test]
    fn slots_run_out_before_bytes_do() {
        let budget = Budget::new(1 << 20, 1);
        let only = budget.take(1).now_or_never().unwrap();
        assert!(budget.take(1).now_or_never().is_none());
        drop(only);
        assert!(budget.take(1).now_or_never().is_some());
    }

    #[test]
    fn a_request_above_the_budget_goes_alone_instead_of_never() {
        let budget = Budget::new(4096, 2);
        let big = budget.take(1 << 20).now_or_never().unwrap();
        assert_eq!(big.len(), 1 << 20);
        assert!(budget.take(1).now_or_never().is_none());
    }

    #[test]
    fn memory_that_was_given_back_is_used_again() {
        let budget = Budget::new(1 << 20, 64);
        let first = budget.take(1 << 16).now_or_never().unwrap();
        let address = first.as_ptr();
        drop(first);
        assert_eq!(
            budget.take(1 << 16).now_or_never().unwrap().as_ptr(),
            address
        );
    }
}
