//! What is under way, and whether more may be. Pure.
//!
//! A request that copies asks the source, then the target. Both kinds are bounded by themselves: a
//! target that is slow for a while must not keep the source from being asked, and what waits for
//! the target is not what a source that is near needs to have before it.

use super::team::Allowance;
use crate::plan::Step;

/// Requests that may be under way however long they are.
const ENOUGH_REQUESTS: usize = 3;

/// Ranges that may be zeroed at once. A disk does one after the other anyway, and a thread waits
/// for each.
const ENOUGH_ZEROES: usize = 8;

/// Counts requests.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// Those that copy, and their bytes.
    copies: usize,
    bytes: u64,
    /// Of these, what the source was asked for.
    reads: usize,
    reading: u64,
    /// Those that zero.
    zeroes: usize,
}

impl Flight {
    /// `step` is under way.
    pub(super) fn sent(&mut self, step: Step) {
        match step {
            Step::Copy(range) => {
                self.copies = self.copies.saturating_add(1);
                self.bytes = self.bytes.saturating_add(range.len());
                self.reads = self.reads.saturating_add(1);
                self.reading = self.reading.saturating_add(range.len());
            }
            Step::Zero(_) => self.zeroes = self.zeroes.saturating_add(1),
        }
    }

    /// The source has answered; `step` is one that copies.
    pub(super) fn read(&mut self, step: Step) {
        self.reads = self.reads.saturating_sub(1);
        self.reading = self.reading.saturating_sub(step.range().len());
    }

    /// `step` is complete.
    pub(super) fn ended(&mut self, step: Step) {
        match step {
            Step::Copy(range) => {
                self.copies = self.copies.saturating_sub(1);
                self.bytes = self.bytes.saturating_sub(range.len());
            }
            Step::Zero(_) => self.zeroes = self.zeroes.saturating_sub(1),
        }
    }

    /// Whether `next` may be sent, where `ahead` bytes are what a source should be asked for.
    pub(super) fn has_room(&self, next: Option<&Step>, may: Allowance, ahead: u64) -> bool {
        // Among others a short allowance is short on purpose: those who have more left end with it.
        let few = if may.alone { ENOUGH_REQUESTS } else { 1 };
        let enough = match next {
            Some(Step::Zero(_)) => self.zeroes >= ENOUGH_ZEROES,
            _ => {
                let asked = self.reads >= few && self.reading >= ahead;
                asked || (self.copies >= few && self.bytes >= may.bytes)
            }
        };
        self.copies.saturating_add(self.zeroes) < may.slots && !enough
    }
}

#[cfg(test)]
mod tests {
    use super::Flight;
    use crate::extent::ByteRange;
    use crate::pipeline::team::Allowance;
    use crate::plan::Step;

    const MIB: u64 = 1 << 20;
    const AHEAD: u64 = 6 * MIB;

    fn allowance(alone: bool) -> Allowance {
        Allowance {
            slots: 64,
            bytes: 16 * MIB,
            alone,
        }
    }

    /// Sends what may be sent, in steps of so many bytes; gives their number.
    fn fill(flight: &mut Flight, length: u64, may: Allowance) -> usize {
        let step = Step::Copy(ByteRange::at(0, length));
        let sent = std::iter::repeat_with(|| {
            let room = flight.has_room(Some(&step), may, AHEAD);
            room.then(|| flight.sent(step))
        });
        sent.map_while(|sent| sent).count()
    }

    #[test]
    fn a_source_is_asked_for_as_much_as_it_should_be() {
        let mut flight = Flight::default();
        assert_eq!(fill(&mut flight, MIB, allowance(true)), 6);
    }

    #[test]
    fn what_waits_for_the_target_does_not_keep_a_source_from_being_asked_until_it_is_too_much() {
        let mut flight = Flight::default();
        let step = Step::Copy(ByteRange::at(0, MIB));
        for expected in [6, 6, 4, 0] {
            assert_eq!(fill(&mut flight, MIB, allowance(true)), expected);
            (0..expected).for_each(|_| flight.read(step));
        }
        flight.ended(step);
        assert_eq!(fill(&mut flight, MIB, allowance(true)), 1);
    }

    #[test]
    fn three_long_requests_may_be_out_and_one_among_other_jobs() {
        for (alone, expected) in [(true, 3), (false, 1)] {
            let mut flight = Flight::default();
            assert_eq!(fill(&mut flight, 32 * MIB, allowance(alone)), expected);
        }
    }

    #[test]
    fn short_requests_are_bounded_by_their_number() {
        let mut flight = Flight::default();
        assert_eq!(fill(&mut flight, 4096, allowance(true)), 64);
    }

    #[test]
    fn few_ranges_are_zeroed_at_once_however_much_is_copied() {
        let mut flight = Flight::default();
        fill(&mut flight, MIB, allowance(true));
        let zero = Step::Zero(ByteRange::at(0, MIB));
        for _ in 0..8 {
            assert!(flight.has_room(Some(&zero), allowance(true), AHEAD));
            flight.sent(zero);
        }
        assert!(!flight.has_room(Some(&zero), allowance(true), AHEAD));
        flight.ended(zero);
        assert!(flight.has_room(Some(&zero), allowance(true), AHEAD));
    }
}
