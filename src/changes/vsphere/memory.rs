//! What is known of each point, durable before anything relies on it.
//!
//! A change id is told by the snapshot that it belongs to, and that is removed as soon as its pass
//! is over. So it is written down first: one small file in the directory of the migration, replaced
//! as a whole.

use crate::error::{Error, Kind, Result};
use crate::vsphere::changes::ChangeId;
use crate::vsphere::disk::Disk;
use crate::vsphere::inventory::Identity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The name of the file.
pub(super) const NAME: &str = "vsphere.json";

/// The version that this build writes, and the only one it reads.
const VERSION: u32 = 1;

/// What is remembered.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    version: u32,
    /// Which VM all this is about.
    pub(super) vm: Identity,
    /// The points, by number.
    pub(super) points: BTreeMap<u32, Vec<Remembered>>,
    /// The migration was about to shut the VM down or to power it off, and it ran.
    #[serde(default)]
    switched: bool,
    /// Of each point that was ever made, whether the guest had written out its caches.
    #[serde(default)]
    quiesced: BTreeMap<u32, Quiesced>,
}

/// Points of which that is kept.
const QUIESCED_KEPT: usize = 1000;

/// Whether the guest wrote out its caches before a point.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quiesced {
    pub(super) done: bool,
    /// Why not, where it was tried.
    pub(super) why_not: Option<String>,
}

/// One disk at one point.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Remembered {
    /// As the migration named it.
    pub(super) name: String,
    key: i32,
    uuid: Option<String>,
    object_id: Option<String>,
    capacity: u64,
    change_id: Option<ChangeId>,
}

impl Remembered {
    pub(super) fn of(name: &str, disk: &Disk) -> Self {
        Self {
            name: name.to_owned(),
            key: disk.key,
            uuid: disk.uuid.clone(),
            object_id: disk.object_id.clone(),
            capacity: disk.capacity,
            change_id: disk.change_id.clone(),
        }
    }

    /// The disk as far as it is remembered.
    pub(super) fn disk(&self) -> Disk {
        Disk {
            key: self.key,
            label: self.name.clone(),
            slot: None,
            file: String::new(),
            parents: Vec::new(),
            object_id: self.object_id.clone(),
            uuid: self.uuid.clone(),
            capacity: self.capacity,
            change_id: self.change_id.clone(),
            obstacle: None,
        }
    }

    /// Since when its changes are asked for.
    pub(super) fn change_id(&self) -> Option<&ChangeId> {
        self.change_id.as_ref()
    }
}

/// The file, and what is in it.
#[derive(Debug)]
pub(super) struct Memory {
    path: Option<PathBuf>,
    content: Content,
}

impl Memory {
    /// Opens the memory of a migration of `vm`; there need not be one yet. Without a path there is
    /// none, and nothing can be remembered.
    ///
    /// # Errors
    /// It cannot be read, is of another version, or is of another VM (`Refused`).
    pub(super) fn open(path: Option<PathBuf>, vm: &Identity) -> Result<Self> {
        let empty = Content {
            version: VERSION,
            vm: vm.clone(),
            points: BTreeMap::new(),
            switched: false,
            quiesced: BTreeMap::new(),
        };
        let Some(file) = &path else {
            return Ok(Self {
                path,
                content: empty,
            });
        };
        let doing = format!("read {}", file.display());
        let content = match fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Error::new(Kind::Corrupt, doing.clone()).because(error))?,
            Err(error) if error.kind() == ErrorKind::NotFound => empty,
            Err(error) => return Err(Error::io(doing, error)),
        };
        if content.version != VERSION {
            let why = format!("it is of version {}", content.version);
            return Err(Error::new(Kind::Unsupported, doing).because(why));
        }
        if content.vm != *vm {
            let why = format!("it is about {:?}, and the VM is {vm:?}", content.vm);
            return Err(Error::new(Kind::Refused, doing).because(why));
        }
        Ok(Self { path, content })
    }

    /// The points, by number.
    pub(super) fn points(&self) -> &BTreeMap<u32, Vec<Remembered>> {
        &self.content.points
    }

    /// Changes what is remembered; when it returns, that is durable.
    ///
    /// # Errors
    /// It may or may not be durable, and is not believed.
    pub(super) fn change(
        &mut self,
        change: impl FnOnce(&mut BTreeMap<u32, Vec<Remembered>>),
    ) -> Result<()> {
        self.replace(|content| change(&mut content.points))
    }

    /// Remembers a point; durable when it returns.
    ///
    /// # Errors
    /// It may or may not be durable, and is not believed.
    pub(super) fn remember(
        &mut self,
        number: u32,
        disks: Vec<Remembered>,
        quiesced: Quiesced,
    ) -> Result<()> {
        self.replace(|content| {
            content.points.insert(number, disks);
            let known = content.quiesced.get(&number);
            // Of a snapshot that is found again nobody tells why it is as it is.
            let is_told = known.is_some_and(|known| known.done == quiesced.done);
            if !is_told || quiesced.why_not.is_some() {
                content.quiesced.insert(number, quiesced);
            }
            while content.quiesced.len() > QUIESCED_KEPT {
                content.quiesced.pop_first();
            }
        })
    }

    /// Whether it was this migration that made the VM quiet.
    pub(super) fn is_switched(&self) -> bool {
        self.content.switched
    }

    /// Remembers that; durable when it returns.
    ///
    /// # Errors
    /// It may or may not be durable, and is not believed.
    pub(super) fn switch(&mut self, switched: bool) -> Result<()> {
        self.replace(|content| content.switched = switched)
    }

    fn replace(&mut self, change: impl FnOnce(&mut Content)) -> Result<()> {
        let mut next = self.content.clone();
        change(&mut next);
        if next == self.content {
            return Ok(());
        }
        let Some(path) = &self.path else {
            let what = "make a point without a directory to remember it in";
            return Err(Error::new(Kind::Refused, what));
        };
        let doing = || format!("write {}", path.display());
        let text = serde_json::to_vec_pretty(&next)
            .map_err(|error| Error::new(Kind::Io, doing()).because(error))?;
        replace(path, &text).map_err(|error| Error::io(doing(), error))?;
        self.content = next;
        Ok(())
    }
}

/// The old file or the new one, whenever the power fails.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let next = path.with_extension("next");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&next)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Memory, Remembered};
    use crate::error::Kind;
    use crate::vsphere::inventory::Identity;

    fn vm(moref: &str) -> Identity {
        Identity {
            moref: moref.to_owned(),
            instance_uuid: Some("u".to_owned()),
        }
    }

    fn remembered() -> Remembered {
        let text =
            r#"{"name":"a","key":1,"uuid":null,"object_id":null,"capacity":8,"change_id":"x/1"}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_remembered_is_there_in_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let mut memory = Memory::open(Some(path.clone()), &vm("vm-1")).unwrap();
        memory
            .change(|points| {
                points.insert(3, vec![remembered()]);
            })
            .unwrap();
        let again = Memory::open(Some(path), &vm("vm-1")).unwrap();
        assert_eq!(again.points()[&3], [remembered()]);
        assert_eq!(again.points()[&3][0].change_id().unwrap().as_str(), "x/1");
    }

    #[test]
    fn a_memory_of_another_vm_is_refused_and_a_damaged_one_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let mut memory = Memory::open(Some(path.clone()), &vm("vm-1")).unwrap();
        memory
            .change(|points| {
                points.insert(1, Vec::new());
            })
            .unwrap();
        let other = Memory::open(Some(path.clone()), &vm("vm-2")).unwrap_err();
        assert_eq!(other.kind(), Kind::Refused);
        std::fs::write(&path, b"{").unwrap();
        assert_eq!(
            Memory::open(Some(path), &vm("vm-1")).unwrap_err().kind(),
            Kind::Corrupt
        );
    }

    #[test]
    fn without_a_place_nothing_is_remembered() {
        let mut memory = Memory::open(None, &vm("vm-1")).unwrap();
        let error = memory
            .change(|points| {
                points.insert(1, Vec::new());
            })
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(memory.points().is_empty());
    }

    #[test]
    fn what_could_not_be_written_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone/m");
        let mut memory = Memory::open(Some(path), &vm("vm-1")).unwrap();
        assert!(
            memory
                .change(|points| {
                    points.insert(1, Vec::new());
                })
                .is_err()
        );
        assert!(memory.points().is_empty());
    }
}
