//! One copy, from both ends open to both ends closed.

use super::ends::{self, About, From};
use super::options::{Ends, Options};
use super::progress::Shown;
use super::settle::{Settled, settle};
use super::text;
use crate::address::Address;
use crate::buffer::Budget;
use crate::cli::output;
use crate::error::{Error, Kind, Result};
use crate::job::{self, Context, Landing};
use crate::pipeline::counters::Counters;
use crate::pipeline::{self, Planned, RequestSize, Setup, Stop};
use crate::plan::{Done, Shape, steps, windows};
use crate::report::{Event, Reporter};
use crate::source::{Source, all_extents};
use crate::target::same::check_apart;
use crate::target::{Target, Zeroing};
use futures_util::stream::{self, Stream, StreamExt};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::available_parallelism;
use std::time::Duration;
use tokio::time::interval;

/// Work is planned, and zeroes are joined, in pieces of this many bytes.
const WINDOW: u64 = 128 << 20;

/// How often progress is looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// Copies as `options` say.
///
/// # Errors
/// Anything that failed: nothing is tried again.
pub(super) async fn copy(options: &Options, ends: &Ends) -> Result<()> {
    let cores = available_parallelism().map_or(1, usize::from);
    let cores = u32::try_from(cores).unwrap_or(1);
    let (from, source) = ends::source(options, ends, cores).await?;
    let (to, target) = ends::target(options, ends, cores).await?;
    check_ends(ends)?;
    let settled = settle(options, source.side, target.side, cores);
    // A regular file is made as long as the source; nothing else can be.
    let fixed = target.size.filter(|_| !matches!(to, ends::To::File(..)));
    if source
        .size
        .zip(fixed)
        .is_some_and(|(source, target)| source > target)
    {
        let error = Error::new(Kind::Refused, "error");
        return Err(error.because("destination size is smaller than source size"));
    }
    if options.verbose {
        tell(options, &source, &target, settled)?;
    }
    // A file is written in place and has nothing to complete; its flush is up to the user.
    let completes = !matches!(to, ends::To::File(..));
    let (disk, reads_zero) = to.open(&target, source.size).await?;
    let copy = Copy {
        options,
        settled,
        reads_zero: reads_zero || options.destination_is_zero,
        target: disk,
        counters: Arc::default(),
    };
    let shown = Shown::start(options.progress);
    let shown = match from {
        From::Disk(disk) => {
            let size = disk.size();
            let running = copy.disk(disk);
            copy.watch(running, shown, size).await?
        }
        From::Stream(mut stream) => {
            let (request, budget) = (copy.request(None), copy.budget());
            let mut context = Context {
                counters: copy.counters.clone(),
                ..Context::new(Arc::new(Silent), Stop::never())
            };
            let landing = Landing::plain(copy.target.clone());
            let running = job::copy_stream(&mut stream, &landing, &budget, request, &mut context);
            copy.watch(running, shown, 0).await?
        }
    };
    if options.flush {
        copy.target.flush().await?;
    }
    if completes {
        copy.target.finalize().await?;
    }
    if let Some(mut shown) = shown {
        shown.finish();
    }
    Ok(())
}

/// An export onto itself is right for the original: the server decides what becomes of it.
fn check_ends(ends: &Ends) -> Result<()> {
    match (&ends.source, &ends.target) {
        (Address::Nbd(_), Address::Nbd(_)) => Ok(()),
        (source, target) => check_apart(source, &[], target),
    }
}

/// nbdcopy tells of nothing but progress and failure.
struct Silent;

impl Reporter for Silent {
    fn event(&self, _event: &Event) {}
}

/// A copy whose target is open.
struct Copy<'a> {
    options: &'a Options,
    settled: Settled,
    reads_zero: bool,
    target: Arc<dyn Target>,
    counters: Arc<Counters>,
}

impl Copy<'_> {
    /// Copies a disk: what it says is zero is zeroed without being read.
    async fn disk(&self, source: Arc<dyn Source>) -> Result<()> {
        let shape = Shape {
            size: source.size(),
            grain: self.settled.request_size.into(),
            window: WINDOW,
            coalesce: 0,
        };
        let feed = feed(source.clone(), shape, self.options.extents);
        let request = self.request(Some(source.as_ref()));
        let setup = Setup {
            source,
            target: self.target.clone(),
            budget: self.budget(),
            counters: self.counters.clone(),
            requests: self.requests(),
            request_size: RequestSize::Fixed(u32::try_from(request).unwrap_or(u32::MAX)),
            grain: 1,
            sparse: self.settled.sparse,
            zeroing: if self.options.allocated && !self.options.destination_is_zero {
                Zeroing::Allocate
            } else {
                Zeroing::Unmap
            },
            reads_zero: self.reads_zero,
            known: None,
            rates: Vec::new(),
            share: None,
            size: shape.size,
            done: Done::default(),
            last: true,
        };
        pipeline::run(setup, feed, None, Stop::never()).await
    }

    /// Bytes of one request: what was settled, or less if an end takes no more at once.
    fn request(&self, source: Option<&dyn Source>) -> usize {
        let most = |max: u32| 1u32 << max.max(1).ilog2();
        let target = most(self.target.limits().max);
        let source = source.map_or(u32::MAX, |source| most(source.limits().max));
        let request = self.settled.request_size.min(source).min(target);
        usize::try_from(request).unwrap_or(1)
    }

    fn requests(&self) -> usize {
        let all = match self.settled.synchronous {
            true if self.options.synchronous => 1,
            // A stream is still read and written in order, only not one after the other.
            true => self.options.requests,
            false => self
                .options
                .requests
                .saturating_mul(self.settled.connections),
        };
        usize::try_from(all).unwrap_or(usize::MAX)
    }

    fn budget(&self) -> Budget {
        let bytes =
            u64::from(self.settled.queue_size).saturating_mul(self.settled.connections.into());
        Budget::new(
            usize::try_from(bytes).unwrap_or(usize::MAX),
            self.requests(),
        )
    }

    /// Shows progress while `running` runs.
    async fn watch<T>(
        &self,
        running: impl Future<Output = Result<T>>,
        mut shown: Option<Shown>,
        size: u64,
    ) -> Result<Option<Shown>> {
        let mut running = std::pin::pin!(running);
        let mut glances = interval(GLANCE);
        loop {
            tokio::select! {
                biased;
                ended = &mut running => {
                    ended?;
                    return Ok(shown);
                }
                _ = glances.tick(), if shown.is_some() => {
                    let position = self.counters.position.load(Ordering::Relaxed);
                    if let Some(shown) = &mut shown {
                        // 100 is said when it is over.
                        shown.show(position.min(size.saturating_sub(1)), size);
                    }
                }
            }
        }
    }
}

/// The windows of `source`, planned, in order.
fn feed(
    source: Arc<dyn Source>,
    shape: Shape,
    extents: bool,
) -> impl Stream<Item = Result<Planned>> + Send {
    stream::iter(windows(shape))
        .map(move |window| {
            let source = source.clone();
            async move {
                let known = match extents {
                    true => all_extents(source.as_ref(), window).await?,
                    false => Vec::new(),
                };
                let steps = steps(shape, window, &[window], &known);
                Ok(Planned {
                    window,
                    steps,
                    skipped: 0,
                })
            }
        })
        .buffered(2)
}

/// What `--verbose` adds.
fn tell(options: &Options, source: &About, target: &About, settled: Settled) -> Result<()> {
    let end = |prefix: &str, about: &About| {
        // An unknown size is -1, which nbdcopy also shows as the number that it is in 64 bits.
        let size = about.size.map_or("-1".to_owned(), |size| size.to_string());
        let human = text::size(about.size.unwrap_or(u64::MAX));
        format!(
            "nbdcopy: {prefix}: {} \"{}\"\nnbdcopy: {prefix}: size={size} ({human}), preferred \
             block size={}\n",
            about.ops, about.name, about.side.preferred
        )
    };
    let connections = settled.connections;
    let all = format!(
        "{}{}nbdcopy: connections={connections} requests={} threads={connections} synchronous={}\n",
        end("src", source),
        end("dst", target),
        options.requests,
        settled.synchronous
    );
    output::write(&mut io::stderr().lock(), all.as_bytes())
}
