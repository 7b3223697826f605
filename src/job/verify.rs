//! Proves a target by itself: after a pass, between passes, or long after.

use super::context::Context;
use super::copy::{Outcome, now, open_manifest};
use super::open::{self, How};
use super::options::{JournalPlace, Tuning};
use super::place::find_target;
use super::prove::{Proof, Scope, recorded};
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::journal::{Begin, Journal, PassState, Record};
use crate::report::{Event, Ticker};
use std::time::Instant;

/// What `verify` compares.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// The disk that was copied to.
    pub target: Address,
    /// Where the record of the copy lives.
    pub journal: JournalPlace,
    /// Memory and requests.
    pub tuning: Tuning,
}

/// Compares all of a target with the manifest of the passes that wrote it.
///
/// # Errors
/// `Mismatch` if it differs; `Refused` if no complete pass is recorded.
pub async fn verify(options: &VerifyOptions, context: Context) -> Result<Outcome> {
    read_back(options, Scope::All, true, context).await
}

/// Proves what `scope` says, after a pass and before the next one.
///
/// It can be cut short at any moment; the same call goes on where it was.
///
/// # Errors
/// As for [`verify`].
pub async fn prove(options: &VerifyOptions, scope: Scope, context: Context) -> Result<Outcome> {
    read_back(options, scope, false, context).await
}

async fn read_back(
    options: &VerifyOptions,
    scope: Scope,
    anew: bool,
    context: Context,
) -> Result<Outcome> {
    let began = Instant::now();
    let (mut journal, id) = journal_of(&options.target, &options.journal)?;
    let manifest = open_manifest(&journal)?;
    let (begin, pass) = complete_pass(&journal, &id)?;
    let how = How {
        size: Some(begin.size),
        resuming: true,
        whole: true,
        ..How::default()
    };
    let target = open::target(&options.target, &options.tuning, &how, &context).await?;
    let proof = Proof {
        target: &target,
        manifest: &manifest,
        scope,
        size: begin.size,
        budget: &context.budget(&options.tuning),
        counters: &context.counters,
        requests: options.tuning.requests.min(16),
        rates: context.rates(&options.tuning),
        team: context.shared.team.clone(),
    };
    if scope == Scope::All && (anew || !journal.history().proving) {
        proof.forget()?;
        journal.append(&Record::Prove { at: now() })?;
    }
    context.tell(&Event::Verify {
        bytes: proof.left()?,
    });
    let ticker = Ticker::start(&context.reporter, context.counters.clone(), begin.size);
    let proof = proof.run(context.stop.clone()).await;
    recorded(proof, &context, |record| journal.append(record))?;
    drop(ticker);
    journal.append(&Record::Proven { at: now() })?;
    Ok(told(&context, &pass, begin.size, began))
}

fn told(context: &Context, pass: &PassState, size: u64, began: Instant) -> Outcome {
    let totals = context.counters.snapshot();
    context.tell(&Event::Done {
        pass: pass_name(pass),
        totals,
        size,
        elapsed: began.elapsed().as_secs_f64(),
        proven: true,
    });
    Outcome {
        totals,
        size,
        proven: true,
        distrusted: false,
    }
}

/// The journal of the passes onto a target, and the name by which it knows that.
///
/// # Errors
/// `Refused` if there is none, or somebody works with it.
pub(super) fn journal_of(target: &Address, place: &JournalPlace) -> Result<(Journal, String)> {
    let found = find_target(target, 0)?;
    let path = found.journal(place)?.filter(|path| path.exists());
    let path = path.ok_or_else(|| {
        let what = format!("no journal of {target} was found");
        Error::new(Kind::Refused, what).hint("name it with --journal PATH")
    })?;
    Ok((Journal::open(&path)?, found.identity.id))
}

/// What the journal is about, if its last pass is complete.
///
/// # Errors
/// `Refused` if it is not, if the target was given up, or if it is another target.
pub(super) fn complete_pass(journal: &Journal, target: &str) -> Result<(Begin, PassState)> {
    let history = journal.history();
    if let Some(why) = &history.incomplete {
        let what = format!("the target is labelled incomplete: {why}");
        return Err(Error::new(Kind::Refused, what).hint("complete a pass over it first"));
    }
    if history.adopted {
        let what = "some of the target was copied by somebody else and never compared";
        let error = Error::new(Kind::Refused, what);
        return Err(error.hint("a pass with --changes-since digest compares all of it"));
    }
    match (&history.begin, &history.last) {
        (Some(begin), _) if begin.target.id != target => {
            let what = format!("the journal is about another target, {}", begin.target.name);
            Err(Error::new(Kind::Refused, what))
        }
        (Some(begin), Some(pass)) if pass.complete => Ok((begin.clone(), pass.clone())),
        _ => Err(Error::new(
            Kind::Refused,
            "the last pass is not complete, so nothing is promised",
        )
        .hint("run the copy again first")),
    }
}

fn pass_name(pass: &PassState) -> &'static str {
    ["delta", "final"]
        .into_iter()
        .find(|name| *name == pass.begin.pass)
        .unwrap_or("full")
}
