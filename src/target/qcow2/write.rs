//! Requests to places in the file.

use super::pack::{Cell, Cells, pack};
use super::{Qcow2Target, length};
use crate::digest::is_zero;
use crate::extent::ByteRange;
use crate::format::qcow2::entry::Cluster;
use crate::sys::computing;
use crate::target::Zeroing;
use crate::target::zeroing::Method;
use bytes::Bytes;
use std::io;

/// Bytes of a request, and where in the file they go.
type Placed = (u64, Bytes);

impl Qcow2Target {
    /// Finds places for data as they are: those that they have, or new ones.
    async fn place(&self, range: ByteRange, data: &Bytes) -> io::Result<Vec<Placed>> {
        let mut placed = Runs::default();
        let mut tables = self.tables.lock().await;
        for (start, part) in self.clusters(range) {
            let bytes = slice(data, part, range.start);
            let raw = tables.entry(start).await?;
            let host = match tables.cluster(raw, start)? {
                Cluster::Standard(host) => host,
                _ if is_zero(&bytes) => continue,
                _ => {
                    let (raw, host) = tables.new_standard().await?;
                    tables.set_entry(start, raw).await?;
                    host
                }
            };
            let skip = part.start.saturating_sub(start);
            placed.push(host.saturating_add(skip), part);
        }
        drop(tables);
        Ok(placed.take(|part| slice(data, part, range.start)))
    }

    /// Finds places for compressed clusters; what was there before is given up.
    async fn place_packed(
        &self,
        range: ByteRange,
        data: &Bytes,
        cells: Cells,
    ) -> io::Result<Vec<Placed>> {
        let packed = Bytes::from(cells.bytes);
        let (mut raw_runs, mut packed_runs) = (Runs::default(), Runs::default());
        let mut tables = self.tables.lock().await;
        for ((start, part), cell) in self.clusters(range).zip(cells.cells) {
            let raw = match cell {
                Cell::Zero => 0,
                Cell::Stored => {
                    let (raw, host) = tables.new_standard().await?;
                    raw_runs.push(host, part);
                    raw
                }
                Cell::Packed(bytes) => {
                    tables.make_table(start).await?;
                    let at = ByteRange::new(bytes.start as u64, bytes.end as u64);
                    let (raw, host) = tables.new_compressed(at.len()).await?;
                    packed_runs.push(host, at);
                    raw
                }
            };
            tables.set_entry(start, raw).await?;
        }
        drop(tables);
        let mut placed = raw_runs.take(|part| slice(data, part, range.start));
        placed.extend(packed_runs.take(|part| slice(&packed, part, 0)));
        Ok(placed)
    }

    /// Writes `data`, which are the bytes of `range`.
    pub(super) async fn put(&self, range: ByteRange, data: Bytes) -> io::Result<()> {
        let placed = match self.options.compression {
            None => self.place(range, &data).await?,
            Some(how) => {
                let (input, cluster) = (data.clone(), length(self.geometry.cluster()));
                let cells = computing(move || pack(&input, cluster, how)).await;
                let cells = cells.map_err(io::Error::other)??;
                self.place_packed(range, &data, cells).await?
            }
        };
        for (host, bytes) in placed {
            self.draft.queue().write(host, bytes).await?;
        }
        Ok(())
    }

    /// Makes clusters of `range` zero that are there, and all of it if it is to stay allocated.
    pub(super) async fn blank(&self, range: ByteRange, zeroing: Zeroing) -> io::Result<()> {
        let mut runs = Runs::default();
        let mut tables = self.tables.lock().await;
        let mut rest = range;
        while !rest.is_empty() {
            if zeroing == Zeroing::Unmap || self.options.compression.is_some() {
                rest = ByteRange::new(tables.next_entry(rest.start).max(rest.start), rest.end);
            }
            let Some((start, part)) = self.clusters(rest).next() else {
                break;
            };
            rest = ByteRange::new(part.end, rest.end);
            let raw = tables.entry(start).await?;
            if self.options.compression.is_some() {
                tables.set_entry(start, 0).await?;
                continue;
            }
            let host = match tables.cluster(raw, start)? {
                Cluster::Standard(host) => host,
                _ if zeroing == Zeroing::Unmap => continue,
                _ => {
                    let (raw, host) = tables.new_standard().await?;
                    tables.set_entry(start, raw).await?;
                    host
                }
            };
            let skip = part.start.saturating_sub(start);
            runs.push(host.saturating_add(skip), part);
        }
        drop(tables);
        let methods = Method::of_file(zeroing);
        for (host, part) in runs.0 {
            let there = ByteRange::at(host, part.len());
            self.zeroer
                .zero(self.draft.queue(), there, &methods)
                .await?;
        }
        Ok(())
    }
}

/// Parts of a request that are in one piece: where in the file, and which part.
#[derive(Debug, Default)]
pub(super) struct Runs(pub(super) Vec<(u64, ByteRange)>);

impl Runs {
    pub(super) fn push(&mut self, host: u64, part: ByteRange) {
        match self.0.last_mut() {
            Some((at, last)) if last.end == part.start && at.saturating_add(last.len()) == host => {
                last.end = part.end;
            }
            _ => self.0.push((host, part)),
        }
    }

    fn take(self, bytes: impl Fn(ByteRange) -> Bytes) -> Vec<Placed> {
        let runs = self.0.into_iter();
        runs.map(|(host, part)| (host, bytes(part))).collect()
    }
}

/// The part of `data`, which begins at `start`, that `part` is.
fn slice(data: &Bytes, part: ByteRange, start: u64) -> Bytes {
    let from = length(part.start.saturating_sub(start)).min(data.len());
    let to = length(part.end.saturating_sub(start)).min(data.len());
    data.slice(from..to)
}
