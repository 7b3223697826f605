//! The footer of a fixed disk. Pure.

use super::header::checksum;
use super::layout::{FEATURES, FOOTER_COOKIE, Footer, VERSION, disk_type};
use zerocopy::IntoBytes;

/// The last sector of a fixed disk of `size` bytes, which was made so many seconds after the year
/// 2000 began.
#[must_use]
pub fn fixed_footer(size: u64, time: u32, id: [u8; 16]) -> Vec<u8> {
    let mut footer = Footer {
        cookie: FOOTER_COOKIE,
        features: FEATURES.into(),
        file_format_version: VERSION.into(),
        // A fixed disk has no header.
        data_offset: u64::MAX.into(),
        time_stamp: time.into(),
        // Known to all as one who goes by the size.
        creator_application: *b"qem2",
        creator_version: 0x0005_0003.into(),
        creator_host_os: *b"Wi2k",
        original_size: size.into(),
        current_size: size.into(),
        // The largest geometry: it says nothing, so that nobody goes by it.
        cylinders: u16::MAX.into(),
        heads: 16,
        sectors_per_track: 255,
        disk_type: disk_type::FIXED.into(),
        checksum: 0.into(),
        unique_id: id,
        saved_state: 0,
        reserved: [0; 427],
    };
    footer.checksum = checksum(footer.as_bytes(), 64, 512).into();
    footer.as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::header::{Kind, footer};
    use super::fixed_footer;

    #[test]
    fn what_is_written_is_what_is_read() {
        for size in [512, 3 << 20, (127 << 30) + 512, 2040 << 30] {
            let found = footer(&fixed_footer(size, 7, [9; 16])).unwrap().unwrap();
            assert_eq!((found.kind, found.size), (Kind::Fixed, size));
            assert!(!found.by_geometry && found.id == [9; 16]);
        }
    }
}
