//! Whether changes since a point can be believed. Pure.
//!
//! Where they cannot, the disk is read and compared instead. That costs a read; believing a list
//! that lacks something costs the data.

use crate::error::{Error, Kind};
use crate::vsphere::changes::ChangeId;
use crate::vsphere::disk::Disk;
use crate::vsphere::soap::fault;

/// Whether what failed is the telling of changes itself: the server knows the change id no more, or
/// told areas that cannot be.
#[must_use]
pub fn unbelieved(error: &Error) -> bool {
    let told = fault::of(error).is_some_and(|fault| {
        ["FileFault", "InvalidArgument", "NotSupported", "NotFound"].contains(&fault.name.as_str())
    });
    told || error.kind() == Kind::Corrupt
}

/// Why changes up to `now` since `since` cannot be told, if they cannot.
#[must_use]
pub fn lost(since: &ChangeId, now: &Disk) -> Option<String> {
    let Some(id) = &now.change_id else {
        return Some(format!("{} is not tracked", now.label));
    };
    let everything = *since == ChangeId::everything();
    (!everything && id.epoch() != since.epoch()).then(|| {
        format!(
            "tracking of {} was reset: it began with {} and is at {id} now",
            now.label, since
        )
    })
}

/// Why changes since `then` cannot be told, for the same disk `now`.
///
/// A disk that grew is not believed: hosts have told wrong areas after that.
pub(super) fn lost_since(then: &Disk, now: &Disk) -> Option<String> {
    if !then.is_the_same_as(now) {
        return Some(format!(
            "{} is not the disk any more that it was",
            now.label
        ));
    }
    if then.capacity != now.capacity {
        let (before, after) = (then.capacity, now.capacity);
        return Some(format!(
            "{} had {before} bytes and has {after} now",
            now.label
        ));
    }
    match &then.change_id {
        Some(since) => lost(since, now),
        None => Some(format!("{} was not tracked at the point before", now.label)),
    }
}

#[cfg(test)]
mod tests {
    use super::{lost, lost_since};
    use crate::vsphere::changes::ChangeId;
    use crate::vsphere::disk::Disk;

    fn disk(id: Option<&str>) -> Disk {
        Disk {
            key: 2000,
            label: "Hard disk 1".to_owned(),
            slot: None,
            file: "[d] v/v.vmdk".to_owned(),
            parents: Vec::new(),
            object_id: None,
            uuid: Some("u".to_owned()),
            capacity: 1024,
            change_id: id.map(|id| ChangeId::new(id.to_owned()).unwrap()),
            obstacle: None,
        }
    }

    #[test]
    fn changes_within_one_epoch_are_believed() {
        assert_eq!(lost_since(&disk(Some("a-b/1")), &disk(Some("a-b/7"))), None);
        let file = Disk {
            file: "[d] v/v-000001.vmdk".to_owned(),
            ..disk(Some("a-b/7"))
        };
        assert_eq!(
            lost_since(&disk(Some("a-b/1")), &file),
            None,
            "files change"
        );
    }

    #[test]
    fn a_reset_a_missing_id_another_size_and_another_disk_are_not() {
        let then = disk(Some("a-b/9"));
        let reasons = [
            (disk(Some("c-d/1")), "reset"),
            (disk(None), "not tracked"),
            (
                Disk {
                    capacity: 2048,
                    ..disk(Some("a-b/10"))
                },
                "has 2048 now",
            ),
            (
                Disk {
                    uuid: Some("v".to_owned()),
                    ..disk(Some("a-b/10"))
                },
                "not the disk",
            ),
        ];
        for (now, why) in reasons {
            let lost = lost_since(&then, &now).unwrap_or_default();
            assert!(lost.contains(why), "{lost} / {why}");
        }
        assert!(lost_since(&disk(None), &disk(Some("a-b/1"))).is_some());
    }

    #[test]
    fn everything_is_of_every_epoch_but_needs_tracking() {
        assert_eq!(lost(&ChangeId::everything(), &disk(Some("a/1"))), None);
        assert!(lost(&ChangeId::everything(), &disk(None)).is_some());
    }
}
