//! Any endpoint, with faults on chosen calls: it fails, stalls, is slow or lies.

use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits};
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent};
use crate::source::Source;
use crate::target::{Target, Untouched, Zeroing};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::HashMap;
use std::future::pending;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What an endpoint can be asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Op {
    /// `Source::read`.
    Read,
    /// `Source::extents`.
    Extents,
    /// `Target::write`.
    Write,
    /// `Target::zero`.
    Zero,
    /// `Target::flush`.
    Flush,
    /// `Target::read_back`.
    ReadBack,
    /// `Target::finalize`.
    Finalize,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The call fails, and nothing is done.
    Error(Kind),
    /// The call never answers.
    Stall,
    /// The call is done late.
    Delay(Duration),
    /// The call says that it was done and was not: bytes differ by one bit, a range is called
    /// zero, a write or flush goes nowhere.
    Lie,
}

/// Which calls go wrong. Cloning shares the rules and the counts.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    rules: Vec<(Op, RangeInclusive<u64>, Fault)>,
    counts: HashMap<Op, u64>,
}

impl Faults {
    /// The `nth` call of `op`, counted from 1, goes wrong.
    pub fn on(&self, op: Op, nth: u64, fault: Fault) {
        self.during(op, nth..=nth, fault);
    }

    /// The calls of `op` with these numbers, counted from 1, go wrong.
    pub fn during(&self, op: Op, calls: RangeInclusive<u64>, fault: Fault) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.rules.push((op, calls, fault));
    }

    /// How often `op` was called.
    #[must_use]
    pub fn count(&self, op: Op) -> u64 {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.counts.get(&op).copied().unwrap_or(0)
    }

    /// Counts a call, makes it fail or wait; whether it shall lie.
    async fn meet(&self, op: Op) -> Result<bool> {
        let (count, fault) = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let count = state.counts.entry(op).or_insert(0);
            *count += 1;
            let count = *count;
            let mut rules = state.rules.iter();
            let rule = rules.find(|(of, calls, _)| *of == op && calls.contains(&count));
            (count, rule.map(|(_, _, fault)| *fault))
        };
        match fault {
            None => Ok(false),
            Some(Fault::Lie) => Ok(true),
            Some(Fault::Error(kind)) => {
                Err(Error::new(kind, format!("injected into {op:?} {count}")))
            }
            Some(Fault::Stall) => pending().await,
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                Ok(false)
            }
        }
    }
}

/// Changes one bit, if there is one.
fn spoil(buffer: &mut Buffer) {
    let middle = buffer.len() / 2;
    if let Some(byte) = buffer.get_mut(middle) {
        *byte ^= 1;
    }
}

/// A source with faults.
#[derive(Clone, Debug)]
pub struct FaultySource<S> {
    inner: S,
    faults: Faults,
}

impl<S: Source> FaultySource<S> {
    /// `inner` with `faults`.
    pub fn new(inner: S, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

#[async_trait]
impl<S: Source> Source for FaultySource<S> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let lie = self.faults.meet(Op::Read).await?;
        let mut buffer = self.inner.read(offset, buffer).await?;
        if lie {
            spoil(&mut buffer);
        }
        Ok(buffer)
    }

    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        if self.faults.meet(Op::Extents).await? {
            return Ok(vec![Extent::zero(range)]);
        }
        self.inner.extents(range).await
    }
}

/// A target with faults.
#[derive(Clone, Debug)]
pub struct FaultyTarget<T> {
    inner: T,
    faults: Faults,
}

impl<T: Target> FaultyTarget<T> {
    /// `inner` with `faults`.
    pub fn new(inner: T, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

#[async_trait]
impl<T: Target> Target for FaultyTarget<T> {
    fn capacity(&self) -> Option<u64> {
        self.inner.capacity()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn untouched(&self) -> Untouched {
        self.inner.untouched()
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        if self.faults.meet(Op::Write).await? {
            return Ok(());
        }
        self.inner.write(offset, data).await
    }

    async fn zero(&self, range: ByteRange, zeroing: Zeroing) -> Result<()> {
        if self.faults.meet(Op::Zero).await? {
            return Ok(());
        }
        self.inner.zero(range, zeroing).await
    }

    async fn flush(&self) -> Result<()> {
        if self.faults.meet(Op::Flush).await? {
            return Ok(());
        }
        self.inner.flush().await
    }

    fn can_read_back(&self) -> bool {
        self.inner.can_read_back()
    }

    async fn read_back(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let lie = self.faults.meet(Op::ReadBack).await?;
        let mut buffer = self.inner.read_back(offset, buffer).await?;
        if lie {
            spoil(&mut buffer);
        }
        Ok(buffer)
    }

    async fn is_hole(&self, range: ByteRange) -> Result<bool> {
        self.inner.is_hole(range).await
    }

    fn ending(&self) {
        self.inner.ending();
    }

    async fn finalize(&self) -> Result<()> {
        if self.faults.meet(Op::Finalize).await? {
            return Ok(());
        }
        self.inner.finalize().await
    }
}
