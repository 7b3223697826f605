//! Sparse bytes in memory: a disk of any size for the price of what was written.

use crate::digest::is_zero;
use crate::extent::ByteRange;
use std::collections::BTreeMap;

/// Bytes of a page.
const PAGE: u64 = 4096;
const PAGE_LEN: usize = 4096;

/// Bytes that read as zero until they are written. Knows no end.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    pages: BTreeMap<u64, Box<[u8]>>,
}

/// The page that `at` is on, and the part of `range` on it, as offsets in the page.
fn part_on_page(range: ByteRange) -> (u64, usize, usize) {
    let page = range.start / PAGE;
    let base = page.saturating_mul(PAGE);
    let part = range.intersect(ByteRange::at(base, PAGE));
    let inner = |at: u64| usize::try_from(at.saturating_sub(base)).unwrap_or(PAGE_LEN);
    (page, inner(part.start), inner(part.end))
}

impl Store {
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut rest = ByteRange::at(offset, data.len() as u64);
        let mut data = data;
        while !rest.is_empty() {
            let (page, from, to) = part_on_page(rest);
            let (now, later) = data.split_at(to - from);
            let bytes = self
                .pages
                .entry(page)
                .or_insert_with(|| vec![0; PAGE_LEN].into());
            bytes[from..to].copy_from_slice(now);
            data = later;
            rest = rest.split(now.len() as u64).1;
        }
    }

    pub(super) fn zero(&mut self, range: ByteRange) {
        let mut rest = range;
        // Only pages that exist: a hole of a terabyte costs nothing.
        while let Some((&page, _)) = self.pages.range(rest.start / PAGE..).next() {
            let on_page = ByteRange::at(page.saturating_mul(PAGE), PAGE).intersect(rest);
            if on_page.is_empty() {
                break;
            }
            let (_, from, to) = part_on_page(on_page);
            if let Some(bytes) = self.pages.get_mut(&page) {
                bytes[from..to].fill(0);
                if is_zero(bytes) {
                    self.pages.remove(&page);
                }
            }
            rest = ByteRange::new(on_page.end, rest.end);
        }
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) {
        let mut rest = ByteRange::at(offset, buffer.len() as u64);
        let mut buffer = buffer;
        while !rest.is_empty() {
            let (page, from, to) = part_on_page(rest);
            let (now, later) = buffer.split_at_mut(to - from);
            match self.pages.get(&page) {
                Some(bytes) => now.copy_from_slice(&bytes[from..to]),
                None => now.fill(0),
            }
            rest = rest.split((to - from) as u64).1;
            buffer = later;
        }
    }

    /// The first page that exists in `range`, clipped to it.
    pub(super) fn next_data(&self, range: ByteRange) -> Option<ByteRange> {
        let (&page, _) = self.pages.range(range.start / PAGE..).next()?;
        let found = ByteRange::at(page.saturating_mul(PAGE), PAGE).intersect(range);
        (!found.is_empty()).then_some(found)
    }
}
