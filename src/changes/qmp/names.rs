//! What a migration calls the things that it makes on a VM.
//!
//! A process that finds such a name knows whose it is, and which point and disk it belongs to;
//! there is no other record. A block node's name may have 31 characters, which is why a migration
//! and a disk are in it as the beginning of a digest.
//!
//! ```text
//!  df-1b4e28ba-2-9f86d0           overlay (a node, and its file), job and export: point 2, a disk
//!  df-1b4e28ba-2-9f86d0c          the filter that QEMU puts on the disk while the job runs
//!  df-1b4e28ba-2-of-1073741824    bitmap on the disk's node: changes since point 2, when the disk
//!                                 had that many bytes
//!  df-1b4e28ba.nbd                socket of the NBD server, in the scratch directory
//! ```

use std::fmt;

/// Digits of a digest that stand for a migration, and for a disk.
const TAG_DIGITS: usize = 8;
const DISK_DIGITS: usize = 6;

/// What all names of a migration begin with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tag(String);

impl Tag {
    /// The tag of the migration with this id.
    #[must_use]
    pub fn of(migration: &str) -> Self {
        Self(format!("df-{}", digest(migration, TAG_DIGITS)))
    }

    /// Overlay, job and export of a disk at a point.
    #[must_use]
    pub fn view(&self, number: u32, disk: &Key) -> String {
        format!("{self}-{number}-{disk}")
    }

    /// The filter above the disk.
    #[must_use]
    pub fn filter(&self, number: u32, disk: &Key) -> String {
        format!("{self}-{number}-{disk}c")
    }

    /// The bitmap of what changes after a point, on a disk of `size` bytes.
    #[must_use]
    pub fn bitmap(&self, number: u32, size: u64) -> String {
        format!("{self}-{number}-of-{size}")
    }

    /// The NBD server's socket.
    #[must_use]
    pub fn socket(&self) -> String {
        format!("{self}.nbd")
    }

    /// Whether a file in the scratch directory is the socket of another migration's NBD server.
    #[must_use]
    pub fn is_socket_of_another(&self, name: &str) -> bool {
        let digits = |name: &str| Some(name.strip_prefix("df-")?.strip_suffix(".nbd")?.to_owned());
        let tagged = digits(name).is_some_and(|digits| {
            digits.len() == TAG_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        tagged && name != self.socket()
    }

    /// Which point a view is of, if it is one of this migration.
    #[must_use]
    pub fn view_number(&self, name: &str) -> Option<u32> {
        let (number, disk) = self.numbered(name)?;
        let plain = disk.len() == DISK_DIGITS && disk.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then_some(number)
    }

    /// Which point a bitmap counts from, and the size of its disk, if it is one of this migration.
    #[must_use]
    pub fn bitmap_parts(&self, name: &str) -> Option<(u32, u64)> {
        let (number, size) = self.numbered(name)?;
        let size: u64 = size.strip_prefix("of-")?.parse().ok()?;
        (self.bitmap(number, size) == name).then_some((number, size))
    }

    /// Whether a file in the scratch directory is one of this migration.
    #[must_use]
    pub fn owns_file(&self, name: &str) -> bool {
        name == self.socket() || self.view_number(name).is_some()
    }

    fn numbered<'a>(&self, name: &'a str) -> Option<(u32, &'a str)> {
        let rest = name.strip_prefix(&self.0)?.strip_prefix('-')?;
        let (digits, rest) = rest.split_once('-')?;
        let number: u32 = digits.parse().ok()?;
        (number.to_string() == digits).then_some((number, rest))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands for a disk in a name, whatever the order of the disks.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Key(String);

impl Key {
    /// The key of the disk with this name.
    #[must_use]
    pub fn of(disk: &str) -> Self {
        Self(digest(disk, DISK_DIGITS))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn digest(text: &str, digits: usize) -> String {
    let hex = blake3::hash(text.as_bytes()).to_hex();
    hex.chars().take(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::{Key, Tag};

    /// `sizeof(BlockDriverState::node_name) - 1`.
    const NODE_NAME_MAX: usize = 31;

    #[test]
    fn the_longest_name_fits_and_every_name_is_read_back() {
        let (tag, disk) = (Tag::of("a migration"), Key::of("root"));
        for number in [1, 9, u32::MAX] {
            let (view, filter) = (tag.view(number, &disk), tag.filter(number, &disk));
            assert!(filter.len() <= NODE_NAME_MAX, "{filter}");
            assert_eq!(tag.view_number(&view), Some(number));
            assert!(tag.owns_file(&view));
            assert_eq!(tag.view_number(&filter), None, "a filter is no view");
            let bitmap = tag.bitmap(number, u64::MAX);
            assert_eq!(tag.bitmap_parts(&bitmap), Some((number, u64::MAX)));
            assert_eq!(tag.view_number(&bitmap), None);
        }
        assert!(tag.owns_file(&tag.socket()));
    }

    #[test]
    fn what_others_made_is_not_taken_for_ours() {
        let tag = Tag::of("one");
        let other = Tag::of("two");
        let disk = Key::of("root");
        for name in [
            other.view(1, &disk),
            format!("{tag}-01-{disk}"),
            format!("{tag}-1-{disk}x"),
            format!("{tag}-1-"),
            format!("{tag}1-{disk}"),
            format!("x{}", tag.view(1, &disk)),
            format!("{tag}-4294967296-{disk}"),
            "libvirt-1-format".to_owned(),
            String::new(),
        ] {
            assert_eq!(tag.view_number(&name), None, "{name}");
            assert!(!tag.owns_file(&name), "{name}");
            assert!(!tag.is_socket_of_another(&name), "{name}");
        }
        assert!(tag.is_socket_of_another(&other.socket()) && !tag.owns_file(&other.socket()));
        assert!(!tag.is_socket_of_another(&tag.socket()));
        for name in ["1-of-", "1-of-x", "1-of-01", "1-of--1", "-of-1"] {
            assert_eq!(tag.bitmap_parts(&format!("{tag}-{name}")), None, "{name}");
        }
    }
}
