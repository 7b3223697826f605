//! Memory that waits to be used again, and how much of it there may be. Decides; allocates through
//! [`memory`](super::memory).
//!
//! Small pieces are cut from huge pages while those are at most a quarter of the budget; a huge page
//! is never given back, as its pieces are all over the place. Memory of its own goes back when
//! another size is wanted and the budget is used up, the coldest first. So all memory that exists
//! is at most the budget and that quarter, whatever sizes are asked for.

use super::memory::{HUGE, Memory, pieces};

/// Shorter pieces are not worth a huge page.
const PIECE_MIN: usize = 64 << 10;

/// Memory that is not in use now, last in first out: what was used last is still in the cache.
pub(super) struct Shelf {
    free: Vec<Memory>,
    capacity: usize,
    /// Bytes of memory of its own, on the shelf and in use.
    own: usize,
    /// Bytes of huge pages that were cut into pieces.
    cut: usize,
}

impl Shelf {
    /// An empty shelf of a budget of `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            free: Vec::new(),
            capacity,
            own: 0,
            cut: 0,
        }
    }

    /// Memory of `class` bytes, a power of two: warm if there is any.
    pub(super) fn take(&mut self, class: usize) -> Memory {
        if let Some(found) = self.free.iter().rposition(|memory| memory.len() == class) {
            return self.free.remove(found);
        }
        if self.may_cut(class) {
            self.free.extend(pieces(class));
            self.cut = self.cut.saturating_add(HUGE);
            if let Some(memory) = self.free.pop() {
                return memory;
            }
        }
        self.make_room(class);
        self.own = self.own.saturating_add(class);
        Memory::new(class)
    }

    /// Takes back what is not in use any more.
    pub(super) fn put(&mut self, memory: Memory) {
        self.free.push(memory);
    }

    fn may_cut(&self, class: usize) -> bool {
        (PIECE_MIN..HUGE).contains(&class) && self.cut.saturating_add(HUGE) <= self.capacity / 4
    }

    /// Gives memory back to the system until `class` bytes fit, or none is left to give.
    fn make_room(&mut self, class: usize) {
        let full = |shelf: &Self| {
            let exists = shelf.own.saturating_add(shelf.cut);
            exists.saturating_add(class) > shelf.capacity
        };
        while full(self) {
            let Some(cold) = self.free.iter().position(Memory::is_own) else {
                return;
            };
            let gone = self.free.remove(cold);
            self.own = self.own.saturating_sub(gone.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HUGE, Shelf};
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    #[test]
    fn pieces_of_one_huge_page_lie_side_by_side_and_are_all_used() {
        let mut shelf = Shelf::new(HUGE * 4);
        let taken: Vec<_> = (0..4).map(|_| shelf.take(HUGE / 4)).collect();
        let mut starts: Vec<_> = taken.iter().map(|m| m.bytes().as_ptr().addr()).collect();
        starts.sort_unstable();
        assert_eq!(starts[0] % HUGE, 0);
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == HUGE / 4));
        assert_eq!((shelf.cut, shelf.own), (HUGE, 0));
        let more = shelf.take(HUGE / 4);
        assert!(more.is_own(), "a quarter of the budget is cut already");
    }

    proptest! {
        /// Whatever is taken and put back, what exists is what was promised, and is zero at first.
        #[test]
        fn what_exists_stays_within_the_budget_and_a_quarter(
            steps in prop::collection::vec((12u32..22, any::<bool>()), 1..60),
        ) {
            let capacity = 8 * HUGE;
            let mut shelf = Shelf::new(capacity);
            let mut out = Vec::new();
            let mut used = 0;
            for (log, put) in steps {
                let class = 1usize << log;
                if put && !out.is_empty() {
                    let memory: super::Memory = out.remove(0);
                    used -= memory.len();
                    shelf.put(memory);
                } else if used + class <= capacity {
                    let memory = shelf.take(class);
                    prop_assert_eq!(memory.len(), class);
                    used += class;
                    out.push(memory);
                }
                prop_assert!(shelf.cut <= capacity / 4);
                prop_assert!(shelf.own + shelf.cut <= capacity + capacity / 4);
            }
        }
    }
}
