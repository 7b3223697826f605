//! Whose snapshot is which. Pure.
//!
//! Ours are told by their name: `diskferry MIGRATION point 3`. The whole name must be one that we
//! would have given: somebody who calls a snapshot "diskferry test" keeps it.

use super::soap::Moref;
use super::soap::answer::{BadAnswer, reference, truth};
use super::soap::xml::Node;
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use std::fmt;

/// The name of a migration is at most this long: a snapshot's name has room for 80 characters.
const MIGRATION_MAX: usize = 48;

/// A snapshot of a VM.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Snapshot {
    /// Its object.
    #[serde(skip)]
    pub on: Moref,
    /// Its name, as somebody gave it.
    pub name: String,
    /// When it was made, by the server's clock.
    pub created: String,
    /// Whether the guest wrote out its caches before.
    pub quiesced: bool,
    /// How many are above it.
    pub depth: usize,
    /// What it is to us, if it is ours.
    #[serde(skip)]
    pub tag: Option<Tag>,
}

/// Marks what a migration made.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Tag {
    migration: String,
    /// What it was made for.
    pub purpose: Purpose,
}

/// What a snapshot of ours was made for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Purpose {
    /// To be read: a point of the migration.
    Point(u32),
    /// To make tracking begin; removed at once.
    Activation,
}

impl Tag {
    /// A tag of `migration`.
    ///
    /// # Errors
    /// Its name cannot be told from other words: only letters, digits, `.`, `_` and `-` can.
    pub fn new(migration: &str, purpose: Purpose) -> Result<Self> {
        let sound = !migration.is_empty()
            && migration.len() <= MIGRATION_MAX
            && migration
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        let migration = migration.to_owned();
        match sound {
            true => Ok(Self { migration, purpose }),
            false => Err(Error::new(
                Kind::Usage,
                format!("{migration:?} cannot be the name of a migration"),
            )
            .hint(format!(
                "at most {MIGRATION_MAX} letters, digits, dots, dashes and underscores"
            ))),
        }
    }

    /// The tag that a snapshot's name is, if it is one.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let mut words = name.strip_prefix("diskferry ")?.split(' ');
        let migration = words.next()?;
        let purpose = match words.next()? {
            "point" => Purpose::Point(words.next()?.parse().ok()?),
            "activation" => Purpose::Activation,
            _ => return None,
        };
        let tag = Self::new(migration, purpose).ok()?;
        // `+3`, `03` or a word too many are not ours.
        (tag.to_string() == name).then_some(tag)
    }

    /// Whose it is.
    #[must_use]
    pub fn migration(&self) -> &str {
        &self.migration
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "diskferry {} ", self.migration)?;
        match self.purpose {
            Purpose::Point(number) => write!(f, "point {number}"),
            Purpose::Activation => f.write_str("activation"),
        }
    }
}

/// The snapshots in the property `snapshot` of a VM, which is not set where there are none.
///
/// # Errors
/// One of them lacks what every snapshot has.
pub fn snapshots(property: Option<&Node>) -> Result<Vec<Snapshot>, BadAnswer> {
    let mut found = Vec::new();
    let roots = property
        .into_iter()
        .flat_map(|info| info.all("rootSnapshotList"));
    let mut todo: Vec<(&Node, usize)> = roots.map(|root| (root, 0)).collect();
    todo.reverse();
    while let Some((node, depth)) = todo.pop() {
        let name = node.text_of("name").unwrap_or_default().to_owned();
        let on = node
            .child("snapshot")
            .ok_or(BadAnswer::Missing("snapshot"))?;
        found.push(Snapshot {
            on: reference(on)?,
            tag: Tag::of(&name),
            name,
            created: node.text_of("createTime").unwrap_or_default().to_owned(),
            quiesced: node.text_of("quiesced").is_some_and(truth),
            depth,
        });
        let first = todo.len();
        let below = node.all("childSnapshotList");
        todo.extend(below.map(|child| (child, depth.saturating_add(1))));
        if let Some(added) = todo.get_mut(first..) {
            added.reverse();
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Purpose, Tag, snapshots};
    use crate::vsphere::soap::xml::parse;

    #[test]
    fn a_tag_is_read_back_and_nothing_else_is_taken_for_one() {
        for purpose in [
            Purpose::Point(0),
            Purpose::Point(u32::MAX),
            Purpose::Activation,
        ] {
            let tag = Tag::new("web01-2026.a_b", purpose).unwrap();
            assert_eq!(Tag::of(&tag.to_string()), Some(tag.clone()));
            assert!(tag.to_string().len() <= 80);
        }
        for name in [
            "diskferry",
            "diskferry test",
            "diskferry a point",
            "diskferry a point x",
            "diskferry a point +3",
            "diskferry a point 03",
            "diskferry a point 3 ",
            "diskferry a point 3 b",
            "diskferry  point 3",
            "Diskferry a point 3",
            "before diskferry a point 3",
            "diskferry a activation now",
            "diskferry ä point 3",
        ] {
            assert_eq!(Tag::of(name), None, "{name}");
        }
        assert!(Tag::new("a b", Purpose::Activation).is_err());
        assert!(Tag::new("", Purpose::Activation).is_err());
        assert!(Tag::new(&"x".repeat(49), Purpose::Activation).is_err());
    }

    #[test]
    fn a_tree_is_told_parents_first_and_ours_among_them() {
        let one = |name: &str, inside: &str| {
            format!(
                "<snapshot type=\"S\">s-{}</snapshot><name>{name}</name>{inside}",
                name.len()
            )
        };
        let grandchild = one("diskferry m point 7", "");
        let child = one(
            "b",
            &format!("<childSnapshotList>{grandchild}</childSnapshotList>"),
        );
        let roots = one(
            "aa",
            &format!("<childSnapshotList>{child}</childSnapshotList>"),
        );
        let other = one("ccc", "<quiesced>true</quiesced>");
        let text = format!(
            "<val><rootSnapshotList>{roots}</rootSnapshotList>\
             <rootSnapshotList>{other}</rootSnapshotList></val>"
        );
        let found = snapshots(Some(&parse(&text).unwrap())).unwrap();
        let seen: Vec<_> = found.iter().map(|s| (s.name.as_str(), s.depth)).collect();
        assert_eq!(
            seen,
            [("aa", 0), ("b", 1), ("diskferry m point 7", 2), ("ccc", 0)]
        );
        assert_eq!(found[2].tag.as_ref().unwrap().purpose, Purpose::Point(7));
        assert!(found[3].quiesced);
        assert_eq!(snapshots(None), Ok(Vec::new()));
    }
}
