//! What comes once, in order: compressed as a whole, in an OVA, as a stream-optimized VMDK. Any
//! bytes are a disk, or an error, in one line and without growing.

#![no_main]

use diskferry::buffer::Buffer;
use diskferry::format::ova::{Walk, disks, manifest};
use diskferry::format::vmdk::Forward;
use diskferry::source::stream::{Belief, ByteStream, Inside, Look, inside};
use diskferry::testkit::MemStream;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Builder;

/// A bomb goes on for as long as there is room: here there is not much.
const ROOM: usize = 4 << 20;

async fn read(stream: Box<dyn ByteStream>) -> diskferry::error::Result<()> {
    let look = Look {
        format: None,
        disk: None,
        belief: Belief::File,
    };
    let (mut stream, mut forward) = match inside(stream, look).await? {
        Inside::Raw(stream) => (stream, None),
        Inside::Vmdk(stream) => (stream, Some(Forward::default())),
        Inside::Seeking(_) => return Ok(()),
    };
    let mut came = 0;
    while let Some(bytes) = stream.next(Buffer::unbudgeted(64 << 10)).await? {
        came += bytes.len();
        if let Some(forward) = &mut forward {
            forward.push(&bytes)?;
        }
        if came > ROOM {
            return Ok(());
        }
    }
    forward.map_or(Ok(()), |forward| forward.finish())
}

fuzz_target!(|input: &[u8]| {
    let _ = disks(input);
    let _ = manifest(input);
    let mut walk = Walk::default();
    for block in input.chunks(512) {
        let _ = walk.header(block).and_then(|_| walk.extra(block));
    }
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    if let Err(error) = runtime.block_on(read(Box::new(MemStream::new(input)))) {
        let line = error.line();
        assert!(!line.contains(['\n', '\r']), "more than one line: {line:?}");
    }
});
