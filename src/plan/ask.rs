//! Where to ask the source what is zero. Pure.

use crate::extent::ByteRange;

/// Where changes are many, shorter ones are read: a server takes as long to look what is zero there
/// as to read it, and what is read is searched for zeroes anyway.
const WORTH: u64 = 1 << 20;

/// More questions than this about a window take longer than one about all of it.
const QUESTIONS_MAX: usize = 8;

/// The parts of `todo`, which is in order, whose extents are worth a question: all of a full pass
/// and of a few changes, and of many changes only long ones. What is not asked about is data.
#[must_use]
pub fn worth_asking(todo: &[ByteRange]) -> Vec<ByteRange> {
    if todo.len() <= QUESTIONS_MAX {
        return todo.to_vec();
    }
    let mut long: Vec<_> = todo
        .iter()
        .copied()
        .filter(|range| range.len() >= WORTH)
        .collect();
    if long.len() > QUESTIONS_MAX
        && let (Some(first), Some(last)) = (long.first(), long.last())
    {
        long = vec![ByteRange::new(first.start, last.end)];
    }
    long
}

#[cfg(test)]
mod tests {
    use super::{QUESTIONS_MAX, WORTH, worth_asking};
    use crate::extent::ByteRange;

    #[test]
    fn a_whole_window_is_asked_about_and_scattered_blocks_are_not() {
        let window = ByteRange::new(0, 1 << 30);
        assert_eq!(worth_asking(&[window]), [window]);
        let scattered: Vec<_> = (0..1000).map(|n| ByteRange::at(n << 20, 65_536)).collect();
        assert!(worth_asking(&scattered).is_empty());
    }

    #[test]
    fn a_few_changes_are_asked_about_however_short() {
        let few: Vec<_> = (0..3).map(|n| ByteRange::at(n << 20, 65_536)).collect();
        assert_eq!(worth_asking(&few), few);
    }

    #[test]
    fn a_long_change_among_many_short_ones_is_asked_about_alone() {
        let mut todo: Vec<_> = (0..100).map(|n| ByteRange::at(n << 20, 512)).collect();
        let long = ByteRange::at(100 << 20, WORTH);
        todo.push(long);
        assert_eq!(worth_asking(&todo), [long]);
    }

    #[test]
    fn many_long_changes_are_one_question() {
        let todo: Vec<_> = (0..=u64::try_from(QUESTIONS_MAX).unwrap())
            .map(|n| ByteRange::at(n * 3 * WORTH, WORTH))
            .collect();
        let whole = ByteRange::new(0, todo.last().unwrap().end);
        assert_eq!(worth_asking(&todo), [whole]);
        assert_eq!(worth_asking(&todo[1..]).len(), QUESTIONS_MAX);
    }
}
