//! Devices that belong to a migration for as long as a process drives it, also between its passes.
//!
//! A pass opens its target alone (`O_EXCL`), but between two passes nobody has it open: another
//! migration could fill it meanwhile, and each would find out only later. The claim is a `flock`,
//! which no pass asks for; it ends with the process, whichever way that ends. Targets that are
//! files or servers are not claimed.

use super::plan::Plan;
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt;

/// Claims every device of `plan`; they are claimed until what is given is dropped.
///
/// # Errors
/// `Refused`: another process has claimed one of them.
pub(super) fn devices(plan: &Plan) -> Result<Vec<File>> {
    let mut claimed = Vec::new();
    for disk in &plan.disks {
        let Address::Path(path) = &disk.target else {
            continue;
        };
        // Looked at before it is opened: opening a pipe would wait for whoever fills it.
        let is_device = |facts: Metadata| facts.file_type().is_block_device();
        if !fs::metadata(path).is_ok_and(is_device) {
            continue;
        }
        // What cannot be opened is told when it is checked as a target.
        let Ok(device) = File::open(path) else {
            continue;
        };
        match flock(&device, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => claimed.push(device),
            Err(Errno::WOULDBLOCK) => {
                let (path, disk) = (path.display(), &disk.name);
                let what = format!("the target of disk {disk}, {path}, is of another migration");
                return Err(Error::new(Kind::Refused, what)
                    .hint("a process that drives it has it locked, also between passes"));
            }
            Err(error) => {
                let doing = format!("lock the target {}", path.display());
                return Err(Error::io(doing, io::Error::from(error)));
            }
        }
    }
    Ok(claimed)
}
