//! The tables of an image that grows: where each cluster of the disk is, and how often each
//! cluster of the file is used.

use super::blocks::Blocks;
use super::space::Space;
use crate::format::qcow2::entry::{Cluster, Packed, Rules, compressed, standard};
use crate::format::qcow2::geometry::Geometry;
use crate::sys::disk::Disk;
use crate::sys::queue::Queue;
use bytes::Bytes;
use std::io;

/// Bytes of a refcount: 16 bits, as everybody writes them.
const REFCOUNT: u64 = 2;

/// L1 and L2 tables, refcounts, and the end of the file.
#[derive(Debug)]
pub(super) struct Tables {
    rules: Rules,
    queue: Queue,
    space: Space,
    blocks: Blocks,
    /// Where the L2 tables are; 0 is none.
    l1: Vec<u64>,
    /// Where the refcount blocks are; 0 is none.
    refcounts: Vec<u64>,
    /// Bytes that the file has been made long.
    length: u64,
}

/// What the header tells of the tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roots {
    pub(super) l1: u64,
    pub(super) l1_entries: u64,
    pub(super) refcounts: u64,
    pub(super) refcount_clusters: u64,
}

impl Tables {
    /// Tables of a disk of `size` bytes, none of which is there yet.
    pub(super) async fn new(queue: Queue, geometry: Geometry, size: u64) -> io::Result<Self> {
        let entries = usize::try_from(geometry.l1_needed(size)).map_err(io::Error::other)?;
        let mut tables = Self {
            rules: Rules {
                geometry,
                version: 3,
                data_file: false,
            },
            space: Space::new(geometry.cluster()),
            blocks: Blocks::new(queue.clone(), geometry.cluster()),
            queue,
            l1: vec![0; entries],
            refcounts: Vec::new(),
            length: 0,
        };
        tables.count(0, 1, true).await?;
        Ok(tables)
    }

    /// The L2 entry for the cluster at the guest offset `at`; 0 if it was never set.
    pub(super) async fn entry(&mut self, at: u64) -> io::Result<u64> {
        match self.l1_entry(at) {
            0 => Ok(0),
            table => {
                let raw = self.blocks.get(table, self.offset_in_table(at)).await?;
                Ok(u64::from_be_bytes(raw))
            }
        }
    }

    /// Where the next cluster is that may have an entry, `at` or after it.
    pub(super) fn next_entry(&self, at: u64) -> u64 {
        let geometry = self.rules.geometry;
        let mut at = at;
        while self.l1_entry(at) == 0 && self.l1_index(at) < self.l1.len() {
            at = (at | geometry.table().saturating_sub(1)).saturating_add(1);
        }
        at
    }

    /// Sets the entry for the cluster at `at`; what the old one pointed to is given up.
    pub(super) async fn set_entry(&mut self, at: u64, raw: u64) -> io::Result<()> {
        let old = self.entry(at).await?;
        if old == raw {
            return Ok(());
        }
        self.make_table(at).await?;
        let (table, offset) = (self.l1_entry(at), self.offset_in_table(at));
        self.blocks.set(table, offset, &raw.to_be_bytes()).await?;
        self.give_up(old, at).await
    }

    /// Makes sure that there is a table for the cluster at `at`: before compressed data get their
    /// place, so that it does not come between them and those that follow.
    pub(super) async fn make_table(&mut self, at: u64) -> io::Result<()> {
        if self.l1_entry(at) == 0 {
            let table = self.clusters(1).await?;
            self.blocks.fresh(table).await?;
            let index = self.l1_index(at);
            *self.l1.get_mut(index).ok_or_else(past_the_end)? = table;
        }
        Ok(())
    }

    fn l1_index(&self, at: u64) -> usize {
        usize::try_from(self.rules.geometry.l1_index(at)).unwrap_or(usize::MAX)
    }

    fn l1_entry(&self, at: u64) -> u64 {
        self.l1.get(self.l1_index(at)).copied().unwrap_or(0)
    }

    fn offset_in_table(&self, at: u64) -> u64 {
        let geometry = self.rules.geometry;
        let within = at & geometry.table().saturating_sub(1);
        (within >> geometry.cluster_bits()).saturating_mul(8)
    }

    /// The entry of a new cluster for data as they are; and where it is.
    pub(super) async fn new_standard(&mut self) -> io::Result<(u64, u64)> {
        let at = self.clusters(1).await?;
        Ok((standard(at), at))
    }

    /// The entry of `len` compressed bytes, and where they go.
    pub(super) async fn new_compressed(&mut self, len: u64) -> io::Result<(u64, u64)> {
        let offset = self.space.bytes(len);
        self.grow().await?;
        self.count(offset, len, true).await?;
        let raw = compressed(Packed { offset, len }, self.rules.geometry);
        let full = || io::Error::other("the image is too large for compressed clusters");
        Ok((raw.ok_or_else(full)?, offset))
    }

    /// What an entry says.
    pub(super) fn cluster(&self, raw: u64, at: u64) -> io::Result<Cluster> {
        self.rules.l2(raw, 0, at).map_err(io::Error::other)
    }

    async fn give_up(&mut self, raw: u64, at: u64) -> io::Result<()> {
        match self.cluster(raw, at)? {
            Cluster::Standard(host) => self.count(host, 1, false).await,
            Cluster::Compressed(packed) => self.count(packed.offset, packed.len, false).await,
            _ => Ok(()),
        }
    }

    async fn clusters(&mut self, count: u64) -> io::Result<u64> {
        let at = self.space.clusters(count);
        self.grow().await?;
        let bytes = count.saturating_mul(self.rules.geometry.cluster());
        self.count(at, bytes, true).await?;
        Ok(at)
    }

    /// Counts one more, or one less, user of every cluster in `len` bytes at `offset`.
    async fn count(&mut self, offset: u64, len: u64, more: bool) -> io::Result<()> {
        let bits = self.rules.geometry.cluster_bits();
        let per_block = self.rules.geometry.cluster() / REFCOUNT;
        let last = offset.saturating_add(len).saturating_sub(1) >> bits;
        let mut todo: Vec<u64> = (offset >> bits..=last).collect();
        while let Some(cluster) = todo.pop() {
            let index = usize::try_from(cluster / per_block).map_err(io::Error::other)?;
            if self.refcounts.len() <= index {
                self.refcounts.resize(index.saturating_add(1), 0);
            }
            let slot = self.refcounts.get_mut(index).ok_or_else(past_the_end)?;
            if *slot == 0 {
                // The block is in the file that it counts, often in its own part of it.
                *slot = self.space.clusters(1);
                let block = *slot;
                self.grow().await?;
                self.blocks.fresh(block).await?;
                todo.push(block >> bits);
            }
            let block = self.refcounts.get(index).copied().unwrap_or(0);
            let within = (cluster % per_block).saturating_mul(REFCOUNT);
            let now = u16::from_be_bytes(self.blocks.get(block, within).await?);
            let then = if more {
                now.checked_add(1)
            } else {
                now.checked_sub(1)
            };
            let then = then.ok_or_else(|| io::Error::other("a refcount is out of range"))?;
            self.blocks.set(block, within, &then.to_be_bytes()).await?;
        }
        Ok(())
    }

    /// Makes the file longer in large steps: a file that every write makes longer is slow.
    async fn grow(&mut self) -> io::Result<()> {
        const STEP: u64 = 256 << 20;
        if self.space.end() <= self.length {
            return Ok(());
        }
        self.length = self.space.end().next_multiple_of(STEP);
        self.set_length(self.length).await
    }

    async fn set_length(&self, length: u64) -> io::Result<()> {
        let set = move |disk: &Disk| Ok(rustix::fs::ftruncate(disk.fd(), length)?);
        self.queue.run(set).await
    }

    /// Puts every table into the file, which then ends where the last one does.
    pub(super) async fn finish(&mut self) -> io::Result<Roots> {
        let cluster = self.rules.geometry.cluster();
        let entries = self.l1.len() as u64;
        let l1 = self
            .clusters(entries.saturating_mul(8).div_ceil(cluster).max(1))
            .await?;
        let used = self.space.end() / cluster;
        let counted = self.refcounts.iter().filter(|block| **block != 0).count() as u64;
        let count = table_clusters(used, counted, cluster);
        let refcounts = self.clusters(count).await?;
        if self.refcounts.len() as u64 > count.saturating_mul(cluster / 8) {
            return Err(io::Error::other("the refcount table is too short"));
        }
        self.blocks.write_all().await?;
        let tables = self.l1.iter().map(|table| match table {
            0 => 0,
            table => standard(*table),
        });
        write_table(&self.queue, l1, tables).await?;
        let blocks = self.refcounts.iter().copied();
        write_table(&self.queue, refcounts, blocks).await?;
        self.set_length(self.space.end()).await?;
        Ok(Roots {
            l1,
            l1_entries: entries,
            refcounts,
            refcount_clusters: count,
        })
    }
}

/// Clusters of a refcount table behind `used` clusters, of which `counted` blocks are some; the
/// table itself and blocks that it makes necessary are counted too.
fn table_clusters(used: u64, counted: u64, cluster: u64) -> u64 {
    let per_block = cluster / REFCOUNT;
    let mut count = 1_u64;
    loop {
        let mut blocks = counted;
        loop {
            let more = blocks.saturating_sub(counted);
            let total = used.saturating_add(count).saturating_add(more);
            let needed = total.div_ceil(per_block);
            if needed <= blocks {
                break;
            }
            blocks = needed;
        }
        let needed = blocks.div_ceil(cluster / 8);
        if needed <= count {
            return count;
        }
        count = needed;
    }
}

/// Writes a table of 64-bit entries at `at`.
async fn write_table(queue: &Queue, at: u64, entries: impl Iterator<Item = u64>) -> io::Result<()> {
    let bytes: Vec<u8> = entries.flat_map(u64::to_be_bytes).collect();
    queue.write(at, Bytes::from(bytes)).await
}

fn past_the_end() -> io::Error {
    io::Error::other("a cluster past the end of the disk")
}

#[cfg(test)]
mod tests {
    use super::table_clusters;
    use proptest::prelude::{prop_assert, proptest};

    proptest! {
        /// The oracle lays the table and its blocks out, one cluster after the other.
        #[test]
        fn the_refcount_table_has_room_for_itself(used in 1_u64..5_000_000) {
            let per_block = 256;
            let counted = used.div_ceil(per_block);
            let count = table_clusters(used, counted, 512);
            let (mut end, mut blocks) = (used + count, counted);
            while end.div_ceil(per_block) > blocks {
                blocks += 1;
                end += 1;
            }
            prop_assert!(blocks <= count * 64, "{blocks} blocks in {count} clusters");
            prop_assert!(count == 1 || blocks > (count - 2) * 64, "far too long");
        }
    }
}
