//! Cuts a disk into windows.

use super::Shape;
use crate::extent::ByteRange;

/// The windows of a disk, in order. They cover it exactly.
pub fn windows(shape: Shape) -> impl Iterator<Item = ByteRange> {
    let length = shape.window.max(shape.grain).max(1);
    let mut rest = shape.disk();
    std::iter::from_fn(move || {
        let (window, after) = rest.split(length);
        rest = after;
        (!window.is_empty()).then_some(window)
    })
}

#[cfg(test)]
mod tests {
    use super::super::Shape;
    use super::windows;
    use crate::extent::ByteRange;

    #[test]
    fn windows_cover_the_disk_exactly() {
        let shape = Shape {
            size: 1000,
            grain: 64,
            window: 256,
            coalesce: 0,
        };
        let found: Vec<_> = windows(shape).collect();
        assert_eq!(found.first(), Some(&ByteRange::new(0, 256)));
        assert_eq!(found.last(), Some(&ByteRange::new(768, 1000)));
        assert!(found.windows(2).all(|pair| pair[0].end == pair[1].start));
    }

    #[test]
    fn an_empty_disk_has_no_window_and_a_huge_one_costs_nothing() {
        let shape = |size| Shape {
            size,
            grain: 65536,
            window: 1 << 30,
            coalesce: 0,
        };
        assert_eq!(windows(shape(0)).count(), 0);
        assert_eq!(windows(shape(u64::MAX)).take(3).count(), 3);
    }
}
