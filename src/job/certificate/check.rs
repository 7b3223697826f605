//! A target against what is certified of it, with nothing else at hand.

use super::issue::written;
use super::{Certificate, DiskCertificate};
use crate::address::Address;
use crate::buffer::{Budget, Buffer};
use crate::digest::{BLOCK, Content};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::job::context::Context;
use crate::job::open;
use crate::job::options::{Reading, Tuning};
use crate::pipeline::counters::Counters;
use crate::plan::{Shape, windows};
use crate::report::{Event, Ticker};
use crate::source::Source;
use futures_util::stream::{self, StreamExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Bytes of one read. Several blocks, so that the device streams.
const READ: u64 = 1 << 20;

/// What is checked.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// The certificate.
    pub certificate: PathBuf,
    /// Where its disks are now, in its order; empty if they are where they were.
    pub targets: Vec<Address>,
    /// Memory and requests.
    pub tuning: Tuning,
}

/// Reads the disks of a certificate, all of them, and compares each with what it says.
///
/// Opens them for reading only, so that they may be in use; what changed them since shows.
///
/// # Errors
/// `Mismatch` if a disk differs; or one cannot be read, or the certificate.
pub async fn check(options: &CheckOptions, context: Context) -> Result<Certificate> {
    let began = Instant::now();
    let certificate = Certificate::read(&options.certificate)?;
    let disks = pair(&certificate, &options.targets)?;
    let size = disks
        .iter()
        .fold(0u64, |sum, (disk, _)| sum.saturating_add(disk.size));
    context.tell(&Event::Verify { bytes: size });
    let ticker = Ticker::start(&context.reporter, context.counters.clone(), size);
    let mut differing = Vec::new();
    for (disk, address) in &disks {
        let found = read(disk, address, options, &context).await;
        let found = found.map_err(|error| error.context(format!("disk {}", disk.name)))?;
        if found != disk.digest {
            differing.push(format!("{} holds {found} and not {}", address, disk.digest));
        }
    }
    drop(ticker);
    if !differing.is_empty() {
        let what = format!("not what the certificate says: {}", differing.join("; "));
        return Err(Error::new(Kind::Mismatch, what)
            .hint("it was written to since, or its storage lost writes"));
    }
    context.tell(&Event::Done {
        pass: "final",
        totals: context.counters.snapshot(),
        size,
        elapsed: began.elapsed().as_secs_f64(),
        proven: true,
    });
    Ok(certificate)
}

/// Each disk of the certificate and where it is now.
fn pair<'a>(
    certificate: &'a Certificate,
    targets: &[Address],
) -> Result<Vec<(&'a DiskCertificate, Address)>> {
    let disks = &certificate.disks;
    if targets.is_empty() {
        let there = |disk: &'a DiskCertificate| Ok((disk, disk.target.name.parse()?));
        return disks.iter().map(there).collect();
    }
    if targets.len() != disks.len() {
        let names: Vec<_> = disks.iter().map(|disk| disk.name.as_str()).collect();
        let what = format!(
            "the certificate is about {} disks and {} were named",
            disks.len(),
            targets.len()
        );
        return Err(Error::new(Kind::Usage, what)
            .hint(format!("name them in this order: {}", names.join(", "))));
    }
    Ok(disks.iter().zip(targets.iter().cloned()).collect())
}

/// The digest of what a disk holds now.
async fn read(
    disk: &DiskCertificate,
    address: &Address,
    options: &CheckOptions,
    context: &Context,
) -> Result<String> {
    let reading = Reading {
        format: Some("raw".to_owned()),
        ..Reading::default()
    };
    let opened = open::any_source(address, &reading, &options.tuning, Vec::new()).await?;
    let source = context.throttle(&options.tuning).source(opened.source);
    if source.size() < disk.size {
        let what = format!(
            "{address} has {} bytes, and {} are certified",
            source.size(),
            disk.size
        );
        return Err(Error::new(Kind::Mismatch, what));
    }
    let shape = Shape {
        size: disk.size,
        grain: BLOCK,
        window: READ,
        coalesce: 0,
    };
    let budget = context.budget(&options.tuning);
    let mut reads = stream::iter(windows(shape))
        .map(|range| read_one(&source, &budget, range))
        .buffered(options.tuning.requests.min(16));
    let mut content = Content::new(disk.algorithm);
    let mut stop = context.stop.clone();
    let block = usize::try_from(BLOCK).unwrap_or(usize::MAX);
    loop {
        let data = tokio::select! {
            biased;
            () = stop.requested() => {
                return Err(Error::new(Kind::Interrupted, "stopped while a disk was checked"));
            }
            data = reads.next() => data,
        };
        let Some((range, data)) = data.transpose()? else {
            break;
        };
        for block in data.get(..length(range)).unwrap_or(&data).chunks(block) {
            content.block(disk.algorithm.digest(block));
        }
        Counters::add(&context.counters.verified, range.len());
    }
    Ok(written(disk.algorithm, content.finish(disk.size)))
}

/// Reads what a range of the disk needs; the end of it may have to be read in whole sectors of a
/// larger one.
async fn read_one(
    source: &Arc<dyn Source>,
    budget: &Budget,
    range: ByteRange,
) -> Result<(ByteRange, Buffer)> {
    let wider = range.align_out(source.limits().align.into(), source.size());
    let buffer = budget.take(length(wider)).await;
    let data = source.read(wider.start, buffer).await?;
    match data.len() == length(wider) {
        true => Ok((range, data)),
        false => {
            let what = "the disk was not read in full";
            Err(Error::new(Kind::Corrupt, what).at(range.start))
        }
    }
}

fn length(range: ByteRange) -> usize {
    usize::try_from(range.len()).unwrap_or(usize::MAX)
}
