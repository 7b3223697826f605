//! The requests that only block devices know. Thin: one function, one ioctl.

#![expect(
    unsafe_code,
    reason = "no library wraps these two ioctls; each takes a pointer to two integers"
)]

use crate::extent::ByteRange;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use std::io;
use std::os::fd::BorrowedFd;

/// `BLKDISCARD`, `linux/fs.h`.
const BLKDISCARD: Opcode = opcode::none(0x12, 119);
/// `BLKZEROOUT`, `linux/fs.h`.
const BLKZEROOUT: Opcode = opcode::none(0x12, 127);

/// Smallest request that the device takes, in bytes.
///
/// # Errors
/// `fd` is not a block device.
pub fn logical_block(fd: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(rustix::fs::ioctl_blksszget(fd)?)
}

/// Smallest request that the device does without reading first, in bytes.
///
/// # Errors
/// `fd` is not a block device.
pub fn physical_block(fd: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(rustix::fs::ioctl_blkpbszget(fd)?)
}

/// Makes `range` read as zeroes and keeps it allocated. The kernel writes zeroes itself where the
/// device has no command for it.
///
/// # Errors
/// `range` is not aligned to the logical block, or the device failed.
pub fn zero_out(fd: BorrowedFd<'_>, range: ByteRange) -> io::Result<()> {
    // SAFETY: BLKZEROOUT reads two u64 from the pointer, start and length, and keeps nothing.
    let request = unsafe { Setter::<BLKZEROOUT, [u64; 2]>::new([range.start, range.len()]) };
    // SAFETY: as above; on anything but a block device it fails with ENOTTY.
    Ok(unsafe { ioctl(fd, request) }?)
}

/// Tells the device that `range` is not needed. What it reads as afterwards is up to the device.
///
/// # Errors
/// The device does not discard, `range` is not aligned, or the device failed.
pub fn discard(fd: BorrowedFd<'_>, range: ByteRange) -> io::Result<()> {
    // SAFETY: BLKDISCARD reads two u64 from the pointer, start and length, and keeps nothing.
    let request = unsafe { Setter::<BLKDISCARD, [u64; 2]>::new([range.start, range.len()]) };
    // SAFETY: as above; on anything but a block device it fails with ENOTTY.
    Ok(unsafe { ioctl(fd, request) }?)
}
