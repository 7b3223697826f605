//! Opens both ends and the journal, and decides how the pass starts. Nothing is written yet.

use super::context::Context;
use super::copy::{Job, Outcome};
use super::decide::{Start, Wanted, decide};
use super::incoming::{self, Ask, Incoming};
use super::open::{self, How, Opened};
use super::options::{Baseline, CopyOptions, ImageFormat, JournalPlace};
use super::place::find_target;
use super::untracked::{Telling, cannot_tell};
use crate::changes::Tracker;
use crate::endpoint::Identity;
use crate::error::{Error, Kind, Result};
use crate::journal::{History, Journal};
use crate::source::http::BrokenOff;
use crate::target::same::check_apart;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// One attempt at a pass; `restart` forgets what earlier ones did.
///
/// # Errors
/// As for [`copy`](super::copy).
pub(super) async fn attempt(
    options: &CopyOptions,
    context: Context,
    restart: bool,
) -> Result<Outcome> {
    let began = Instant::now();
    check_image_target(options)?;
    let stop = context.stop.clone();
    if let Some(incoming) = stop.interrupts(coming(options, &context)).await? {
        let copied = forward(incoming, options, context).await;
        return copied.map_err(|error| for_good(error, options));
    }
    // A server that takes connections and says nothing must not hold up an end that is asked for.
    let opened = context
        .stop
        .clone()
        .interrupts(opened(options, &context))
        .await?;
    check_apart(&options.source, &opened.files, &options.target)?;
    let found = find_target(&options.target, opened.source.size())?;
    // An image gets its header last: one that was cut short cannot be continued.
    let place = match options.making.format {
        ImageFormat::Raw => &options.journal,
        _ => &JournalPlace::None,
    };
    let path = found.journal(place)?;
    let journal = path.map(|path| journal_at(&path, restart)).transpose()?;
    // What an earlier run did is forgotten only once every check has passed.
    let nothing = History::default();
    let history = journal
        .as_ref()
        .filter(|_| !restart)
        .map_or(&nothing, Journal::history);
    let start = begin(options, &opened, &found.identity, journal.as_ref(), history)?;
    let number = number(&start, history);
    let how = how(options, &opened, &start, history);
    let target = open::target(&options.target, &options.tuning, &how, &context).await?;
    let adopted = adopted(&start, history);
    let (whole, proving) = (history.whole || adopted, history.proving);
    let distrusted = distrusted(&start, history);
    let job = Job {
        options,
        budget: context.budget(&options.tuning),
        context,
        identity: found.identity,
        number,
        whole,
        adopted,
        proving,
        distrusted,
        seed: seed(history),
        start,
        journal: journal.map(|journal| Arc::new(Mutex::new(journal))),
        opened,
        target,
        began,
    };
    job.run().await
}

/// How the target is opened for a pass that starts like this.
fn how(options: &CopyOptions, opened: &Opened, start: &Start, history: &History) -> How {
    How {
        overwrite: options.overwrite,
        size: Some(opened.source.size()),
        resuming: *start != Start::Fresh,
        // A delta stands on a whole disk; without a journal the user says so.
        whole: number(start, history) > 1
            || history.adopted
            || matches!(start, Start::Finished | Start::Next { .. } | Start::Adopt),
        done: match start {
            Start::Resume { done, .. } => done.bytes(),
            _ => 0,
        },
        probe: history.probe.clone(),
        making: options.making.clone(),
    }
}

/// The journal, also a damaged one if it is to begin anew.
fn journal_at(path: &Path, restart: bool) -> Result<Journal> {
    match restart {
        true => Journal::open_anew(path),
        false => Journal::open(path),
    }
}

/// Copies what can only be read forward.
async fn forward(incoming: Incoming, options: &CopyOptions, context: Context) -> Result<Outcome> {
    match incoming {
        _ if options.making.format != ImageFormat::Raw => {
            super::laid::run(incoming, options, context).await
        }
        Incoming::Vmdk(stream) => super::forward::run(stream, options, context).await,
        Incoming::Raw(stream) => super::stream::run(stream, options, context).await,
    }
}

/// Bytes of the disk that a copy would find; `None` if only its end tells. What has to be unpacked
/// into scratch space is, and stays there for the copy.
///
/// # Errors
/// As for [`copy`](super::copy()).
pub async fn size(options: &CopyOptions, context: &Context) -> Result<Option<u64>> {
    match coming(options, context).await? {
        Some(_) => Ok(None),
        None => Ok(Some(opened(options, context).await?.source.size())),
    }
}

/// The source, if it can only be read forward and that is enough.
pub(super) async fn coming(options: &CopyOptions, context: &Context) -> Result<Option<Incoming>> {
    let retried = context.counters.retries.clone();
    let ask = |files| Ask {
        source: &options.source,
        reading: &options.reading,
        client: open::client_options(&options.source, &options.tuning, retried.clone()),
        files,
        reporter: Some(&context.reporter),
        tally: context.counters.tally.clone(),
        throttle: context.throttle(&options.tuning),
    };
    if incoming::is_enough(options) {
        return incoming::find(ask(true)).await;
    }
    incoming::hold(ask(true)).await?;
    incoming::find(ask(false)).await
}

/// The source, and its tracker.
async fn opened(options: &CopyOptions, context: &Context) -> Result<Opened> {
    let opened = open::source(options, &context.counters).await;
    let tracked = !matches!(options.pass.changes_since, None | Some(Baseline::Digest));
    if !context.steered || !tracked {
        return opened;
    }
    // Whether it is the source or its tracker that is not as it must be, shows when the source is
    // opened without.
    let mut opened = opened.map_err(cannot_tell)?;
    opened.tracker = opened
        .tracker
        .map(|tracker| Arc::new(Telling(tracker)) as Arc<dyn Tracker>);
    Ok(opened)
}

/// For good, whatever failed: what was read is gone, and the rest is not the disk. Unless a server broke
/// off, which can be asked for all of it anew, and nothing is left of what was written of it.
fn for_good(error: Error, options: &CopyOptions) -> Error {
    if error.caused_by::<BrokenOff>().is_some() && open::leaves_nothing(options) {
        return error.with_kind(Kind::Transient);
    }
    match error.kind() {
        Kind::Transient => error.with_kind(Kind::Io),
        _ => error,
    }
}

/// Refuses what cannot be done with a target that is made as an image.
fn check_image_target(options: &CopyOptions) -> Result<()> {
    if options.making.format == ImageFormat::Raw {
        return Ok(());
    }
    if options.pass.changes_since.is_some() {
        let what = "a delta cannot be written into an image that is there";
        return Err(Error::new(Kind::Unsupported, what).hint("deltas go onto a raw disk"));
    }
    Ok(())
}

/// How this pass starts, by the journal or without one.
pub(super) fn begin(
    options: &CopyOptions,
    opened: &Opened,
    target: &Identity,
    journal: Option<&Journal>,
    history: &History,
) -> Result<Start> {
    let source = opened.source.identity();
    let wanted = Wanted {
        pass: &options.pass,
        source: &source,
        target,
        digest: options.digest,
        adopt: options.adopt,
    };
    match journal {
        Some(journal) => decide(history, &wanted)
            .map_err(|error| error.context(format!("journal {}", journal.path().display()))),
        None if options.pass.changes_since.is_some()
            && options.journal == JournalPlace::Default =>
        {
            let what = format!("nothing records what {target} holds, and a delta builds on that");
            let hint = "name a journal with --journal, or take it on trust with --no-journal";
            Err(Error::new(Kind::Refused, what).hint(hint))
        }
        None if options.pass.changes_since == Some(Baseline::Digest) => {
            let what = "a pass by digests compares with the journal of the passes before it";
            Err(Error::new(Kind::Refused, what).hint("leave out --no-journal"))
        }
        // Without a journal a delta is taken on trust.
        None if options.pass.changes_since.is_some() => Ok(Start::Next { number: 1 }),
        None => Ok(Start::Fresh),
    }
}

/// Whether the passes build on a copy of somebody else's.
pub(super) fn adopted(start: &Start, history: &History) -> bool {
    history.adopted || *start == Start::Adopt
}

/// Whether the run that is gone on with caught its tracker.
pub(super) fn distrusted(start: &Start, history: &History) -> bool {
    let last = history.last.as_ref().filter(|pass| !pass.complete);
    matches!(start, Start::Resume { .. }) && last.is_some_and(|pass| pass.distrusted)
}

/// A number that stays with the journal.
pub(super) fn seed(history: &History) -> u64 {
    let id = history.begin.as_ref().map_or("", |begin| begin.id.as_str());
    let hash = blake3::hash(id.as_bytes());
    hash.as_bytes()
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

pub(super) fn number(start: &Start, history: &History) -> u32 {
    match start {
        Start::Fresh | Start::Adopt => 1,
        Start::Next { number } | Start::Resume { number, .. } => *number,
        Start::Finished => history.last.as_ref().map_or(1, |pass| pass.begin.number),
    }
}
