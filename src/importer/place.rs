//! The volume that is written: a block device, or a file in a file system.

use super::settings::Settings;
use crate::error::{Error, Kind, Result};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Space in a file system is given to images in whole units of this.
const UNIT: u64 = 1 << 20;

/// Where the disk goes.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) is_block: bool,
    /// Bytes that fit.
    pub(super) room: u64,
}

impl Place {
    /// The volume that the pod was given. A block device is there or it is not; that decides.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub(super) fn find(settings: &Settings, root: &Path) -> Result<Self> {
        let block = settings
            .volume
            .clone()
            .unwrap_or_else(|| root.join("dev/cdi-block-volume"));
        let looked = |error| Error::io(format!("look at {}", block.display()), error);
        match fs::metadata(&block) {
            Ok(meta) if meta.file_type().is_block_device() => {
                let room = File::open(&block).and_then(|mut file| file.seek(SeekFrom::End(0)));
                return Ok(Self {
                    room: room.map_err(looked)?,
                    path: block,
                    is_block: true,
                });
            }
            Ok(_) if settings.volume.is_none() => {
                let what = format!("{} is not a block device", block.display());
                return Err(Error::new(Kind::Refused, what));
            }
            _ => {}
        }
        let path = settings
            .volume
            .clone()
            .unwrap_or_else(|| root.join("data/disk.img"));
        let directory = path.parent().unwrap_or(Path::new("/"));
        let held = fs::metadata(&path).map_or(0, |meta| meta.len());
        let stat = statvfs(directory)
            .map_err(|error| Error::io(format!("look at {}", directory.display()), error))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok(Self {
            room: usable(free, settings.overhead_ppm).max(held),
            path,
            is_block: false,
        })
    }

    /// What the controller recognises, if the disk does not fit.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn check(&self, size: u64) -> Result<()> {
        if size <= self.room {
            return Ok(());
        }
        let what = format!(
            "virtual image size {size} is larger than the reported available storage {}. \
             A larger PVC is required",
            self.room
        );
        Err(Error::new(Kind::Refused, what))
    }

    /// Bytes that a file is grown to: what was asked for, as far as it fits.
    pub(super) fn grown(&self, asked: Option<u64>, size: u64) -> u64 {
        asked.unwrap_or(size).min(self.room).max(size)
    }

    /// Grows the file, durably.
    ///
    /// # Errors
    /// It cannot be grown.
    pub(super) fn grow(&self, to: u64, preallocate: bool) -> Result<()> {
        let grow = || -> io::Result<()> {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&self.path)?;
            if file.metadata()?.len() < to {
                file.set_len(to)?;
            }
            if preallocate && to > 0 {
                fallocate(&file, FallocateFlags::empty(), 0, to)?;
            }
            file.set_permissions(Permissions::from_mode(0o660))?;
            file.sync_all()
        };
        grow().map_err(|error| Error::io(format!("grow {}", self.path.display()), error))
    }
}

/// What of a file system is for images.
fn usable(free: u64, overhead_ppm: u64) -> u64 {
    let million = 1_000_000u128;
    let usable = u128::from(free)
        .saturating_mul(million)
        .div_ceil(million.saturating_add(overhead_ppm.into()));
    let units = usable.checked_div(UNIT.into()).unwrap_or(0);
    u64::try_from(units)
        .unwrap_or(u64::MAX)
        .saturating_mul(UNIT)
}

#[cfg(test)]
mod tests {
    use super::{Place, UNIT, usable};

    #[test]
    fn a_file_system_keeps_its_overhead_and_gives_whole_units() {
        assert_eq!(usable(106 * UNIT, 60_000), 100 * UNIT);
        assert_eq!(usable(106 * UNIT - 2, 60_000), 99 * UNIT);
        assert_eq!(usable(UNIT + 5, 0), UNIT);
        assert_eq!(usable(0, 60_000), 0);
        assert_eq!(usable(u64::MAX, 0), u64::MAX - u64::MAX % UNIT);
    }

    #[test]
    fn a_file_grows_to_what_was_asked_for_as_far_as_it_fits_and_never_shrinks() {
        let place = Place {
            path: "x".into(),
            is_block: false,
            room: 100,
        };
        assert_eq!(place.grown(Some(50), 20), 50);
        assert_eq!(place.grown(Some(500), 20), 100);
        assert_eq!(place.grown(Some(10), 20), 20);
        assert_eq!(place.grown(None, 20), 20);
        let line = place.check(101).unwrap_err().line();
        assert!(
            line.contains("is larger than the reported available"),
            "{line}"
        );
    }
}
