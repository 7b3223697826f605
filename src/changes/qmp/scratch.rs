//! The scratch directory: overlays, which take what a guest overwrites while a point is read.
//!
//! An overlay is an empty qcow2 file of the disk's size that QEMU fills. It is written here, and
//! not by QEMU's `blockdev-create`, because that is a job of its own for each of two layers, and
//! because the file must be QEMU's to open whoever we are.

use super::names::Tag;
use crate::error::{Error, Kind, Result};
use rustix::fs::statvfs;
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// Bytes of a cluster: 2¹⁶.
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const CLUSTER_BITS: u32 = 16;

/// Entries of a refcount block with counts of 16 bits.
const COUNTS: u64 = CLUSTER / 2;

/// Bytes that one cluster of the L1 table maps: each entry is an L2 table of 8192 clusters.
const L1_CLUSTER_MAPS: u64 = (CLUSTER / 8) * (CLUSTER / 8) * CLUSTER;

/// Where overlays are.
#[derive(Clone, Debug)]
pub(super) struct Scratch {
    directory: PathBuf,
    tag: Tag,
}

impl Scratch {
    /// Nothing is looked at yet.
    #[must_use]
    pub(super) fn new(directory: PathBuf, tag: Tag) -> Self {
        Self { directory, tag }
    }

    /// The directory.
    #[must_use]
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The files of this migration in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn files(&self) -> Result<BTreeSet<String>> {
        let entries =
            fs::read_dir(&self.directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(|error| self.failed("read the scratch directory", error))?;
        let names = entries
            .into_iter()
            .filter_map(|e| e.file_name().into_string().ok());
        Ok(names.filter(|name| self.tag.owns_file(name)).collect())
    }

    /// Sockets of other migrations' NBD servers, if anybody listens there or not.
    pub(super) fn sockets_of_others(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten();
        let paths = entries.flatten().map(|entry| entry.path());
        let is_socket = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| self.tag.is_socket_of_another(name))
        };
        paths.filter(is_socket).collect()
    }

    /// Makes the file of an overlay over a disk of `size` bytes, for a process of `owner`.
    ///
    /// # Errors
    /// It cannot be made, or the disk is larger than such a file can be over.
    pub(super) fn create(&self, name: &str, size: u64, owner: Option<(u32, u32)>) -> Result<()> {
        let doing = format!("make an overlay in {}", self.directory.display());
        let Some(bytes) = empty_qcow2(size) else {
            let why = format!("a disk of {size} bytes is too large");
            return Err(Error::new(Kind::Unsupported, doing).because(why));
        };
        // Anew, not truncated: what has that name may be open in a QEMU that is ending.
        self.remove(name)?;
        let made = (|| {
            let mut options = OpenOptions::new();
            let path = self.directory.join(name);
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            if let Some((user, group)) = owner {
                let meta = file.metadata()?;
                if (meta.uid(), meta.gid()) != (user, group) {
                    fchown(&file, Some(user), Some(group))?;
                }
            }
            file.write_all(&bytes)
        })();
        made.map_err(|error| Error::io(doing, error))
    }

    /// Removes a file; it may be gone already.
    ///
    /// # Errors
    /// It is still there.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", path.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Bytes that are free.
    ///
    /// # Errors
    /// The file system cannot be asked.
    pub(super) fn free(&self) -> Result<u64> {
        let stat = statvfs(&self.directory);
        let stat = stat.map_err(|error| self.failed("look at the scratch directory", error))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Bytes that an overlay takes.
    #[must_use]
    pub(super) fn taken(&self, name: &str) -> u64 {
        let meta = fs::metadata(self.directory.join(name));
        meta.map_or(0, |meta| meta.blocks().saturating_mul(512))
    }

    fn failed(&self, doing: &str, error: impl Into<std::io::Error>) -> Error {
        Error::io(format!("{doing} {}", self.directory.display()), error)
            .hint("it must be a directory that QEMU has under the same path")
    }
}

/// An empty qcow2 image of version 3 over a disk of `size` bytes, without a backing file: QEMU is
/// told that by name. None for sizes whose tables do not fit the first refcount block.
///
/// Clusters (QEMU's `docs/interop/qcow2.txt`): header, refcount table, refcount block, L1 table.
fn empty_qcow2(size: u64) -> Option<Vec<u8>> {
    let l1_clusters = size.div_ceil(L1_CLUSTER_MAPS).max(1);
    let clusters = l1_clusters.checked_add(3).filter(|all| *all <= COUNTS)?;
    let l1_entries = u32::try_from(size.div_ceil(L1_CLUSTER_MAPS / (CLUSTER / 8))).ok()?;
    let mut header = Vec::with_capacity(112);
    let mut field = |bytes: &[u8]| header.extend_from_slice(bytes);
    field(b"QFI\xfb");
    field(&3_u32.to_be_bytes()); // version
    field(&0_u64.to_be_bytes()); // backing_file_offset
    field(&0_u32.to_be_bytes()); // backing_file_size
    field(&CLUSTER_BITS.to_be_bytes());
    field(&size.to_be_bytes());
    field(&0_u32.to_be_bytes()); // crypt_method
    field(&l1_entries.to_be_bytes());
    field(&(3 * CLUSTER).to_be_bytes()); // l1_table_offset
    field(&CLUSTER.to_be_bytes()); // refcount_table_offset
    field(&1_u32.to_be_bytes()); // refcount_table_clusters
    field(&[0; 12]); // nb_snapshots, snapshots_offset
    field(&[0; 24]); // features: incompatible, compatible, autoclear
    field(&4_u32.to_be_bytes()); // refcount_order: 16 bits
    field(&104_u32.to_be_bytes()); // header_length
    field(&[0; 8]); // end of header extensions
    let length = |clusters: u64| usize::try_from(clusters.checked_mul(CLUSTER)?).ok();
    let mut image = header;
    image.resize(length(1)?, 0);
    image.extend((2 * CLUSTER).to_be_bytes());
    image.resize(length(2)?, 0);
    (0..clusters).for_each(|_| image.extend(1_u16.to_be_bytes()));
    image.resize(length(clusters)?, 0);
    Some(image)
}

#[cfg(test)]
mod tests {
    use super::{Scratch, Tag, empty_qcow2};
    use std::process::Command;

    #[test]
    fn an_empty_overlay_of_any_size_is_a_sound_image_to_qemu_img() {
        let room = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(room.path().to_owned(), Tag::of("m"));
        for size in [
            512,
            1 << 20,
            (64 << 20) + 512,
            5 << 30,
            4 << 40,
            (100 << 40) + 4096,
        ] {
            scratch.create("overlay", size, None).unwrap();
            let path = room.path().join("overlay");
            let run = |verb: &str, more: &[&str]| {
                let mut command = Command::new("qemu-img");
                let output = command.arg(verb).args(more).arg(&path).output().unwrap();
                assert!(output.status.success(), "{size}: {output:?}");
                String::from_utf8(output.stdout).unwrap()
            };
            let info = run("info", &["--output=json"]);
            assert!(
                info.contains(&format!("\"virtual-size\": {size}")),
                "{info}"
            );
            assert!(run("check", &[]).contains("No errors"));
            let map = run("map", &["--output=json"]);
            assert_eq!(map.matches("start").count(), 1, "{size}: {map}");
        }
        assert!(empty_qcow2(u64::MAX).is_none());
    }
}
