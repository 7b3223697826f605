//! What the kernel tells about a block device: who it is, what it can do, who holds it.
//!
//! Everything is read from `/sys` and `/proc` and may be missing in a container: each function
//! then answers less, and the exclusive open has the last word.

use super::tables::{mounts, numbers, swaps};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A block device in `/sys`, found by its number.
#[derive(Clone, Debug)]
pub struct Device {
    number: (u32, u32),
    folder: PathBuf,
}

/// The file behind a loop device.
#[derive(Clone, Debug)]
pub struct BackingFile {
    /// Where it was when it was attached.
    pub path: PathBuf,
    /// Whether the device is all of the file, and not a part.
    pub is_all: bool,
}

impl Device {
    /// The device with the number `rdev`, as stat(2) gives it.
    #[must_use]
    pub fn of(rdev: u64) -> Self {
        let number = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
        let link = format!("/sys/dev/block/{}:{}", number.0, number.1);
        let folder = fs::canonicalize(&link).unwrap_or_else(|_| link.into());
        Self { number, folder }
    }

    /// The kernel's name: `sdb`, `nvme0n1p1`.
    #[must_use]
    pub fn kernel_name(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Whether the kernel refuses to write to it.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.attribute("ro").is_some_and(|text| text != "0")
    }

    /// A number under `queue/`; of the whole disk, if this is a partition.
    #[must_use]
    pub fn queue_limit(&self, name: &str) -> Option<u64> {
        self.disk_attribute(&format!("queue/{name}"))?.parse().ok()
    }

    /// A name that stays with the disk when it gets another number or node: WWID, serial, UUID,
    /// or the file behind a loop device. The number itself if there is none.
    #[must_use]
    pub fn stable_id(&self) -> String {
        let sources = [
            ("wwid", "wwid"),
            ("wwid", "device/wwid"),
            ("dm", "dm/uuid"),
            ("md", "md/uuid"),
            ("serial", "serial"),
            ("serial", "device/serial"),
            ("loop", "loop/backing_file"),
        ];
        let whole = sources
            .iter()
            .find_map(|(kind, name)| Some(format!("{kind}:{}", self.disk_attribute(name)?)))
            .unwrap_or_else(|| format!("dev:{}:{}", self.number.0, self.number.1));
        match self.attribute("partition") {
            Some(partition) => format!("{whole}#{partition}"),
            None => whole,
        }
    }

    /// The file behind a loop device.
    #[must_use]
    pub fn backing_file(&self) -> Option<BackingFile> {
        let path = self.attribute("loop/backing_file")?.into();
        let ends = ["loop/offset", "loop/sizelimit"].map(|name| self.attribute(name));
        let is_all = ends.iter().all(|end| end.as_deref() == Some("0"));
        Some(BackingFile { path, is_all })
    }

    /// Numbers of the devices that it is laid out on, as stat(2) gives them: the disk of a partition,
    /// the parts of a volume.
    #[must_use]
    pub fn below(&self) -> Vec<u64> {
        let slaves = self.folder.join("slaves");
        let mut folders: Vec<PathBuf> = names_in(&slaves)
            .into_iter()
            .map(|name| slaves.join(name))
            .collect();
        if self.attribute("partition").is_some() {
            folders.extend(self.folder.parent().map(Path::to_owned));
        }
        let numbers = folders
            .iter()
            .filter_map(|folder| numbers(&read(&folder.join("dev"))?));
        numbers
            .map(|(major, minor)| rustix::fs::makedev(major, minor))
            .collect()
    }

    /// Everything known to use this device or a partition of it, in words.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        let mut family = vec![(self.number, self.folder.clone())];
        family.extend(self.partitions());
        let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let swapped = fs::read_to_string("/proc/swaps").unwrap_or_default();
        let mut users = Vec::new();
        for (number, folder) in family {
            for mount in mounts(&mounted) {
                if mount.device == number || number_of(&mount.source) == Some(number) {
                    users.push(format!("mounted on {}", mount.point));
                }
            }
            let swap = swaps(&swapped).into_iter();
            let swap = swap.filter(|path| number_of(path) == Some(number));
            users.extend(swap.map(|path| format!("used for swap as {path}")));
            let holders = names_in(&folder.join("holders")).into_iter();
            users.extend(holders.map(|name| format!("held by {name}")));
        }
        users.dedup();
        users
    }

    /// Number and folder of every partition.
    fn partitions(&self) -> Vec<((u32, u32), PathBuf)> {
        let folders = names_in(&self.folder).into_iter();
        folders
            .map(|name| self.folder.join(name))
            .filter(|folder| folder.join("partition").exists())
            .filter_map(|folder| Some((numbers(&read(&folder.join("dev"))?)?, folder)))
            .collect()
    }

    fn attribute(&self, name: &str) -> Option<String> {
        read(&self.folder.join(name))
    }

    /// An attribute of this device, or of the disk that this partition is on.
    fn disk_attribute(&self, name: &str) -> Option<String> {
        let of_disk = || read(&self.folder.parent()?.join(name));
        self.attribute(name)
            .or_else(|| self.attribute("partition").and_then(|_| of_disk()))
    }
}

/// The first line of a small file, trimmed; nothing if that is empty.
fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The names in a folder, in order.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The device number of the block device at `path`.
fn number_of(path: &str) -> Option<(u32, u32)> {
    let path = Path::new(path);
    let found = fs::metadata(path).ok().filter(|_| path.is_absolute())?;
    let is_device = rustix::fs::FileType::from_raw_mode(found.mode()).is_block_device();
    is_device.then(|| {
        let rdev = found.rdev();
        (rustix::fs::major(rdev), rustix::fs::minor(rdev))
    })
}
