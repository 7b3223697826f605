//! A migration in this process: take the directory, listen, drive, and tell how it ended.

use super::book::{self, Book};
use super::claim;
use super::control::{self, Request};
use super::drive::{Scene, Wish, drive};
use super::metrics;
use super::plan::{Plan, show_moment};
use super::record::Record;
use super::status::Status;
use super::store::Store;
use crate::error::{Error, Kind, Result};
use crate::journal::unique_id;
use crate::pipeline::Stop;
use crate::report::{Event, Flight, Reporter, serve_metrics};
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How a migration is run.
#[derive(Debug)]
pub struct RunOptions {
    /// The job directory.
    pub directory: PathBuf,
    /// An older migration of this directory that is over is put aside, and a new one begins.
    pub restart: bool,
    /// What is wished for before anything is done.
    pub first: Option<Request>,
    /// The last seconds of the log, for a report if it fails.
    pub flight: Flight,
}

/// Migrates as `plan` says, from wherever an earlier process left it.
///
/// `nudges` are wishes that come by other ways than the control socket.
///
/// # Errors
/// See [`Kind`]; everything is kept, and the same call goes on from there.
pub async fn run(
    plan: Plan,
    options: &RunOptions,
    reporter: Arc<dyn Reporter>,
    stop: Stop,
    mut nudges: mpsc::Receiver<Request>,
) -> Result<()> {
    let store = Store::open(&options.directory)?;
    let record = begin(&plan, &store, options.restart)?;
    if let Some(over) = over(&record, options.first) {
        return over;
    }
    let _claimed = claim::targets(&plan)?;
    // Whoever steers it by its directory alone reads the plan there.
    store.replace("plan.yaml", plan.text.as_bytes())?;
    let scene = Arc::new(Scene::new(plan, Book::new(store, record)?, reporter));
    let (wishes, mut wished) = mpsc::channel(16);
    if let Some(event) = options.first.and_then(Request::event) {
        let first = Wish {
            event,
            answer: None,
        };
        // There is room: nobody else has a sender yet.
        let _ = wishes.try_send(first);
    }
    let listening = control::serve(&scene, wishes.clone())?;
    let forwarding = async {
        while let Some(nudge) = nudges.recv().await {
            let wish = nudge.event().map(|event| Wish {
                event,
                answer: None,
            });
            if let Some(wish) = wish {
                let _ = wishes.send(wish).await;
            }
        }
        pending::<()>().await;
    };
    let serving = serve(&scene).await?;
    let end = tokio::select! {
        end = drive(&scene, &mut wished, stop) => end,
        () = listening => Ok(()),
        () = forwarding => Ok(()),
        () = serving => Ok(()),
    };
    match end {
        Ok(()) => tell_end(&scene),
        Err(error) if error.kind() == Kind::Interrupted => return Err(error),
        Err(error) => {
            report_failure(&scene, &error, &options.flight);
            return Err(error);
        }
    }
    Ok(())
}

/// Serves metrics, if the plan wants them.
async fn serve(scene: &Arc<Scene>) -> Result<impl Future<Output = ()> + use<>> {
    let serving = match scene.plan.metrics {
        None => None,
        Some(address) => {
            let pages = scene.clone();
            let (place, serving) = serve_metrics(address, move || metrics::page(&pages)).await?;
            tracing::info!(%place, "metrics are served");
            Some(serving)
        }
    };
    Ok(async move {
        match serving {
            Some(serving) => serving.await,
            None => pending().await,
        }
    })
}

/// What is recorded in the directory, or a migration that begins now.
fn begin(plan: &Plan, store: &Store, restart: bool) -> Result<Record> {
    let fresh = || Record::new(plan, unique_id(), book::now());
    let Some(record) = store.load()? else {
        return Ok(fresh());
    };
    if !restart {
        if record.has_made_nothing() {
            let state = record.state;
            return Ok(Record { state, ..fresh() });
        }
        record.fits(plan)?;
        return Ok(record);
    }
    if !record.state.is_over() && record.pass.point > 0 {
        let what = format!(
            "the migration in {} is not over",
            store.directory().display()
        );
        return Err(Error::new(Kind::Refused, what)
            .hint("diskferry cancel removes what it made on the source; then --restart"));
    }
    store.put_aside(book::now() / 1000)?;
    Ok(fresh())
}

/// What there is to say of a migration that is over.
fn over(record: &Record, first: Option<Request>) -> Option<Result<()>> {
    if !record.state.is_over() {
        return None;
    }
    let cancelled = record.outage.is_none_or(|outage| outage.ended.is_none());
    match (cancelled, first) {
        (true, Some(Request::Cancel)) | (false, None) => Some(Ok(())),
        (true, _) => Some(Err(Error::new(
            Kind::Refused,
            "this migration was cancelled",
        )
        .hint("--restart begins another one"))),
        (false, Some(_)) => Some(Err(Error::new(Kind::Refused, "this migration is done"))),
    }
}

fn tell_end(scene: &Scene) {
    let record = scene.book.record();
    let Some(outage) = record.outage.filter(|outage| outage.ended.is_some()) else {
        return;
    };
    let seconds = |millis: u64| Duration::from_millis(millis).as_secs_f64();
    let took = outage.quiet.zip(outage.ended);
    scene.reporter.event(&Event::Migrated {
        vm: record.vm,
        certificate: scene
            .book
            .directory()
            .join("certificate.json")
            .display()
            .to_string(),
        outage: took.map(|(quiet, ended)| seconds(ended.saturating_sub(quiet))),
        expected_outage: outage.expected.map(seconds),
    });
}

/// Writes what went before a failure, for whoever looks into it.
fn report_failure(scene: &Scene, error: &Error, flight: &Flight) {
    let record = scene.book.record();
    let status = Status::of(&record, Some(&scene.board.live()));
    let state = serde_json::to_string_pretty(&record.state).unwrap_or_default();
    let text = format!(
        "diskferry {}: migration of {} failed at {}\n{}\n\n{}\nState:\n{state}\n\n\
         Log:\n{}",
        env!("CARGO_PKG_VERSION"),
        record.vm,
        show_moment(book::clock() / 1000),
        error.line(),
        status.table(),
        flight.text()
    );
    if let Err(error) = scene.book.store.replace("failure.txt", text.as_bytes()) {
        scene.warn(format!("no report of the failure: {}", error.line()));
    }
}

/// Records a wish for the process that will drive next, if none does now.
///
/// # Errors
/// `Refused`: it cannot be wished for. `Transient`: a process drives, which has just begun or is
/// about to end.
pub fn record_wish(plan: &Plan, directory: &Path, request: Request) -> Result<()> {
    let store = match Store::open(directory) {
        Err(error) if error.kind() == Kind::Refused => {
            return Err(Error::new(Kind::Transient, "record the wish").because(error));
        }
        opened => opened?,
    };
    let Some(mut record) = store.load()? else {
        let what = format!("there is no migration in {}", directory.display());
        return Err(Error::new(Kind::Refused, what));
    };
    let Some(event) = request.event() else {
        return Ok(());
    };
    let next = record.state.on(&plan.rules(), event);
    let next = next.map_err(|refusal| Error::new(Kind::Refused, refusal.to_string()))?;
    record.turn(next, book::now());
    store.save(&record)
}
