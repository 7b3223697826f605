//! Sound endpoints in memory that record what was asked of them.
//!
//! A [`MemTarget`] has a volatile cache, as disks have: [`MemTarget::crash`] loses of the writes
//! since the last flush whatever the test says.

use super::store::Store;
use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits, check_bounds};
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent, push_merged};
use crate::format::AtHand;
use crate::source::Source;
use crate::target::{Target, Untouched, Zeroing};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Something that was asked of an endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Call {
    /// `Source::read`.
    Read(ByteRange),
    /// `Source::extents`.
    Extents(ByteRange),
    /// `Target::write`.
    Write(ByteRange),
    /// `Target::zero`.
    Zero(ByteRange, Zeroing),
    /// `Target::flush`.
    Flush,
    /// `Target::read_back`.
    ReadBack(ByteRange),
    /// `Target::finalize`.
    Finalize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Extents that one answer of a [`MemSource`] holds at most: small, so that callers must ask on.
const ANSWER: usize = 16;

/// A disk in memory that is read. Cloning shares it.
#[derive(Clone, Debug)]
pub struct MemSource {
    name: String,
    size: u64,
    limits: Limits,
    at_hand: bool,
    shared: Arc<Mutex<SourceState>>,
}

#[derive(Debug, Default)]
struct SourceState {
    store: Store,
    calls: Vec<Call>,
}

impl MemSource {
    /// A disk of `size` zeroes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            name: "memory source".to_owned(),
            size,
            limits: Limits::NONE,
            at_hand: false,
            shared: Arc::default(),
        }
    }

    /// The same for threads that block, too.
    #[must_use]
    pub fn at_hand(mut self) -> Self {
        self.at_hand = true;
        self
    }

    /// The same under another name, so that it is another disk.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// A disk that holds `bytes`.
    #[must_use]
    pub fn holding(bytes: &[u8]) -> Self {
        let disk = Self::new(bytes.len() as u64);
        disk.put(0, bytes);
        disk
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Changes what the disk holds, as a guest would.
    pub fn put(&self, offset: u64, bytes: &[u8]) {
        lock(&self.shared).store.write(offset, bytes);
    }

    /// Makes the disk hold zeroes there, which [`extents`](Source::extents) then tells.
    pub fn punch(&self, range: ByteRange) {
        lock(&self.shared).store.zero(range);
    }

    /// What was asked of it so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared).calls.clone()
    }
}

#[async_trait]
impl Source for MemSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn identity(&self) -> Identity {
        identity(&self.name, self.size)
    }

    async fn read(&self, offset: u64, mut buffer: Buffer) -> Result<Buffer> {
        let range = ByteRange::at(offset, buffer.len() as u64);
        check_bounds("read", "memory", range, self.size)?;
        let mut state = lock(&self.shared);
        state.calls.push(Call::Read(range));
        state.store.read(offset, &mut buffer);
        Ok(buffer)
    }

    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        check_bounds("map", "memory", range, self.size)?;
        let mut state = lock(&self.shared);
        state.calls.push(Call::Extents(range));
        let mut extents = Vec::new();
        let mut rest = range;
        while !rest.is_empty() && extents.len() < ANSWER {
            let data = state.store.next_data(rest);
            let data = data.unwrap_or(ByteRange::at(rest.end, 0));
            push_merged(
                &mut extents,
                Extent::zero(ByteRange::new(rest.start, data.start)),
            );
            push_merged(&mut extents, Extent::data(data));
            rest = ByteRange::new(data.end, rest.end);
        }
        Ok(extents)
    }

    fn at_hand(&self) -> Option<&dyn AtHand> {
        self.at_hand.then_some(self)
    }
}

impl AtHand for MemSource {
    fn read_now(&self, offset: u64, space: &mut [u8]) -> Result<()> {
        let range = ByteRange::at(offset, space.len() as u64);
        check_bounds("read", "memory", range, self.size)?;
        let mut state = lock(&self.shared);
        state.calls.push(Call::Read(range));
        state.store.read(offset, space);
        Ok(())
    }
}

/// A disk in memory that is written. Cloning shares it.
#[derive(Clone, Debug)]
pub struct MemTarget {
    size: u64,
    limits: Limits,
    sector: Option<u32>,
    untouched: Untouched,
    shared: Arc<Mutex<TargetState>>,
}

#[derive(Debug, Default)]
struct TargetState {
    /// What a read gives.
    seen: Store,
    /// What is left when the power goes.
    durable: Store,
    /// Writes since the last flush, in order; no data means zeroes.
    volatile: Vec<(ByteRange, Option<Bytes>)>,
    calls: Vec<Call>,
    /// How many calls came before it was told that the end is near.
    ending: Option<usize>,
}

fn apply(store: &mut Store, range: ByteRange, data: Option<&Bytes>) {
    match data {
        Some(data) => store.write(range.start, data),
        None => store.zero(range),
    }
}

impl MemTarget {
    /// A fresh disk of `size` zeroes, known to be zeroes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            size,
            limits: Limits::NONE,
            sector: None,
            untouched: Untouched::Zero,
            shared: Arc::default(),
        }
    }

    /// A disk that holds `bytes`, durably, of which nothing is known.
    #[must_use]
    pub fn holding(bytes: &[u8]) -> Self {
        let mut disk = Self::new(bytes.len() as u64);
        disk.untouched = Untouched::Unknown;
        lock(&disk.shared).seen.write(0, bytes);
        lock(&disk.shared).durable.write(0, bytes);
        disk
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The same with sectors of so many bytes.
    #[must_use]
    pub fn with_sector(mut self, bytes: u32) -> Self {
        self.sector = Some(bytes);
        self
    }

    /// The power goes: of the writes since the last flush only those are kept, in order, of which
    /// `survives` says so.
    pub fn crash(&self, mut survives: impl FnMut(ByteRange) -> bool) {
        let mut state = lock(&self.shared);
        let state = &mut *state;
        for (range, data) in state.volatile.drain(..) {
            if survives(range) {
                apply(&mut state.durable, range, data.as_ref());
            }
        }
        state.seen = state.durable.clone();
    }

    /// What was asked of it so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared).calls.clone()
    }

    /// How many calls came before it was first told that the end is near.
    #[must_use]
    pub fn ending_after(&self) -> Option<usize> {
        lock(&self.shared).ending
    }

    /// All that it holds. For small disks.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or(0)];
        lock(&self.shared).seen.read(0, &mut bytes);
        bytes
    }

    fn change(&self, call: Call, range: ByteRange, data: Option<Bytes>) -> Result<()> {
        check_bounds("write", "memory", range, self.size)?;
        let align = u64::from(self.limits.align);
        let end_fits = range.end == self.size || range.end.is_multiple_of(align);
        if !range.start.is_multiple_of(align) || !end_fits {
            return Err(Error::new(Kind::Usage, format!("{range} is not aligned")));
        }
        let mut state = lock(&self.shared);
        state.calls.push(call);
        apply(&mut state.seen, range, data.as_ref());
        state.volatile.push((range, data));
        Ok(())
    }
}

#[async_trait]
impl Target for MemTarget {
    fn capacity(&self) -> Option<u64> {
        Some(self.size)
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn identity(&self) -> Identity {
        identity("memory target", self.size)
    }

    fn sector(&self) -> Option<u32> {
        self.sector
    }

    fn untouched(&self) -> Untouched {
        self.untouched
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        let range = ByteRange::at(offset, data.len() as u64);
        self.change(Call::Write(range), range, Some(data))
    }

    async fn zero(&self, range: ByteRange, zeroing: Zeroing) -> Result<()> {
        self.change(Call::Zero(range, zeroing), range, None)
    }

    async fn flush(&self) -> Result<()> {
        let mut state = lock(&self.shared);
        let state = &mut *state;
        state.calls.push(Call::Flush);
        for (range, data) in state.volatile.drain(..) {
            apply(&mut state.durable, range, data.as_ref());
        }
        Ok(())
    }

    async fn read_back(&self, offset: u64, mut buffer: Buffer) -> Result<Buffer> {
        let range = ByteRange::at(offset, buffer.len() as u64);
        check_bounds("read back", "memory", range, self.size)?;
        let mut state = lock(&self.shared);
        state.calls.push(Call::ReadBack(range));
        state.seen.read(offset, &mut buffer);
        Ok(buffer)
    }

    fn ending(&self) {
        let mut state = lock(&self.shared);
        let calls = state.calls.len();
        state.ending.get_or_insert(calls);
    }

    async fn finalize(&self) -> Result<()> {
        lock(&self.shared).calls.push(Call::Finalize);
        Ok(())
    }
}

fn identity(name: &str, size: u64) -> Identity {
    Identity {
        id: name.replace(' ', ":"),
        size,
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{ByteRange, MemTarget, Target, Zeroing};
    use bytes::Bytes;
    use futures_util::FutureExt;

    #[test]
    fn a_crash_loses_what_was_not_flushed_and_nothing_else() {
        let disk = MemTarget::new(8);
        let write = |at, bytes: &'static [u8]| {
            disk.write(at, Bytes::from_static(bytes))
                .now_or_never()
                .unwrap()
                .unwrap();
        };
        write(0, b"aaaa");
        disk.flush().now_or_never().unwrap().unwrap();
        write(2, b"bbbb");
        let hole = ByteRange::new(0, 1);
        disk.zero(hole, Zeroing::Unmap)
            .now_or_never()
            .unwrap()
            .unwrap();
        assert_eq!(disk.bytes(), b"\0abbbb\0\0");
        disk.crash(|range| range == hole);
        assert_eq!(disk.bytes(), b"\0aaa\0\0\0\0");
    }
}
