//! SIGINT and SIGTERM → an orderly end; a second one → an end at once.

use crate::error::{Error, Kind, Result};
use crate::pipeline::{Stop, Stopper};
use std::process;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A stop that is asked for by SIGINT or SIGTERM.
///
/// # Errors
/// The signals cannot be waited for.
pub(super) fn on_signals() -> Result<Stop> {
    let (stopper, stop) = Stopper::new();
    let mut interrupt = wait_for(SignalKind::interrupt())?;
    let mut terminate = wait_for(SignalKind::terminate())?;
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        stopper.stop();
        either(&mut interrupt, &mut terminate).await;
        // As safe as a power cut: what the journal says is done is done.
        process::exit(Kind::Interrupted.exit_code().into());
    });
    Ok(stop)
}

fn wait_for(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Error::io("wait for signals", error))
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
