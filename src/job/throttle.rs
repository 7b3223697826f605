//! What is read keeps to the limits on bytes per second, whoever reads it.
//!
//! The pipeline waits by itself, before it asks. This is for everybody else: what is read forward, and
//! disks that are read and not copied.

use super::options::Tuning;
use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits, ServedBy};
use crate::error::Result;
use crate::extent::{ByteRange, Extent};
use crate::pipeline::RateLimit;
use crate::pipeline::counters::Counters;
use crate::source::Source;
use crate::source::stream::ByteStream;
use async_trait::async_trait;
use futures_util::FutureExt;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Limits on what is read of any number of disks together.
#[derive(Clone, Debug, Default)]
pub struct Throttle {
    rates: Vec<RateLimit>,
    /// Where it is counted how long they were waited for.
    counters: Arc<Counters>,
}

impl Throttle {
    /// All of these limits.
    #[must_use]
    pub fn new(rates: Vec<RateLimit>, counters: Arc<Counters>) -> Self {
        Self { rates, counters }
    }

    /// The limit that a user wants.
    #[must_use]
    pub fn of(tuning: &Tuning) -> Self {
        let rate = tuning.rate.map(|rate| RateLimit::new(Some(rate)));
        Self::new(rate.into_iter().collect(), Arc::default())
    }

    /// `stream`, as fast as it may come.
    pub(super) fn stream(&self, stream: Box<dyn ByteStream>) -> Box<dyn ByteStream> {
        match self.rates.is_empty() {
            true => stream,
            false => Box::new(Throttled::new(stream, self)),
        }
    }

    /// `source`, read as fast as it may be.
    #[must_use]
    pub fn source(&self, source: Arc<dyn Source>) -> Arc<dyn Source> {
        match self.rates.is_empty() {
            true => source,
            false => Arc::new(Throttled::new(source, self)),
        }
    }

    /// Waits in a task of its own: who has the turn must go on also while whoever reads looks at
    /// another disk, which wants a turn as well.
    async fn pass(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let this = self.clone();
        let mut pass = Box::pin(async move {
            RateLimit::pass_all(&this.rates, bytes, &this.counters).await;
        });
        if (&mut pass).now_or_never().is_some() {
            return;
        }
        // Ends the task if nobody waits for it any more.
        let mut waiting = JoinSet::new();
        waiting.spawn(pass);
        waiting.join_next().await;
    }
}

#[derive(Debug)]
struct Throttled<T> {
    inner: T,
    throttle: Throttle,
}

impl<T> Throttled<T> {
    fn new(inner: T, throttle: &Throttle) -> Self {
        Self {
            inner,
            throttle: throttle.clone(),
        }
    }
}

#[async_trait]
impl ByteStream for Throttled<Box<dyn ByteStream>> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn left(&self) -> Option<u64> {
        self.inner.left()
    }

    /// Waits when it has the bytes: before, nobody knows how many will come.
    async fn next(&mut self, buffer: Buffer) -> Result<Option<Buffer>> {
        let next = self.inner.next(buffer).await?;
        if let Some(bytes) = &next {
            self.throttle.pass(bytes.len()).await;
        }
        Ok(next)
    }
}

#[async_trait]
impl Source for Throttled<Arc<dyn Source>> {
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
        self.throttle.pass(buffer.len()).await;
        self.inner.read(offset, buffer).await
    }

    async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        self.inner.extents(range).await
    }

    fn ending(&self) {
        self.inner.ending();
    }

    fn served_by(&self) -> Option<ServedBy> {
        self.inner.served_by()
    }
}

#[cfg(test)]
mod tests {
    use super::{Throttle, Throttled};
    use crate::buffer::Buffer;
    use crate::pipeline::RateLimit;
    use crate::source::Source;
    use crate::testkit::{MemSource, MemStream, check_source};
    use futures_util::FutureExt;
    use std::sync::Arc;
    use std::time::Duration;

    fn throttle(rate: Option<u64>) -> (Throttle, RateLimit) {
        let limit = RateLimit::new(rate);
        (Throttle::new(vec![limit.clone()], Arc::default()), limit)
    }

    #[tokio::test]
    async fn the_limit_is_asked_for_every_byte_and_by_all_together() {
        let (throttle, limit) = throttle(None);
        let mut stream = throttle.stream(Box::new(MemStream::new(&[7; 3000])));
        let buffer = || Buffer::unbudgeted(1024);
        while stream.next(buffer()).await.unwrap().is_some() {}
        assert_eq!(limit.passed(), 3000);
        let source = throttle.source(Arc::new(MemSource::holding(&[7; 4096])));
        source.read(0, buffer()).await.unwrap();
        source.read(2048, buffer()).await.unwrap();
        assert_eq!(limit.passed(), 3000 + 2048);
    }

    #[tokio::test]
    async fn a_disk_that_is_throttled_is_a_source_like_any_other() {
        let bytes: Vec<u8> = (0..4 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
        let disk: Arc<dyn Source> = Arc::new(MemSource::holding(&bytes));
        let throttled = Throttled::new(disk, &throttle(None).0);
        assert_eq!(check_source(&throttled, &bytes).await, Ok(()));
    }

    #[tokio::test]
    async fn a_read_that_nobody_looks_at_does_not_keep_others_from_theirs() {
        let (throttle, limit) = throttle(Some(1));
        let source = throttle.source(Arc::new(MemSource::holding(&[7; 4096])));
        let buffer = || Buffer::unbudgeted(1024);
        source.read(0, buffer()).await.unwrap();
        let mut first = source.read(0, buffer());
        let mut second = source.read(0, buffer());
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        limit.set(None);
        // The first has the turn, or is next, and is not looked at.
        let patience = tokio::time::timeout(Duration::from_secs(20), second);
        patience.await.expect("it went on").unwrap();
        first.await.unwrap();
    }

    #[tokio::test]
    async fn what_comes_too_fast_waits() {
        let (throttle, _) = throttle(Some(1));
        let mut stream = throttle.stream(Box::new(MemStream::new(&[7; 3000])));
        let source = throttle.source(Arc::new(MemSource::holding(&[7; 4096])));
        let buffer = || Buffer::unbudgeted(1024);
        assert!(stream.next(buffer()).now_or_never().is_some());
        assert!(stream.next(buffer()).now_or_never().is_none());
        assert!(source.read(0, buffer()).now_or_never().is_none());
    }
}
