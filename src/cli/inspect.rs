//! `diskferry inspect`: what a disk is, what is on it, and what could track its changes.

mod coming;

use super::copy::place;
use super::open::ImageOptions;
use super::output::{self, Output};
use super::speed::Speed;
use super::{Command, inspect_vm, open, words};
use crate::address::Address;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::extent::ByteRange;
use crate::format::Facts;
use crate::job::options::{JournalPlace, Reading};
use crate::job::{self, Standing};
use crate::nbd::client::{Client, Endpoint, Timeouts, list};
use crate::nbd::export::Export;
use crate::report;
use crate::source::Source;
use crate::sys::sysfs::Device;
use crate::target::partitions::{self, Partition};
use crate::target::signature;
use crate::vsphere::locator::{self, Locator};
use clap::Args;
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

/// Block sizes of a device, in bytes.
#[derive(Debug, Serialize)]
struct BlockSizes {
    logical: u64,
    physical: u64,
}

/// What an NBD server tells of an export.
#[derive(Debug, Serialize)]
struct ExportFacts {
    name: String,
    description: Option<String>,
    flags: Vec<&'static str>,
    block_size_minimum: u32,
    block_size_preferred: u32,
    block_size_maximum: u32,
    contexts: Vec<String>,
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
    let disk = open::disk(address, reading, tuning, throttle).await?;
    let (source, client) = (disk.source, disk.client);
    let (head, tail) = ends_of(source.as_ref()).await?;
    let size = source.size();
    let limits = source.limits();
    let device = match address {
        Address::Path(path) => block_sizes(path),
        _ => None,
    };
    let gpt_sector = signature::gpt_sector(&head);
    let mut warnings = Vec::new();
    let image = disk.image.as_ref().map(|image| image.facts());
    let logical = device.as_ref().map(|device| device.logical);
    if let (Some(sector), Some(logical)) = (gpt_sector, logical.or(sector_of(image.as_ref())))
        && u64::from(sector) != logical
    {
        warnings.push(sector_warning(sector, logical));
    }
    let (exports, contexts) = match (address, &client) {
        (Address::Nbd(uri), Some(client)) => others(uri, client, &mut warnings).await?,
        _ => Default::default(),
    };
    let export = client.as_ref().map(|client| export_facts(client, contexts));
    Ok(Found {
        address: address.to_string(),
        kind: match (&client, &device) {
            _ if is_unpacked(reading) => "image, unpacked into scratch space",
            _ if matches!(address, Address::Http(_)) => "object on a web server",
            (Some(_), _) => "NBD export",
            (None, Some(_)) => "block device",
            (None, None) => "file",
        },
        size: Some(size),
        allocated: match address {
            Address::Path(path) => allocated(path),
            _ => None,
        },
        identity: Some(source.identity().id),
        image,
        requests: Some(Requests {
            align: limits.align,
            preferred: limits.preferred,
            max: limits.max,
        }),
        device,
        trackers: export.as_ref().map_or(Vec::new(), trackers),
        export,
        exports,
        content: signature::find(&head, &tail, size),
        gpt_sector,
        partitions: partitions(&head, size, &mut warnings),
        copy: None,
        warnings,
    })
}

fn is_unpacked(reading: &Reading) -> bool {
    let scratch = reading.scratch.as_ref();
    scratch.is_some_and(|scratch| scratch.held().is_some())
}

/// The other exports of a server, and the contexts of this one.
async fn others(
    uri: &str,
    client: &Client,
    warnings: &mut Vec<String>,
) -> Result<(Vec<String>, Vec<String>)> {
    let (mut exports, mut contexts) = (Vec::new(), Vec::new());
    match list(Endpoint::Uri(uri.parse()?), Timeouts::default()).await {
        Ok(listings) => {
            for listing in listings {
                if listing.listed.name == client.export().name {
                    contexts = listing.export.map_or(Vec::new(), |export| export.contexts);
                } else {
                    exports.push(listing.listed.name);
                }
            }
        }
        Err(error) => warnings.push(error.line()),
    }
    Ok((exports, contexts))
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

fn export_facts(client: &Client, listed: Vec<String>) -> ExportFacts {
    let Export {
        name,
        description,
        flags,
        block_size,
        contexts,
        ..
    } = client.export();
    let mut all = listed;
    for context in contexts {
        if !all.contains(context) {
            all.push(context.clone());
        }
    }
    let flags = [
        ("read-only", flags.read_only()),
        ("flush", flags.can_flush()),
        ("fua", flags.can_fua()),
        ("trim", flags.can_trim()),
        ("write-zeroes", flags.can_zero()),
        ("fast-zero", flags.can_fast_zero()),
        ("df", flags.can_df()),
        ("multi-conn", flags.can_multi_conn()),
    ];
    ExportFacts {
        name: name.clone(),
        description: description.clone(),
        flags: flags
            .into_iter()
            .filter_map(|(flag, set)| set.then_some(flag))
            .collect(),
        block_size_minimum: block_size.minimum,
        block_size_preferred: block_size.preferred,
        block_size_maximum: block_size.maximum,
        contexts: all,
    }
}

/// The baselines that the contexts of an export are.
fn trackers(export: &ExportFacts) -> Vec<String> {
    let bitmaps = export
        .contexts
        .iter()
        .filter_map(|context| context.strip_prefix("qemu:dirty-bitmap:"));
    bitmaps.map(|name| format!("nbd-bitmap:{name}")).collect()
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
        rows.into_iter()
            .fold(String::new(), |mut text, (key, value)| {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{key:<10} {value}");
                text
            })
    }
}
