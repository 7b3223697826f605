//! Reading to the end, against a server that pages as it likes, and against servers that lie.

use super::{Areas, BadPage, ChangeId, Known, PAGES_KEPT, Page};
use crate::extent::ByteRange;
use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};

const GRAIN: u64 = 64 << 10;

/// A server that knows its areas and answers with at most so many.
struct Server<F: Fn(u64) -> Option<(u64, u64)>> {
    capacity: u64,
    most: usize,
    /// The area that begins at or after an offset.
    next: F,
    asked: usize,
    /// Every nth answer has no areas, and holds only for a little.
    empty: usize,
}

impl<F: Fn(u64) -> Option<(u64, u64)>> Server<F> {
    fn answer(&mut self, start: u64) -> Page {
        self.asked += 1;
        let empty = self.empty > 0 && self.asked.is_multiple_of(self.empty);
        let mut areas = Vec::new();
        let mut at = start;
        while areas.len() < self.most {
            let Some((area, length)) = (self.next)(at) else {
                break;
            };
            if empty {
                // About what lies before the next area, or as little as can be said.
                let length = (area - start).max(1);
                return match area > start {
                    true => Page {
                        start,
                        length,
                        areas,
                    },
                    false => Page {
                        start,
                        length: 1,
                        areas: vec![(area, 1)],
                    },
                };
            }
            areas.push((area, length));
            at = area + length;
        }
        let end = match areas.len() == self.most {
            true => at,
            false => self.capacity,
        };
        Page {
            start,
            length: end - start,
            areas,
        }
    }
}

/// Reads all changes as a pass does, window by window; gives what changed and the pages asked for.
fn read<F: Fn(u64) -> Option<(u64, u64)>>(
    server: &mut Server<F>,
    window: u64,
    mut visit: impl FnMut(ByteRange),
) -> Areas {
    let mut areas = Areas::new(server.capacity);
    let mut at = 0;
    while at < server.capacity {
        let end = (at + window).min(server.capacity);
        match areas.look(ByteRange::new(at, end)) {
            Known::Ask(from) => {
                let page = server.answer(from);
                areas.take(from, &page).unwrap();
            }
            Known::Changes { known, changed } => {
                assert_eq!(known.start, at);
                assert!(!known.is_empty() && known.end <= end);
                changed.into_iter().for_each(&mut visit);
                at = known.end;
            }
        }
    }
    areas
}

/// One area of a grain every two grains, `count` of them.
fn scattered(count: u64) -> impl Fn(u64) -> Option<(u64, u64)> {
    move |from| {
        let index = from.div_ceil(2 * GRAIN);
        (index < count).then_some((index * 2 * GRAIN, GRAIN))
    }
}

#[test]
fn no_area_is_lost_at_the_edge_of_a_page_and_a_million_take_constant_memory() {
    for count in [0, 1, 1999, 2000, 2001, 4000, 1_000_000] {
        let mut server = Server {
            capacity: (count + 1) * 2 * GRAIN,
            most: 2000,
            next: scattered(count),
            asked: 0,
            empty: 0,
        };
        let (mut seen, mut bytes, mut last) = (0u64, 0, 0);
        let areas = read(&mut server, 256 << 20, |range| {
            assert!(range.start >= last, "in order");
            (seen, bytes, last) = (seen + 1, bytes + range.len(), range.end);
        });
        assert_eq!(bytes, count * GRAIN, "{count} areas");
        assert!(seen >= count);
        assert!(areas.pages.len() <= PAGES_KEPT, "memory does not grow");
        assert!(areas.pages.iter().all(|page| page.areas.len() <= 2000));
        assert!(
            server.asked as u64 <= count / 1000 + 2,
            "{} pages",
            server.asked
        );
    }
}

/// Areas on a disk of 4096 bytes, in order, from gaps and lengths.
fn layout() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0u64..200, 1u64..100), 0..30).prop_map(|pieces| {
        let mut at = 0;
        let placed = pieces.into_iter().map(|(gap, length)| {
            let start = at + gap;
            at = start + length;
            (start, length)
        });
        placed
            .take_while(|(start, length)| start + length <= 4096)
            .collect()
    })
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

proptest! {
    /// Whatever the areas, the size of pages and of windows: exactly what changed is told.
    #[test]
    fn all_that_changed_is_told_and_nothing_else(
        layout in layout(),
        most in 1usize..40,
        window in 1u64..5000,
        empty in prop_oneof![Just(0usize), 2usize..4],
    ) {
        let mut oracle = vec![false; 4096];
        for (start, length) in &layout {
            (*start..start + length).for_each(|at| oracle[index(at)] = true);
        }
        let mut server = Server {
            capacity: 4096,
            most,
            // What lies before is cut off, as a server does that is asked in the middle.
            next: |from: u64| layout.iter().find(|(start, length)| start + length > from).map(
                |(start, length)| {
                    let begin = (*start).max(from);
                    (begin, start + length - begin)
                },
            ),
            asked: 0,
            empty,
        };
        let mut told = vec![false; 4096];
        read(&mut server, window, |range| {
            (range.start..range.end).for_each(|at| told[index(at)] = true);
        });
        prop_assert_eq!(told, oracle);
    }

    /// Whatever a server sends: an error, or a page that lies within the disk and in order.
    #[test]
    fn a_lying_server_is_caught_or_harmless(
        start in prop_oneof![Just(100u64), any::<u64>()],
        length in prop_oneof![0u64..3000, any::<u64>()],
        areas in prop::collection::vec((0u64..3000, prop_oneof![0u64..3000, any::<u64>()]), 0..6),
    ) {
        let mut known = Areas::new(2000);
        let page = Page { start, length, areas };
        if known.take(100, &page).is_ok() {
            let Known::Changes { known: range, changed } = known.look(ByteRange::new(100, 2000))
            else {
                panic!("it was taken in");
            };
            assert!(!range.is_empty());
            let mut floor = range.start;
            for area in changed {
                assert!(area.start >= floor && area.end <= range.end && !area.is_empty());
                floor = area.end;
            }
        }
    }
}

#[test]
fn every_lie_is_named() {
    let try_page = |start, length, areas: &[(u64, u64)]| {
        let page = Page {
            start,
            length,
            areas: areas.to_vec(),
        };
        Areas::new(1000).take(100, &page)
    };
    assert_eq!(try_page(0, 100, &[]), Err(BadPage::Elsewhere(0)));
    assert_eq!(try_page(100, 0, &[]), Err(BadPage::NoProgress));
    let none = try_page(100, 100, &[(120, 0)]);
    assert_eq!(
        none,
        Err(BadPage::NoArea {
            start: 120,
            length: 0
        })
    );
    let huge = try_page(100, 100, &[(u64::MAX, 2)]);
    assert_eq!(
        huge,
        Err(BadPage::NoArea {
            start: u64::MAX,
            length: 2
        })
    );
    let before = try_page(100, 100, &[(90, 20)]).unwrap_err();
    assert!(matches!(before, BadPage::OutOfOrder { floor: 100, .. }));
    let overlap = try_page(100, 100, &[(110, 20), (129, 20)]).unwrap_err();
    assert!(matches!(overlap, BadPage::OutOfOrder { floor: 130, .. }));
    let unsorted = try_page(100, 100, &[(150, 20), (110, 20)]).unwrap_err();
    assert!(matches!(unsorted, BadPage::OutOfOrder { floor: 170, .. }));
    let over = try_page(100, 100, &[(190, 20)]).unwrap_err();
    assert!(matches!(over, BadPage::Overrun { ceiling: 200, .. }));
    let past = try_page(100, 5000, &[(990, 20)]).unwrap_err();
    assert!(matches!(past, BadPage::Overrun { ceiling: 1000, .. }));
    assert_eq!(try_page(100, u64::MAX, &[(100, 10), (110, 10)]), Ok(()));
}

#[test]
fn a_change_id_of_another_uuid_is_of_another_epoch() {
    let id = |text: &str| ChangeId::new(text.to_owned()).unwrap();
    let first = id("52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/81");
    assert_eq!(
        first.epoch(),
        id("52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/82").epoch()
    );
    assert_ne!(
        first.epoch(),
        id("52 aa c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/1").epoch()
    );
    for text in ["", " x", "x\n", &"x".repeat(201)] {
        assert_eq!(ChangeId::new(text.to_owned()), None, "{text:?}");
    }
}
