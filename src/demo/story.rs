//! The order of things, and how it is told.

use super::content::{Noise, fill, layout};
use super::disk::blocking;
use super::guest::Guest;
use super::pass::{Pass, Ran, word};
use super::scratch::Scratch;
use super::{DemoOptions, LiveDisk, View, proof};
use crate::error::{Error, Kind, Result};
use crate::nbd::server::{Listen, Server, Settings};
use crate::report::{bytes, seconds};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// The name under which every snapshot is served: it is one disk, at different times.
const EXPORT: &str = "disk";

/// The first run is slowed down to take about so long, so that there is a middle to crash in.
const SLOW: u64 = 4;

/// How long the guest is left alone before each delta: then there is something to copy.
const IDLE: Duration = Duration::from_secs(1);

type Tell<'a> = &'a mut (dyn FnMut(&str) -> Result<()> + Send);

/// All that the story is about. Dropped top down: whoever writes goes before what is written to.
struct Stage<'a> {
    guest: Option<Guest>,
    server: Server,
    disk: LiveDisk,
    target: PathBuf,
    /// Words that every pass has, after its own.
    journal: Vec<String>,
    options: &'a DemoOptions,
    _scratch: Scratch,
}

/// From an empty directory to a proven copy.
pub(super) async fn tell(options: &DemoOptions, tell: Tell<'_>) -> Result<()> {
    let (mut stage, data) = set_up(options, tell).await?;
    let full = stage.full_pass(data, tell).await?;
    let mut passes = vec![("resumed", full)];
    for (name, old, new) in [("delta 1", 1, 2), ("delta 2", 2, 3)] {
        sleep(IDLE).await;
        let ran = stage.delta(name, old, Some(new), tell).await?;
        passes.push((name, ran));
    }
    tell("")?;
    tell("Cutover: the guest is stopped, what is left to copy is little.")?;
    let quiet = Instant::now();
    stage.stop_guest().await?;
    let last = stage.delta("final pass", 3, None, tell).await?;
    let downtime = quiet.elapsed();
    if !last.done.proven {
        let doing = "the final pass did not prove the target";
        return Err(Error::new(Kind::Mismatch, doing));
    }
    let proof = last.took.saturating_sub(last.copied);
    passes.push(("final", last));
    let compared = stage.prove().await?;
    sum_up(&passes, tell)?;
    let size = bytes(options.size);
    tell(&format!(
        "Downtime: {}, from the last write of the guest to a target that is complete, durable",
        fine(downtime)
    ))?;
    tell(&format!("and proven; {} of it was the proof.", fine(proof)))?;
    tell(&format!(
        "Compared by the demo itself, byte for byte: all {size} are equal ({}).",
        fine(compared)
    ))?;
    stage.server.stop().await;
    Ok(())
}

/// Makes the disk, serves it, and lets the guest begin.
async fn set_up<'a>(options: &'a DemoOptions, tell: Tell<'_>) -> Result<(Stage<'a>, u64)> {
    // Noise, text and zeroes on the disk, as much on the target, and what snapshots keep.
    let share = if options.target.is_some() { 1 } else { 2 };
    let room = options.size.saturating_mul(share);
    let scratch = Scratch::create(&options.directory, room)?;
    let disk = LiveDisk::create(scratch.path(), options.size)?;
    let began = Instant::now();
    let (filled, size, seed) = (disk.clone(), options.size, options.seed);
    let data = blocking("fill the demo's disk", move || {
        let mut noise = Noise::new(seed);
        let layout = layout(size, &mut noise);
        fill(&filled, &layout, &mut noise)
    });
    let data = data.await?;
    let socket = scratch.path().join("nbd.sock");
    let server = Server::start(&Listen::Unix(socket), Settings::default()).await?;
    tell(&format!(
        "A disk of {}: {} of noise and text, the rest zeroes and holes (made in {}).",
        bytes(options.size),
        bytes(data),
        fine(began.elapsed())
    ))?;
    tell(&format!(
        "Its snapshots are served at {}",
        server.place().uri(EXPORT, false)
    ))?;
    let (target, journal) = match &options.target {
        None => (scratch.path().join("target.img"), Vec::new()),
        Some(target) => {
            let journal = word(&scratch.path().join("journal"))?;
            (target.clone(), vec!["--journal".to_owned(), journal])
        }
    };
    let stage = Stage {
        guest: Some(Guest::start(disk.clone(), seed.wrapping_add(1))),
        server,
        disk,
        target,
        journal,
        options,
        _scratch: scratch,
    };
    tell("A guest writes to it all the time, 20 MB/s or so, until it is told to stop.")?;
    Ok((stage, data))
}

impl Stage<'_> {
    /// All of the disk, with a crash in the middle and the same command again.
    async fn full_pass(&mut self, data: u64, tell: Tell<'_>) -> Result<Ran> {
        let view = self.serve(None, Some(1))?;
        let rate = (data / SLOW).max(1 << 20) >> 20;
        let mut words = vec![format!("--rate={rate}M")];
        if self.options.overwrite {
            words.push("--overwrite".to_owned());
        }
        let pass = self.pass(&words)?;
        tell("")?;
        tell("Full pass, slowed down so that there is a middle in which to crash.")?;
        tell(&format!("  $ {}", pass.line()))?;
        let half = data / 2;
        let begun = pass.run_until(|_| view.served() >= half).await?;
        tell(&format!(
            "  killed with SIGKILL after {}, {} in. The same command again:",
            fine(begun.took),
            bytes(view.served())
        ))?;
        tell(&format!("  $ {}", pass.line()))?;
        let ran = pass.run().await?;
        tell(&format!(
            "  continued with {} done, {}",
            bytes(ran.start.resumed),
            outcome(&ran)
        ))?;
        Ok(ran)
    }

    /// What changed since the checkpoint `old`; `new` is where the next pass starts from.
    async fn delta(
        &mut self,
        name: &str,
        old: u32,
        new: Option<u32>,
        tell: Tell<'_>,
    ) -> Result<Ran> {
        let view = self.serve(Some(old), new)?;
        let mut words = vec![format!("--changes-since=nbd-bitmap:{}", bitmap(old))];
        if new.is_none() {
            words.push("--final".to_owned());
        }
        let pass = self.pass(&words)?;
        tell("")?;
        let changed = bytes(view.dirty());
        tell(&format!("{}: {changed} changed.", capital(name)))?;
        tell(&format!("  $ {}", pass.line()))?;
        let ran = pass.run().await?;
        tell(&format!("  {}", outcome(&ran)))?;
        Ok(ran)
    }

    /// In one moment: a snapshot, the bitmap that tells what led to it, and the next bitmap.
    fn serve(&self, old: Option<u32>, new: Option<u32>) -> Result<View> {
        let (old, new) = (old.map(bitmap), new.map(bitmap));
        let view = self.disk.checkpoint(old.as_deref(), new.as_deref())?;
        self.server.add(EXPORT, Arc::new(view.clone()))?;
        Ok(view)
    }

    fn pass(&self, options: &[String]) -> Result<Pass> {
        let mut words = vec![
            "copy".to_owned(),
            self.server.place().uri(EXPORT, false),
            word(&self.target)?,
        ];
        words.extend_from_slice(options);
        words.extend_from_slice(&self.journal);
        words.push("--json".to_owned());
        Ok(Pass {
            program: self.options.program.clone(),
            words,
        })
    }

    async fn stop_guest(&mut self) -> Result<()> {
        match self.guest.take() {
            Some(guest) => blocking("let the guest write", move || guest.stop()).await,
            None => Ok(()),
        }
    }

    /// Compares the disk, which nobody writes to any more, with the target.
    async fn prove(&self) -> Result<Duration> {
        let began = Instant::now();
        let view = self.disk.checkpoint(None, None)?;
        let (size, target) = (self.options.size, self.target.clone());
        let compared = spawn_blocking(move || proof::compare(&view, size, &target));
        let stopped = |_| Error::new(Kind::Interrupted, "compare");
        compared.await.map_err(stopped)??;
        Ok(began.elapsed())
    }
}

/// The name of the bitmap that begins with the checkpoint `number`.
fn bitmap(number: u32) -> String {
    format!("pass-{number}")
}

fn capital(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(rest).collect()
}

/// How a run went, in half a sentence.
fn outcome(ran: &Ran) -> String {
    let done = &ran.done;
    let proven = match done.proven {
        true => format!(", {} read back and proven", bytes(done.verified)),
        false => String::new(),
    };
    format!(
        "{} read, {} written, {} zeroed, {} skipped{proven}: done in {}",
        bytes(done.read),
        bytes(done.written),
        bytes(done.zeroed),
        bytes(done.skipped),
        fine(ran.took)
    )
}

/// A table of the passes; of the full one, the run that ended it.
fn sum_up(passes: &[(&str, Ran)], tell: Tell<'_>) -> Result<()> {
    tell("")?;
    let row = |cells: [&str; 6]| {
        let [name, rest @ ..] = cells;
        let rest: Vec<String> = rest.iter().map(|cell| format!("{cell:>12}")).collect();
        format!("{name:<8}{}", rest.join(""))
    };
    tell(&row([
        "pass", "read", "written", "zeroed", "time", "read/s",
    ]))?;
    for (name, ran) in passes {
        let pace = pace(ran.done.read, ran.copied);
        tell(&row([
            name,
            &bytes(ran.done.read),
            &bytes(ran.done.written),
            &bytes(ran.done.zeroed),
            &fine(ran.took),
            &bytes(pace),
        ]))?;
    }
    tell("")
}

/// Bytes per second.
fn pace(count: u64, time: Duration) -> u64 {
    let per_milli = u128::from(count).saturating_mul(1000);
    let pace = per_milli.checked_div(time.as_millis().max(1)).unwrap_or(0);
    u64::try_from(pace).unwrap_or(u64::MAX)
}

/// A time with two decimals, where it is short enough for them to matter.
fn fine(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.2} s", time.as_secs_f64()),
        _ => seconds(time),
    }
}
