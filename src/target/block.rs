//! A block device as target: checked before byte 0, written past the page cache, zeroed by what
//! the probe proved.
//!
//! The device is held exclusively from the check to the end. Only write access to the node is
//! needed: no capability, no io_uring.

use super::preflight::{Facts, Intent, decide};
use super::probe::{ProbeReport, probe, scratch_in};
use super::zeroing::{Method, Zeroer};
use super::{Target, Zeroing, signature};
use crate::buffer::Buffer;
use crate::endpoint::{Identity, Limits, check_bounds};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::sys::disk::{Disk, Open};
use crate::sys::queue::Queue;
use crate::sys::sysfs::Device;
use crate::sys::{blockdev, blocking};
use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// How a block device is opened for writing.
#[derive(Clone, Debug, Default)]
pub struct BlockOptions {
    /// What will be written, and what may be lost.
    pub intent: Intent,
    /// Go through the page cache even if the device can be written directly.
    pub page_cache: bool,
    /// What an earlier run of this job found out. Without it the device is probed when it is
    /// first zeroed, within what is zeroed.
    pub probe: Option<ProbeReport>,
    /// Zero by this method only, and fail if the device does not know it.
    pub zero_method: Option<Method>,
}

/// A block device that is written. See the [module](self).
#[derive(Debug)]
pub struct BlockTarget {
    queue: Queue,
    name: String,
    id: String,
    capacity: u64,
    block: u32,
    zeroer: Zeroer,
    only: Option<Method>,
    report: OnceCell<ProbeReport>,
    /// Held while a block is read, changed and written back.
    patching: Arc<Mutex<()>>,
}

impl BlockTarget {
    /// Opens the device at `path` if preflight allows it.
    ///
    /// # Errors
    /// [`Kind::Refused`] with the reason, or the device cannot be opened or read.
    pub async fn open(path: &Path, options: BlockOptions) -> Result<Self> {
        let owned = path.to_owned();
        let (intent, direct) = (options.intent, !options.page_cache);
        let opened = blocking(move || Ok(open_checked(&owned, intent, direct)));
        let (disk, facts) = opened
            .await
            .map_err(|error| Error::io(format!("open {}", path.display()), error))??;
        let block = blockdev::logical_block(disk.fd())
            .map_err(|error| Error::io(format!("ask {} for its block size", facts.name), error))?;
        Ok(Self {
            name: facts.name,
            id: Device::of(disk.stat().st_rdev).stable_id(),
            capacity: facts.size,
            queue: Queue::new(disk),
            block,
            zeroer: Zeroer::new(),
            only: options.zero_method,
            report: OnceCell::new_with(options.probe),
            patching: Arc::default(),
        })
    }

    /// Bytes of a logical block: 512 or 4096.
    #[must_use]
    pub fn logical_block(&self) -> u32 {
        self.block
    }

    /// Whether writes go past the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.queue.disk().is_direct()
    }

    /// What the probe found, if it ran or was given.
    #[must_use]
    pub fn report(&self) -> Option<&ProbeReport> {
        self.report.get()
    }

    /// Finds out what zeroes this device, unless that is known, by trying within `range`, whose
    /// content is lost: it must be about to be overwritten. `None` if it is too small to try.
    ///
    /// # Errors
    /// The device cannot be written or read there.
    pub async fn probe(&self, range: ByteRange) -> Result<Option<&ProbeReport>> {
        if let Some(report) = self.report.get() {
            return Ok(Some(report));
        }
        let Some(scratch) = scratch_in(range) else {
            return Ok(None);
        };
        let run = || self.queue.run(move |disk| probe(disk, scratch));
        let report = self.report.get_or_try_init(run).await;
        let report = report.map_err(|error| self.failed("probe", scratch.start, error))?;
        tracing::info!(device = %self.name, ?report, "probed");
        Ok(Some(report))
    }

    /// The methods that may zero a part of `range`, in the order in which to try them.
    async fn methods(&self, range: ByteRange, zeroing: Zeroing) -> Result<Vec<Method>> {
        if let Some(only) = self.only {
            return Ok(vec![only]);
        }
        let report = self.probe(range).await?;
        Ok(choose(report, zeroing))
    }

    /// Changes part of the block at the end of a disk that does not end with one.
    async fn patch(&self, offset: u64, data: Bytes) -> io::Result<()> {
        let block = u64::from(self.block);
        let patching = Arc::clone(&self.patching);
        let patched = self.queue.run(move |disk| {
            let _one_at_a_time = patching.lock().unwrap_or_else(PoisonError::into_inner);
            let mut whole = Buffer::unbudgeted(usize::try_from(block).unwrap_or(0));
            if disk.read(offset, &mut whole)? != whole.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let changed = whole.get_mut(..data.len()).unwrap_or_default();
            changed.copy_from_slice(&data);
            disk.write(offset, &whole)
        });
        patched.await
    }

    /// Checks a request and gives the part in whole blocks and the tail.
    fn cut(&self, doing: &str, range: ByteRange) -> Result<(ByteRange, ByteRange)> {
        check_bounds(doing, &self.name, range, self.capacity)?;
        let block = u64::from(self.block);
        if !range.start.is_multiple_of(block) {
            let why = format!("{doing} {}: not aligned to {block} bytes", self.name);
            return Err(Error::new(Kind::Usage, why).at(range.start));
        }
        let tail = range.len().checked_rem(block).unwrap_or(0);
        Ok(range.split(range.len().saturating_sub(tail)))
    }

    fn failed(&self, doing: &str, offset: u64, error: io::Error) -> Error {
        Error::io(format!("{doing} {}", self.name), error).at(offset)
    }
}

/// The methods that may be used, given what the probe found. Pure.
///
/// What unmaps needs proof. What the kernel promises to zero is used without one, unless the
/// probe caught it lying. Plain writes are always last.
fn choose(report: Option<&ProbeReport>, zeroing: Zeroing) -> Vec<Method> {
    let mut methods = Vec::new();
    if zeroing == Zeroing::Unmap && report.is_some_and(|found| found.proves(Method::PunchHole)) {
        methods.push(Method::PunchHole);
    }
    let promised = [Method::ZeroRange, Method::Zeroout].into_iter();
    methods.extend(promised.filter(|method| !report.is_some_and(|found| found.disproves(*method))));
    methods.push(Method::Write);
    methods
}

/// Collects facts, opens, decides.
fn open_checked(path: &Path, intent: Intent, direct: bool) -> Result<(Disk, Facts)> {
    let name = path.display().to_string();
    let stat = fs::metadata(path).map_err(|error| Error::io(format!("open {name}"), error))?;
    let device = Device::of(stat.rdev());
    let mut facts = Facts {
        is_block_device: FileType::from_raw_mode(stat.mode()).is_block_device(),
        name,
        ..Facts::default()
    };
    if facts.is_block_device {
        facts.read_only = device.read_only();
        facts.users = device.users();
    }
    let hopeless = !facts.is_block_device || facts.read_only || !facts.users.is_empty();
    let how = Open {
        write: true,
        exclusive: true,
        direct,
    };
    let disk = match if hopeless {
        None
    } else {
        Some(Disk::open(path, how))
    } {
        Some(Ok(disk)) => Some(disk),
        Some(Err(error)) if is(&error, Errno::BUSY) => {
            facts.busy = true;
            None
        }
        Some(Err(error)) if is(&error, Errno::ROFS) => {
            facts.read_only = true;
            None
        }
        Some(Err(error)) => return Err(Error::io(format!("open {} to write", facts.name), error)),
        None => None,
    };
    if let Some(disk) = &disk {
        look(disk, &mut facts).map_err(|error| Error::io(format!("read {}", facts.name), error))?;
    }
    decide(&facts, intent)?;
    match disk {
        Some(disk) => Ok((disk, facts)),
        // `decide` refuses everything that keeps us from opening.
        None => Err(Error::new(
            Kind::Refused,
            format!("{} is not opened", facts.name),
        )),
    }
}

/// Size and signature.
fn look(disk: &Disk, facts: &mut Facts) -> io::Result<()> {
    let block = u64::from(blockdev::logical_block(disk.fd())?.max(1));
    let size = disk.size()?;
    // A last block that is not whole cannot be written.
    facts.size = size.saturating_sub(size.checked_rem(block).unwrap_or(0));
    let mut head = Buffer::unbudgeted(signature::HEAD);
    let count = disk.read(0, &mut head)?;
    head.truncate(count);
    let mut tail = Buffer::unbudgeted(signature::TAIL);
    let start = facts.size.saturating_sub(signature::TAIL as u64);
    let count = disk.read(start, &mut tail)?;
    tail.truncate(count);
    facts.signature = signature::find(&head, &tail, facts.size);
    Ok(())
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

#[async_trait]
impl Target for BlockTarget {
    fn capacity(&self) -> Option<u64> {
        Some(self.capacity)
    }

    fn limits(&self) -> Limits {
        Limits {
            align: self.block,
            preferred: 1 << 20,
            max: 32 << 20,
            in_flight: 16,
        }
    }

    fn identity(&self) -> Identity {
        Identity {
            id: self.id.clone(),
            size: self.capacity,
            name: self.name.clone(),
        }
    }

    fn sector(&self) -> Option<u32> {
        Some(self.block)
    }

    async fn probe(&self, lost: ByteRange) -> Result<Option<serde_json::Value>> {
        let report = Self::probe(self, lost).await?;
        Ok(report.and_then(|report| serde_json::to_value(report).ok()))
    }

    async fn write(&self, offset: u64, mut data: Bytes) -> Result<()> {
        let range = ByteRange::at(offset, data.len() as u64);
        let (whole, tail) = self.cut("write", range)?;
        let rest = data.split_off(data.len().saturating_sub(tail_len(tail)));
        if !whole.is_empty() {
            let written = self.queue.write(whole.start, data).await;
            written.map_err(|error| self.failed("write", offset, error))?;
        }
        if !tail.is_empty() {
            let patched = self.patch(tail.start, rest).await;
            patched.map_err(|error| self.failed("write", tail.start, error))?;
        }
        Ok(())
    }

    async fn zero(&self, range: ByteRange, zeroing: Zeroing) -> Result<()> {
        let (whole, tail) = self.cut("zero", range)?;
        let methods = self.methods(whole, zeroing).await?;
        let zeroed = self.zeroer.zero(&self.queue, whole, &methods).await;
        zeroed.map_err(|error| self.failed("zero", range.start, error))?;
        if !tail.is_empty() {
            let zeroes = Bytes::from(vec![0; tail_len(tail)]);
            let patched = self.patch(tail.start, zeroes).await;
            patched.map_err(|error| self.failed("zero", tail.start, error))?;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        let synced = self.queue.run(Disk::sync).await;
        synced.map_err(|error| Error::io(format!("flush {}", self.name), error))
    }

    fn ending(&self) {
        self.queue.ending();
    }

    async fn read_back(&self, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let range = ByteRange::at(offset, buffer.len() as u64);
        check_bounds("read back", &self.name, range, self.capacity)?;
        super::read_back(&self.queue, range, buffer)
            .await
            .map_err(|error| self.failed("read back", offset, error))
    }
}

/// A tail is shorter than a block.
fn tail_len(tail: ByteRange) -> usize {
    usize::try_from(tail.len()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::probe::{MethodReport, ProbeReport};
    use super::{Method, Zeroing, choose};

    fn report(proven: &[Method]) -> ProbeReport {
        let methods = Method::ALL.map(|method| MethodReport {
            method,
            supported: true,
            reads_back_zero: proven.contains(&method),
            microseconds: 1,
        });
        ProbeReport {
            logical_block: 512,
            physical_block: 512,
            discard_max_bytes: Some(1),
            write_zeroes_max_bytes: Some(1),
            methods: methods.to_vec(),
        }
    }

    #[test]
    fn only_what_is_proven_unmaps_and_discard_never_does() {
        use Method::{PunchHole, Write, ZeroRange, Zeroout};
        let all = report(&Method::ALL);
        let unmap = |report: Option<&ProbeReport>| choose(report, Zeroing::Unmap);
        assert_eq!(unmap(Some(&all)), [PunchHole, ZeroRange, Zeroout, Write]);
        assert_eq!(unmap(None), [ZeroRange, Zeroout, Write]);
        assert_eq!(
            unmap(Some(&report(&[Method::Discard, Zeroout]))),
            [Zeroout, Write]
        );
        assert_eq!(unmap(Some(&report(&[]))), [Write], "a device that lies");
        assert_eq!(
            choose(Some(&all), Zeroing::Allocate),
            [ZeroRange, Zeroout, Write]
        );
    }
}
