//! A tar archive, unpacked into the volume as it comes: what `tar -x --preserve-permissions
//! --no-same-owner` does, with nothing that leads out of the volume.

use crate::buffer::Buffer;
use crate::error::{Error, Kind, Result};
use crate::pipeline::Stop;
use crate::pipeline::counters::Counters;
use crate::source::stream::ByteStream;
use crate::sys::blocking;
use bytes::{Buf, Bytes};
use rustix::fs::syncfs;
use std::fs::File;
use std::io::{self, Read, sink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tar::{Archive, EntryType};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Bytes that are read at once, and how many of these wait for who unpacks.
const PIECE: usize = 1 << 20;
const WAITING: usize = 4;

/// Unpacks `stream` into the directory `into`, durably. It is read to its end, whatever follows the
/// archive.
///
/// # Errors
/// It cannot be read, is no archive, holds what has no place in one, or cannot be written.
pub(super) async fn unpack(
    stream: Box<dyn ByteStream>,
    into: &Path,
    counters: &Arc<Counters>,
    stop: Stop,
) -> Result<()> {
    let (to, from) = channel(WAITING);
    let (name, directory) = (stream.name().to_owned(), into.to_owned());
    let unpacking = blocking(move || {
        let rest = Bytes::new();
        extract(Coming { from, rest }, &directory)
    });
    let (sent, unpacked) = tokio::join!(send(stream, to, counters, stop), unpacking);
    // An archive that seems to have ended early is not what failed.
    sent?;
    unpacked.map_err(|error| Error::io(format!("unpack {name} into {}", into.display()), error))
}

/// Sends all of `stream` to who unpacks, or as much as that one wants.
async fn send(
    mut stream: Box<dyn ByteStream>,
    to: Sender<Bytes>,
    counters: &Counters,
    mut stop: Stop,
) -> Result<()> {
    let mut read = 0u64;
    loop {
        let bytes = tokio::select! {
            biased;
            () = stop.requested() => {
                return Err(Error::new(Kind::Interrupted, "stopped by a signal"));
            }
            bytes = stream.next(Buffer::unbudgeted(PIECE)) => bytes?,
        };
        let Some(bytes) = bytes else { return Ok(()) };
        let len = u64::try_from(bytes.len()).unwrap_or(0);
        read = read.saturating_add(len);
        Counters::add(&counters.read, len);
        counters.position.store(read, Ordering::Relaxed);
        if to.send(bytes.freeze()).await.is_err() {
            return Ok(());
        }
    }
}

/// What is sent, to be read where reads may block.
struct Coming {
    from: Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Coming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.from.blocking_recv() {
                Some(bytes) => self.rest = bytes,
                None => return Ok(0),
            }
        }
        let len = buffer.len().min(self.rest.len());
        self.rest
            .copy_to_slice(buffer.get_mut(..len).unwrap_or_default());
        Ok(len)
    }
}

/// Blocks until all is unpacked and durable.
fn extract(coming: Coming, into: &Path) -> io::Result<()> {
    let mut archive = Archive::new(coming);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(false);
    archive.set_overwrite(true);
    // Their permissions may forbid what is still to be done in them.
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        match entry.header().entry_type() {
            EntryType::Directory => directories.push(entry),
            EntryType::XGlobalHeader => {}
            EntryType::Regular
            | EntryType::Continuous
            | EntryType::GNUSparse
            | EntryType::Link
            | EntryType::Symlink => inside(entry.unpack_in(into)?, &entry.path_bytes())?,
            _ => {
                return Err(refused(
                    &entry.path_bytes(),
                    "is no file, directory or link",
                ));
            }
        }
    }
    directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for mut directory in directories {
        inside(directory.unpack_in(into)?, &directory.path_bytes())?;
    }
    io::copy(&mut archive.into_inner(), &mut sink())?;
    syncfs(File::open(into)?)?;
    Ok(())
}

fn inside(is_unpacked: bool, name: &[u8]) -> io::Result<()> {
    match is_unpacked {
        true => Ok(()),
        false => Err(refused(name, "leads out of it")),
    }
}

fn refused(name: &[u8], why: &str) -> io::Error {
    io::Error::other(format!("the archive's \"{}\" {why}", name.escape_ascii()))
}
