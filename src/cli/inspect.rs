//! `diskferry inspect`: what a disk is, what is on it, and what could track its changes.

mod coming;
mod exports;

use super::copy::place;
use super::open::ImageOptions;
use super::output::{self, Output};
use super::speed::Speed;
use super::{Command, inspect_vm, open, words};
use crate::address::Address;
use crate::buffer::Buffer;
use crate::endpoint::Limits;
use crate::error::Result;
use crate::extent::ByteRange;
use crate::format::Facts;
use crate::job::options::{JournalPlace, Reading};
use crate::job::{self, Standing};
use crate::report;
use crate::source::Source;
use crate::sys::sysfs::Device;
use crate::target::partitions::{self, Partition};
use crate::target::signature;
use crate::vsphere::locator::{self, Locator};
use clap::Args;
use exports::{ExportFacts, Server, export_facts, trackers};
use serde::Serialize;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Show what a disk or a VM is, what is on it, and what could track its changes
#[derive(Args, Clone, Debug)]
pub(super) struct Inspect {
    /// The disk: a path, an NBD URI or [ CMD ARGS ]; or a VM: vsphere://USER@HOST/VM
    #[arg(value_parser = subject)]
    source: Subject,

    /// Where the journal of a copy onto it is, if it was put somewhere: by `migrate`, in its directory
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,

    #[command(flatten)]
    image: ImageOptions,

    #[command(flatten)]
    speed: Speed,
}

/// What can be looked at.
#[derive(Clone, Debug)]
enum Subject {
    Disk(Address),
    Vm(Locator),
}

fn subject(word: &str) -> Result<Subject, String> {
    if word.starts_with(locator::SCHEME) {
        let vm = word.parse::<Locator>();
        return vm.map(Subject::Vm).map_err(|error| error.line());
    }
    words::address(word).map(Subject::Disk)
}

/// What was found out. This is the JSON that is printed; `docs/reference.md` has its fields.
#[derive(Debug, Serialize)]
struct Found {
    address: String,
    kind: &'static str,
    /// `None` of what comes in order and does not tell.
    size: Option<u64>,
    /// Bytes that the file takes of its file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<Requests>,
    /// What the image says of itself, unless the disk is raw.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Facts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<BlockSizes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    export: Option<ExportFacts>,
    /// Other exports of the same server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exports: Vec<String>,
    /// What is on the disk, in words, as far as its signatures tell.
    content: Option<&'static str>,
    /// Sector size that its GPT counts in.
    gpt_sector: Option<u32>,
    /// Its partition table, if it has one.
    partitions: Vec<Partition>,
    /// How far a copy onto it is, if a journal tells of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    copy: Option<Standing>,
    /// Baselines that `--changes-since` takes.
    trackers: Vec<String>,
    warnings: Vec<String>,
}

/// Limits of requests, in bytes.
#[derive(Debug, Serialize)]
struct Requests {
    align: u32,
    preferred: u32,
    max: u32,
}

impl Requests {
    fn of(limits: Limits) -> Self {
        Self {
            align: limits.align,
            preferred: limits.preferred,
            max: limits.max,
        }
    }
}

/// Block sizes of a device, in bytes.
#[derive(Debug, Serialize)]
struct BlockSizes {
    logical: u64,
    physical: u64,
}

impl Command for Inspect {
    const NAME: &'static str = "inspect";

    async fn run(self, output: Output) -> Result<()> {
        let address = match &self.source {
            Subject::Vm(locator) => return inspect_vm::run(locator, &output).await,
            Subject::Disk(address) => address,
        };
        let mut found = inspect(address, &self.image.reading(), &self.speed).await?;
        found.copy = copy_onto(address, &place(self.journal, false), &mut found.warnings);
        let text = if output.json() {
            format!("{}\n", serde_json::json!(found))
        } else {
            found.text()
        };
        output::print(&text)
    }
}

async fn inspect(address: &Address, reading: &Reading, speed: &Speed) -> Result<Found> {
    let (tuning, throttle) = (&speed.tuning(), &speed.throttle());
    if let Some(laid) = job::in_order(address, reading, tuning, throttle).await? {
        return coming::found(address, laid).await;
    }
    let server = Server::ask(address).await?;
    let disk = match open::disk(address, reading, tuning, throttle).await {
        Ok(disk) => disk,
        Err(error) => return server.and_then(|server| server.alone(address)).ok_or(error),
    };
    let (source, client) = (disk.source, disk.client);
    let (head, tail) = ends_of(source.as_ref()).await?;
    let size = source.size();
    let path = match address {
        Address::Path(path) => Some(path.as_path()),
        _ => None,
    };
    let device = path.and_then(block_sizes);
    let gpt_sector = signature::gpt_sector(&head);
    let mut warnings = Vec::new();
    let image = disk.image.as_ref().map(|image| image.facts());
    let logical = device.as_ref().map(|device| device.logical);
    if let (Some(sector), Some(logical)) = (gpt_sector, logical.or(sector_of(image.as_ref())))
        && u64::from(sector) != logical
    {
        warnings.push(sector_warning(sector, logical));
    }
    let (exports, contexts) = match (server, &client) {
        (Some(server), Some(client)) => server.others(client, &mut warnings).await,
        _ => Default::default(),
    };
    let export = client.as_ref().map(|client| export_facts(client, contexts));
    let kind = match (&client, &device) {
        _ if is_unpacked(reading) => "image, unpacked into scratch space",
        _ if matches!(address, Address::Http(_)) => "object on a web server",
        (Some(_), _) => "NBD export",
        (None, Some(_)) => "block device",
        (None, None) => "file",
    };
    Ok(Found {
        size: Some(size),
        allocated: path.and_then(allocated),
        identity: Some(source.identity().id),
        image,
        requests: Some(Requests::of(source.limits())),
        device,
        trackers: export.as_ref().map_or(Vec::new(), trackers),
        export,
        exports,
        content: signature::find(&head, &tail, size),
        gpt_sector,
        partitions: partitions(&head, size, &mut warnings),
        warnings,
        ..Found::new(address, kind)
    })
}

fn is_unpacked(reading: &Reading) -> bool {
    let scratch = reading.scratch.as_ref();
    scratch.is_some_and(|scratch| scratch.held().is_some())
}

/// What a journal tells of a copy onto this disk.
fn copy_onto(
    address: &Address,
    journal: &JournalPlace,
    warnings: &mut Vec<String>,
) -> Option<Standing> {
    let told = job::standing(address, journal);
    told.unwrap_or_else(|error| {
        warnings.push(error.line());
        None
    })
}

/// The first and last bytes of a disk, as far as signatures lie in them.
async fn ends_of(source: &dyn Source) -> Result<(Buffer, Buffer)> {
    let size = source.size();
    let align = u64::from(source.limits().align);
    let length = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    let head = ByteRange::new(0, length(signature::HEAD).min(size));
    let tail = ByteRange::new(size.saturating_sub(length(signature::TAIL)), size);
    Ok((
        read(source, head.align_out(align, size)).await?,
        read(source, tail.align_out(align, size)).await?,
    ))
}

/// All of `range`, which is small, in as many requests as the source wants.
async fn read(source: &dyn Source, range: ByteRange) -> Result<Buffer> {
    let mut all = Buffer::unbudgeted(usize::try_from(range.len()).unwrap_or(0));
    let mut rest = range;
    let mut at = 0usize;
    while !rest.is_empty() {
        let (piece, after) = rest.split(source.limits().max.into());
        let length = usize::try_from(piece.len()).unwrap_or(0);
        let bytes = source.read(piece.start, Buffer::unbudgeted(length)).await?;
        let end = at.saturating_add(length);
        if let Some(place) = all.get_mut(at..end) {
            place.copy_from_slice(&bytes);
        }
        (at, rest) = (end, after);
    }
    Ok(all)
}

/// The partitions of a disk of `size` bytes that begins with `head`.
fn partitions(head: &[u8], size: u64, warnings: &mut Vec<String>) -> Vec<Partition> {
    let found = partitions::partitions(head);
    for partition in &found {
        if partition.start.saturating_add(partition.size) > size {
            let number = partition.number;
            warnings.push(format!(
                "partition {number} ends behind the end of the disk"
            ));
        }
    }
    found
}

/// Bytes that the regular file at `path` takes of its file system.
fn allocated(path: &Path) -> Option<u64> {
    let meta = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some(meta.blocks().saturating_mul(512))
}

/// Block sizes of the device at `path`; `None` if it is a file, or nobody tells.
fn block_sizes(path: &Path) -> Option<BlockSizes> {
    let meta = fs::metadata(path).ok()?;
    let device = meta
        .file_type()
        .is_block_device()
        .then(|| Device::of(meta.rdev()))?;
    Some(BlockSizes {
        logical: device.queue_limit("logical_block_size")?,
        physical: device.queue_limit("physical_block_size")?,
    })
}

/// Bytes of a sector, where an image says what the guest counts in.
fn sector_of(image: Option<&Facts>) -> Option<u64> {
    let mut details = image?.details.iter();
    let found = details.find(|(name, _)| *name == "logical sector size");
    found.and_then(|(_, value)| value.as_u64())
}

fn sector_warning(sector: u32, logical: u64) -> String {
    format!(
        "its partition table was written for sectors of {sector} bytes, and the disk has \
         {logical}: partitions will not be found"
    )
}

/// An image, or one layer of it.
fn facts_rows(facts: &Facts) -> Vec<(&str, String)> {
    let mut rows = vec![("image", format!("{} ({})", facts.file, facts.format))];
    rows.push(("", format!("virtual size {}", facts.virtual_size)));
    let unit = facts
        .cluster_size
        .map(|size| format!("cluster size {size}"));
    rows.extend(unit.map(|text| ("", text)));
    let details = facts.details.iter();
    rows.extend(details.map(|(name, value)| ("", format!("{name} {}", Facts::shown(value)))));
    rows.extend(facts.warnings.iter().map(|text| ("warning", text.clone())));
    rows
}

fn row(partition: &Partition) -> String {
    let Partition {
        number,
        start,
        size,
        kind,
        name,
    } = partition;
    let size = report::bytes(*size);
    let text = format!("{number} at {start:#x}, {size}, type {kind} {name}");
    text.trim_end().to_owned()
}

impl Found {
    /// Nothing yet of what is at `address`.
    fn new(address: &Address, kind: &'static str) -> Self {
        Self {
            address: address.to_string(),
            kind,
            size: None,
            allocated: None,
            identity: None,
            requests: None,
            image: None,
            device: None,
            export: None,
            exports: Vec::new(),
            content: None,
            gpt_sector: None,
            partitions: Vec::new(),
            copy: None,
            trackers: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// What disk it is.
    fn first_rows(&self) -> Vec<(&str, String)> {
        let size = match self.size {
            Some(size) => format!("{size} ({})", report::bytes(size)),
            None => "not known before its end".to_owned(),
        };
        let mut rows = vec![
            ("address", self.address.clone()),
            ("kind", self.kind.to_owned()),
            ("size", size),
        ];
        if let Some(allocated) = self.allocated {
            let text = format!("{allocated} ({})", report::bytes(allocated));
            rows.push(("allocated", text));
        }
        rows.extend(self.identity.clone().map(|text| ("identity", text)));
        rows.extend(self.requests.as_ref().map(|limits| {
            let Requests {
                align,
                preferred,
                max,
            } = limits;
            let text = format!("aligned to {align}, preferred {preferred}, at most {max} bytes");
            ("requests", text)
        }));
        rows
    }

    /// For people.
    fn text(&self) -> String {
        table(match self.kind {
            exports::SERVER => self.server_rows(),
            _ => self.disk_rows(),
        })
    }

    fn disk_rows(&self) -> Vec<(&str, String)> {
        let mut rows = self.first_rows();
        let mut layer = self.image.as_ref();
        while let Some(facts) = layer {
            rows.extend(facts_rows(facts));
            layer = facts.backing.as_deref();
        }
        if let Some(device) = &self.device {
            let sizes = format!("logical {}, physical {}", device.logical, device.physical);
            rows.push(("blocks", sizes));
        }
        if let Some(export) = &self.export {
            rows.push(("export", format!("{:?}", export.name)));
            rows.extend(export.description.clone().map(|text| ("", text)));
            rows.push(("flags", export.flags.join(" ")));
            rows.push(("contexts", export.contexts.join(" ")));
        }
        if !self.exports.is_empty() {
            rows.push(("others", self.exports.join(" ")));
        }
        let mut content = self.content.unwrap_or("nothing that is known").to_owned();
        if let Some(sector) = self.gpt_sector {
            content.push_str(&format!(", for sectors of {sector} bytes"));
        }
        rows.push(("content", content));
        rows.extend(self.partitions.iter().map(|part| ("partition", row(part))));
        rows.push((
            "trackers",
            match self.trackers.is_empty() {
                true => "none".to_owned(),
                false => self.trackers.join(" "),
            },
        ));
        rows.extend(self.copy.iter().map(|copy| ("copy", copy.to_string())));
        rows.extend(self.warnings.iter().map(|text| ("warning", text.clone())));
        rows
    }
}

fn table(rows: Vec<(&str, String)>) -> String {
    rows.into_iter()
        .fold(String::new(), |mut text, (key, value)| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{key:<10} {value}");
            text
        })
}
