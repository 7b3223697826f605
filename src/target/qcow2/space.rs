//! Where in the file the next cluster, or the next compressed bytes, go. Pure.
//!
//! The file only grows: what is handed out lies behind all that was handed out before, save that
//! compressed data go on in the cluster that they began.

/// Compressed data that may share a cluster: what a refcount of 16 bits can count.
const SHARED_MAX: u32 = 65535;

/// The end of the file, and of the compressed data.
#[derive(Debug)]
pub(super) struct Space {
    cluster: u64,
    /// The first cluster that nobody has, in bytes.
    next: u64,
    /// Where compressed data go on; at the start of a cluster if in none.
    fill: u64,
    /// How many share the cluster that is being filled.
    shared: u32,
}

impl Space {
    /// The space behind the first cluster, which is the header. `cluster` is a power of two.
    pub(super) fn new(cluster: u64) -> Self {
        Self {
            cluster,
            next: cluster,
            fill: 0,
            shared: 0,
        }
    }

    /// The end of the file.
    pub(super) fn end(&self) -> u64 {
        self.next
    }

    /// Takes `count` clusters in a row; where they begin.
    pub(super) fn clusters(&mut self, count: u64) -> u64 {
        let at = self.next;
        self.next = at.saturating_add(count.saturating_mul(self.cluster));
        at
    }

    /// Takes `len` bytes in a row, which is less than a cluster.
    pub(super) fn bytes(&mut self, len: u64) -> u64 {
        let end = self.fill.next_multiple_of(self.cluster);
        let room = end.saturating_sub(self.fill);
        let may_grow = end == self.next && room > 0;
        if (len > room && !may_grow) || self.shared >= SHARED_MAX {
            self.fill = self.clusters(1);
            self.shared = 0;
        } else if len > room {
            self.clusters(1);
        }
        let at = self.fill;
        self.fill = at.saturating_add(len);
        let crossed = len >= room && room > 0;
        self.shared = if crossed {
            1
        } else {
            self.shared.saturating_add(1)
        };
        at
    }
}

#[cfg(test)]
mod tests {
    use super::Space;
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    #[test]
    fn compressed_data_share_clusters_and_cross_into_the_next_if_it_is_free() {
        let mut space = Space::new(512);
        assert_eq!(space.bytes(300), 512);
        assert_eq!(space.bytes(300), 812, "crosses");
        assert_eq!(space.end(), 1536);
        assert_eq!(space.clusters(1), 1536);
        assert_eq!(space.bytes(100), 1112, "fits into what is left");
        assert_eq!(space.bytes(400), 2048, "cannot cross the cluster between");
    }

    proptest! {
        /// The oracle is a list of all that was handed out.
        #[test]
        fn nothing_is_handed_out_twice(asked in vec((any::<bool>(), 1_u64..512), 1..60)) {
            let mut space = Space::new(512);
            let mut given: Vec<(u64, u64)> = vec![(0, 512)];
            for (whole, len) in asked {
                let (at, end) = if whole {
                    let at = space.clusters(len % 3 + 1);
                    prop_assert_eq!(at % 512, 0);
                    (at, at + (len % 3 + 1) * 512)
                } else {
                    let at = space.bytes(len);
                    (at, at + len)
                };
                prop_assert!(end <= space.end());
                for (from, to) in &given {
                    prop_assert!(end <= *from || *to <= at, "{at}..{end} and {from}..{to}");
                }
                given.push((at, end));
            }
        }
    }
}
