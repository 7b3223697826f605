//! How much changed up to a point: asked of each disk's list before it is copied.

use super::pool::Links;
use super::scene::{Scene, interrupted, raw};
use crate::changes::guest::Point;
use crate::changes::nbd_bitmap::{self, NbdBitmap};
use crate::changes::{Baseline, Tracker};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::job::any_source;
use crate::migrate::phase::Changed;
use crate::pipeline::Stop;
use futures_util::future::try_join_all;

/// The list is asked for this much of a disk at a time.
const WINDOW: u64 = 1 << 30;

/// Bytes that each disk's list names; `None` where there is no list. A list that cannot be told is
/// noted as [`lost`](Point::lost).
///
/// # Errors
/// A disk cannot be read, or `halt` came.
pub(super) async fn changed(
    scene: &Scene,
    points: &mut [Point],
    mut halt: Stop,
) -> Result<Vec<Option<u64>>> {
    let each = points.iter_mut().map(|point| async {
        let counted = count(scene, point).await;
        match counted {
            Err(error) if tells_nothing(error.kind()) => {
                point.lost = Some(error.line());
                Ok(None)
            }
            counted => counted.map_err(|error| error.context(format!("disk {}", point.name))),
        }
    });
    tokio::select! {
        counted = try_join_all(each) => counted,
        () = halt.requested() => Err(interrupted()),
    }
}

/// Whether the failure is the list's own, and not of the way to it.
fn tells_nothing(kind: Kind) -> bool {
    matches!(kind, Kind::Refused | Kind::Unsupported | Kind::Corrupt)
}

/// What the lists say together. `same` says of a disk that the final pass before compared all of it
/// and found nothing to write.
pub(super) fn verdict(
    points: &[Point],
    changed: &[Option<u64>],
    same: impl Fn(usize) -> bool,
) -> Changed {
    let mut disks = points.iter().zip(changed);
    let some = disks
        .any(|(point, changed)| point.since.is_none() || changed.is_some_and(|count| count > 0));
    let mut lost = points.iter().enumerate();
    if some {
        Changed::Something
    } else if lost.any(|(i, point)| point.lost.is_some() && !same(i)) {
        Changed::Lost
    } else if changed.contains(&None) {
        Changed::Unknown
    } else {
        Changed::Nothing
    }
}

async fn count(scene: &Scene, point: &Point) -> Result<Option<u64>> {
    let Some(Baseline::NbdBitmap(name)) = &point.since else {
        return Ok(None);
    };
    let contexts = vec![nbd_bitmap::context(name)];
    // A few questions, one after the other.
    let links = Links {
        at_once: 1,
        each: Some(1),
    };
    let disk = any_source(&point.address, &raw(), &scene.tuning(links), contexts).await?;
    let client = disk.client.ok_or_else(|| {
        let what = format!("{} has no dirty bitmaps", point.address);
        Error::new(Kind::Refused, what)
    })?;
    let tracker = NbdBitmap::new(client, name)?;
    let mut rest = ByteRange::new(0, point.size);
    let mut changed = 0u64;
    while !rest.is_empty() {
        let (window, _) = rest.split(WINDOW);
        let answer = tracker.changes(window).await?;
        let told = answer.changed.iter().map(|range| range.len());
        changed = told.fold(changed, u64::saturating_add);
        if answer.known.start != rest.start || answer.known.is_empty() {
            let what = format!("the tracker answered {} for {window}", answer.known);
            return Err(Error::new(Kind::Corrupt, what));
        }
        rest = ByteRange::new(answer.known.end, rest.end);
    }
    Ok(Some(changed))
}

#[cfg(test)]
mod tests {
    use super::{Baseline, Changed, Point, verdict};
    use crate::address::Address;

    fn point(since: Option<Baseline>, lost: bool) -> Point {
        Point {
            name: "a".to_owned(),
            address: Address::Null,
            size: 1,
            since,
            lost: lost.then(|| "why".to_owned()),
        }
    }

    #[test]
    fn only_a_list_that_is_there_and_empty_says_that_nothing_changed() {
        let bitmap = || point(Some(Baseline::NbdBitmap("b".to_owned())), false);
        let digest = |lost| point(Some(Baseline::Digest), lost);
        let nothing_yet = point(None, false);
        for (points, changed, told) in [
            (vec![bitmap()], vec![Some(0)], Changed::Nothing),
            (vec![bitmap()], vec![Some(1)], Changed::Something),
            (
                vec![bitmap(), digest(false)],
                vec![Some(0), None],
                Changed::Unknown,
            ),
            (
                vec![bitmap(), digest(true)],
                vec![Some(0), None],
                Changed::Lost,
            ),
            (
                vec![bitmap(), digest(true)],
                vec![Some(1), None],
                Changed::Something,
            ),
            (vec![nothing_yet], vec![None], Changed::Something),
        ] {
            assert_eq!(verdict(&points, &changed, |_| false), told, "{points:?}");
        }
    }

    #[test]
    fn a_list_that_is_lost_is_made_up_for_by_a_final_pass_that_found_that_disk_the_same() {
        let lost = || point(Some(Baseline::Digest), true);
        let told = |same: &[bool]| verdict(&[lost(), lost()], &[None, None], |i| same[i]);
        assert_eq!(told(&[true, true]), Changed::Unknown);
        assert_eq!(told(&[true, false]), Changed::Lost);
    }
}
