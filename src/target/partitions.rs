//! The partition table of a disk, for people who want to see that it is the right disk. Pure.
//!
//! GPT by the UEFI specification 2.10, section 5.3; DOS tables by their four primary entries. What
//! makes no sense is left out: nobody decides anything by it.

use super::signature::gpt_sector;
use serde::Serialize;

/// Entries of a GPT that are looked at. There are 128 as a rule.
const ENTRIES_MAX: usize = 128;

/// A partition. Numbers are bytes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Partition {
    /// As the system of the guest numbers it, from 1.
    pub number: usize,
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub size: u64,
    /// Its type: a GUID, or two hexadecimal digits.
    pub kind: String,
    /// Its name, if it has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// The partitions of a disk that begins with `head`; none if it has no table.
#[must_use]
pub fn partitions(head: &[u8]) -> Vec<Partition> {
    match gpt_sector(head) {
        Some(sector) => gpt(head, u64::from(sector)),
        None => dos(head),
    }
}

fn gpt(head: &[u8], sector: u64) -> Vec<Partition> {
    let header = usize::try_from(sector).unwrap_or(usize::MAX);
    let number = |bytes: &[u8], at: usize| long(bytes.get(at..).unwrap_or_default());
    let header = head.get(header..).unwrap_or_default();
    let table = number(header, 72).saturating_mul(sector);
    let table = usize::try_from(table).unwrap_or(usize::MAX);
    let (count, size) = (
        number(header, 80) & 0xffff_ffff,
        number(header, 84) & 0xffff_ffff,
    );
    let size = usize::try_from(size).unwrap_or(0).clamp(128, 4096);
    let count = usize::try_from(count).unwrap_or(0).min(ENTRIES_MAX);
    let entries = head.get(table..).unwrap_or_default().chunks_exact(size);
    let found = entries
        .take(count)
        .enumerate()
        .filter_map(|(index, entry)| {
            let (kind, first, last) = (entry.get(..16)?, number(entry, 32), number(entry, 40));
            if kind.iter().all(|byte| *byte == 0) || last < first {
                return None;
            }
            let sectors = last.saturating_sub(first).saturating_add(1);
            let units = entry.get(56..128)?.as_chunks::<2>().0.iter();
            let units = units.map(|pair| u16::from_le_bytes(*pair));
            let units: Vec<_> = units.take_while(|unit| *unit != 0).collect();
            let name = String::from_utf16_lossy(&units);
            Some(Partition {
                number: index.saturating_add(1),
                start: first.saturating_mul(sector),
                size: sectors.saturating_mul(sector),
                kind: guid(kind),
                name: name.chars().filter(|c| !c.is_control()).collect(),
            })
        });
    found.collect()
}

fn dos(head: &[u8]) -> Vec<Partition> {
    let sane = head.get(510..512) == Some(b"\x55\xaa");
    let entries = head.get(446..510).filter(|_| sane).unwrap_or_default();
    let entries = entries.as_chunks::<16>().0;
    // The boot sector of a file system ends with the same two bytes.
    if entries.iter().any(|entry| entry[0] & 0x7f != 0) {
        return Vec::new();
    }
    let used = (1..).zip(entries).filter(|(_, entry)| entry[4] != 0);
    let found = used.map(|(number, entry)| {
        let [.., a, b, c, d, e, f, g, h] = *entry;
        let sectors = |bytes| u64::from(u32::from_le_bytes(bytes)).saturating_mul(512);
        Partition {
            number,
            start: sectors([a, b, c, d]),
            size: sectors([e, f, g, h]),
            kind: format!("{:02x}", entry[4]),
            name: String::new(),
        }
    });
    found.collect()
}

fn long(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A GUID as people write it: its first three parts have their least significant byte first.
fn guid(bytes: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15usize];
    let mut text = String::new();
    for (place, at) in order.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&place) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", bytes.get(at).copied().unwrap_or(0)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Partition, partitions};

    #[test]
    fn a_disk_without_a_table_or_with_noise_has_no_partitions() {
        for bytes in [vec![], vec![0; 1 << 20], vec![0xa5; 1 << 20], b"x".to_vec()] {
            assert_eq!(partitions(&bytes), []);
        }
        let mut cut = vec![0; 600];
        cut[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(partitions(&cut), []);
    }

    #[test]
    fn a_gpt_is_read_in_its_own_sectors() {
        for sector in [512usize, 4096] {
            let mut disk = vec![0; 64 << 10];
            disk[sector..sector + 8].copy_from_slice(b"EFI PART");
            let mut put =
                |at: usize, bytes: &[u8]| disk[at..at + bytes.len()].copy_from_slice(bytes);
            put(sector + 72, &2u64.to_le_bytes());
            put(sector + 80, &128u32.to_le_bytes());
            put(sector + 84, &128u32.to_le_bytes());
            let entry = 2 * sector + 128;
            let kind = [
                0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e,
                0xc9, 0x3b,
            ];
            put(entry, &kind);
            put(entry + 32, &34u64.to_le_bytes());
            put(entry + 40, &133u64.to_le_bytes());
            put(entry + 56, &[b'E', 0, b'F', 0, b'I', 0]);
            let found = partitions(&disk);
            let expected = Partition {
                number: 2,
                start: 34 * sector as u64,
                size: 100 * sector as u64,
                kind: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b".to_owned(),
                name: "EFI".to_owned(),
            };
            assert_eq!(found, [expected], "{sector}");
        }
    }
}
