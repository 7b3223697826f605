//! Whether source and target are the same disk. What is found of them is looked up; the decision is
//! pure.
//!
//! A file is known by its inode, a device by its number, whatever their names are. A loop device is
//! its file as well, or a part of it; a partition, and what device-mapper or md lay out, are parts of
//! disks. An export is known by its address only: what a server has under it is its own affair.

use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::nbd::uri::Uri;
use crate::sys::sysfs::Device;
use rustix::fs::{FileType, Stat, fstat, stat};
use std::path::{Path, PathBuf};

/// A file or a device, whatever it is called.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Thing {
    /// A regular file: number of its file system, and inode.
    File(u64, u64),
    /// A block device, by its number.
    Device(u64),
}

/// What a disk is made of.
#[derive(Clone, Debug, Default)]
struct Footing {
    /// It is each of these, byte for byte.
    is: Vec<Thing>,
    /// Its bytes are among theirs.
    within: Vec<Thing>,
}

/// Refuses a copy from `source`, an image of which may open `files`, onto itself.
///
/// # Errors
/// [`Kind::Refused`] if what is written to `target` is read from `source`.
pub fn check_apart(source: &Address, files: &[PathBuf], target: &Address) -> Result<()> {
    match is_same_export(source, target) || is_shared(source, files, target) {
        false => Ok(()),
        true => {
            let what = format!(
                "{source} and {target} are the same disk, or one is made of the other: what is \
                 written would be read"
            );
            Err(Error::new(Kind::Refused, what))
        }
    }
}

fn is_same_export(source: &Address, target: &Address) -> bool {
    let (Address::Nbd(source), Address::Nbd(target)) = (source, target) else {
        return false;
    };
    let [source, target] = [source, target].map(|uri| uri.parse::<Uri>());
    source.is_ok_and(|source| target.is_ok_and(|target| source.to_string() == target.to_string()))
}

fn is_shared(source: &Address, files: &[PathBuf], target: &Address) -> bool {
    let to = match target {
        Address::Path(path) => Footing::of_path(path),
        Address::Stdio => Footing::of(fstat(rustix::stdio::stdout()).ok()),
        _ => return false,
    };
    let from = match source {
        Address::Path(path) => Footing::of_path(path),
        Address::Stdio => Footing::of(fstat(rustix::stdio::stdin()).ok()),
        _ => Footing::default(),
    };
    let mut from = files
        .iter()
        .map(|path| Footing::of_path(path))
        .chain([from]);
    from.any(|from| shared(&from, &to))
}

/// Whether one of two disks is the other, or a part of it. Two parts of a third are not.
fn shared(one: &Footing, other: &Footing) -> bool {
    let any = |these: &[Thing], those: &[Thing]| these.iter().any(|thing| those.contains(thing));
    any(&one.is, &other.is) || any(&one.is, &other.within) || any(&one.within, &other.is)
}

impl Footing {
    fn of_path(path: &Path) -> Self {
        Self::of(stat(path).ok())
    }

    /// Of what stat(2) tells; of nothing that is known, if it tells nothing.
    fn of(stat: Option<Stat>) -> Self {
        let mut footing = Self::default();
        if let Some(stat) = stat {
            footing.add(&stat, true);
        }
        footing
    }

    /// Adds a file or device, all of which the disk is or only a part, and what that is made of.
    fn add(&mut self, stat: &Stat, is_all: bool) {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                self.put(Thing::File(stat.st_dev, stat.st_ino), is_all);
            }
            FileType::BlockDevice => self.add_device(stat.st_rdev, is_all),
            _ => {}
        }
    }

    fn add_device(&mut self, number: u64, is_all: bool) {
        if !self.put(Thing::Device(number), is_all) {
            return;
        }
        let device = Device::of(number);
        if let Some(backing) = device.backing_file()
            && let Ok(file) = stat(&backing.path)
        {
            self.add(&file, is_all && backing.is_all);
        }
        for below in device.below() {
            self.add_device(below, false);
        }
    }

    /// False if it was known, so that circles end.
    fn put(&mut self, thing: Thing, is_all: bool) -> bool {
        let known = self.is.contains(&thing) || self.within.contains(&thing);
        if !known {
            let these = if is_all {
                &mut self.is
            } else {
                &mut self.within
            };
            these.push(thing);
        }
        !known
    }
}

#[cfg(test)]
mod tests {
    use super::{Footing, Thing, check_apart, shared};
    use crate::address::Address;
    use crate::error::Kind;

    fn made(is: &[u64], within: &[u64]) -> Footing {
        let things = |numbers: &[u64]| {
            numbers
                .iter()
                .map(|number| Thing::Device(*number))
                .collect()
        };
        Footing {
            is: things(is),
            within: things(within),
        }
    }

    #[test]
    fn a_part_of_a_disk_is_shared_with_it_and_not_with_another_part() {
        let (disk, one, two) = (made(&[1], &[]), made(&[2], &[1]), made(&[3], &[1]));
        let again = made(&[4, 1], &[]);
        for (left, right, same) in [
            (&disk, &disk, true),
            (&disk, &again, true),
            (&disk, &one, true),
            (&again, &one, true),
            (&one, &two, false),
            (&one, &one, true),
            (&made(&[], &[]), &made(&[], &[]), false),
        ] {
            assert_eq!(shared(left, right), same, "{left:?} {right:?}");
            assert_eq!(shared(right, left), same, "{right:?} {left:?}");
        }
    }

    #[test]
    fn a_file_of_an_image_counts_and_what_is_no_disk_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let [image, part, other] = ["image", "part", "other"].map(|name| dir.path().join(name));
        for path in [&image, &part, &other] {
            std::fs::write(path, "x").unwrap();
        }
        let check = |target: &std::path::Path| {
            let [source, target] = [&*image, target].map(|path| Address::Path(path.to_owned()));
            check_apart(&source, std::slice::from_ref(&part), &target)
        };
        for path in [&image, &part] {
            assert_eq!(check(path).unwrap_err().kind(), Kind::Refused);
        }
        check(&other).unwrap();
        check(&dir.path().join("new")).unwrap();
        let export = |name: &str| Address::Nbd(format!("nbd://localhost/{name}"));
        let same = check_apart(&export("a"), &[], &export("a"));
        assert_eq!(same.unwrap_err().kind(), Kind::Refused);
        check_apart(&export("a"), &[], &export("b")).unwrap();
        let zero = Address::Path("/dev/zero".into());
        check_apart(&zero, &[], &zero).unwrap();
    }
}
