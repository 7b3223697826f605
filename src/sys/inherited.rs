//! File descriptors that the process was started with, known by number only.

#![expect(
    unsafe_code,
    reason = "only a raw number is known of these descriptors"
)]

use rustix::io::fcntl_dupfd_cloexec;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// A copy of the descriptor with `number`, which whoever started the process has opened.
///
/// # Errors
/// `EBADF` if there is none of that number.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: the number is not -1, and is only handed to fcntl(2), which says so if it is not
    // open. The borrow ends before this returns; the copy belongs to us alone.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(fcntl_dupfd_cloexec(borrowed, 3)?)
}

#[cfg(test)]
mod tests {
    use super::inherited;
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_copy_writes_where_the_original_does() {
        let mut original = tempfile::tempfile().unwrap();
        let mut copy = File::from(inherited(original.as_raw_fd()).unwrap());
        copy.write_all(b"5/100\n").unwrap();
        drop(copy);
        let mut text = String::new();
        original.rewind().unwrap();
        original.read_to_string(&mut text).unwrap();
        assert_eq!(text, "5/100\n");
    }

    #[test]
    fn a_number_that_is_not_open_is_an_error() {
        assert!(inherited(-1).is_err());
        assert!(inherited(1 << 20).is_err());
    }
}
