//! How many requests each of several jobs may have in flight, so that they end together.
//!
//! Whoever has the most left gets the most. With slots in proportion to what is left, everybody
//! needs the same time for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shares out `slots` among jobs that have so many bytes `left`. Pure.
///
/// Everybody gets one. Each further slot goes to whoever would need the longest with what it has,
/// so that the last one ends as early as it can.
#[must_use]
pub fn shares(left: &[u64], slots: usize) -> Vec<usize> {
    let mut shares = vec![1usize; left.len()];
    for _ in left.len()..slots {
        let jobs = left.iter().zip(&mut shares);
        let slowest = jobs.max_by(|(a, share_a), (b, share_b)| {
            let scaled = |left: u64, share: usize| u128::from(left).saturating_mul(wide(share));
            let (time_a, time_b) = (scaled(**a, **share_b), scaled(**b, **share_a));
            time_a.cmp(&time_b).then(share_b.cmp(share_a))
        });
        if let Some((_, share)) = slowest {
            *share = share.saturating_add(1);
        }
    }
    shares
}

fn wide(share: usize) -> u128 {
    u128::try_from(share).unwrap_or(u128::MAX)
}

/// Jobs that share request slots. Cloning shares the team.
#[derive(Clone, Debug)]
pub struct Team(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    slots: usize,
    /// What each job has left, in bytes.
    left: BTreeMap<u64, u64>,
    next: u64,
}

/// A job's place in its team. It leaves when this is dropped.
#[derive(Debug)]
pub struct Share {
    team: Team,
    job: u64,
}

/// What a job of a team may have in flight.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Allowance {
    /// Requests.
    pub slots: usize,
    /// Bytes.
    pub bytes: u64,
    /// There is no other job.
    pub alone: bool,
}

impl Team {
    /// A team that may have `slots` requests in flight together.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            slots,
            left: BTreeMap::new(),
            next: 0,
        })))
    }

    /// Takes in a job with `left` bytes to go.
    #[must_use]
    pub fn join(&self, left: u64) -> Share {
        let job = {
            let mut state = self.state();
            let job = state.next;
            state.next = job.saturating_add(1);
            state.left.insert(job, left);
            job
        };
        let team = self.clone();
        Share { team, job }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// How many requests this job may have in flight, now that it has `left` bytes to go.
    #[must_use]
    pub fn slots(&self, left: u64) -> usize {
        self.allowance(left, 0).slots
    }

    /// The same, and how many bytes they may copy, where `enough` would do for a job by itself.
    ///
    /// Bytes are what bounds long requests, and so are shared out in the same proportion.
    #[must_use]
    pub fn allowance(&self, left: u64, enough: u64) -> Allowance {
        let mut state = self.team.state();
        state.left.insert(self.job, left);
        let all: Vec<u64> = state.left.values().copied().collect();
        let place = state.left.keys().position(|job| *job == self.job);
        let shares = shares(&all, state.slots);
        let slots = place
            .and_then(|place| shares.get(place).copied())
            .unwrap_or(1);
        let given = shares
            .iter()
            .fold(0, |sum, share| wide(*share).saturating_add(sum));
        let jobs = wide(all.len());
        let of_all = u128::from(enough)
            .saturating_mul(jobs)
            .saturating_mul(wide(slots));
        let bytes = of_all.checked_div(given).unwrap_or(0);
        Allowance {
            slots,
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
            alone: all.len() < 2,
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.team.state().left.remove(&self.job);
    }
}

#[cfg(test)]
mod tests {
    use super::{Team, shares};
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    #[test]
    fn the_disk_with_the_most_left_gets_the_most() {
        assert_eq!(shares(&[300, 100], 40), [30, 10]);
        assert_eq!(shares(&[5, 0, 5], 9), [4, 1, 4]);
        assert_eq!(shares(&[0, 0], 8), [4, 4], "nothing is known of either");
        assert!(shares(&[], 9).is_empty());
    }

    #[test]
    fn whoever_leaves_makes_room_for_the_others() {
        let team = Team::new(16);
        let first = team.join(100);
        assert_eq!(first.slots(100), 16);
        let second = team.join(100);
        assert_eq!((first.slots(100), second.slots(100)), (8, 8));
        drop(first);
        assert_eq!(second.slots(1), 16);
    }

    #[test]
    fn bytes_in_flight_are_shared_as_slots_are_and_together_are_enough_for_each() {
        let team = Team::new(40);
        let (large, small) = (team.join(300), team.join(100));
        let (large, small) = (large.allowance(300, 8), small.allowance(100, 8));
        assert_eq!((large.bytes, small.bytes), (12, 4));
        assert!(!large.alone);
        let one = team.join(0).allowance(0, 8);
        assert!(one.bytes <= 8, "{one:?}");
    }

    proptest! {
        #[test]
        fn every_slot_is_given_once_and_more_left_never_gets_less(
            left in vec(0u64..1 << 50, 1..12),
            slots in 0usize..300,
        ) {
            let found = shares(&left, slots);
            prop_assert!(found.iter().all(|share| *share >= 1));
            prop_assert_eq!(found.iter().sum::<usize>(), slots.max(left.len()));
            for (a, more) in left.iter().zip(&found) {
                for (b, less) in left.iter().zip(&found) {
                    prop_assert!(a <= b || more >= less, "{:?} {:?}", left, found);
                }
            }
        }

        /// Oracle: a clock. Jobs that move as many bytes as they have slots end nearly together,
        /// as long as none of them is due less than a slot.
        #[test]
        fn jobs_end_together(begin in vec(2_000u64..20_000, 2..9)) {
            let slots = 16 * begin.len();
            let mut left = begin.clone();
            let mut ends = vec![0u64; begin.len()];
            let mut now = 0;
            while left.iter().any(|left| *left > 0) {
                now += 1;
                let running: Vec<usize> = (0..left.len()).filter(|job| left[*job] > 0).collect();
                let those: Vec<u64> = running.iter().map(|job| left[*job]).collect();
                for (job, share) in running.iter().zip(shares(&those, slots)) {
                    left[*job] = left[*job].saturating_sub(share as u64);
                    if left[*job] == 0 {
                        ends[*job] = now;
                    }
                }
            }
            let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
            prop_assert!(last - first <= last / 5, "{:?} ended at {:?}", begin, ends);
        }
    }
}
