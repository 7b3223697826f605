//! What comes once, in order: compressed as a whole, in an OVA, as a stream-optimized VMDK. Any
//! bytes are a disk, or an error, in one line and without growing, however they are asked for.

#![no_main]

use diskferry::buffer::Buffer;
use diskferry::error::Result;
use diskferry::format::vmdk::Forward;
use diskferry::source::stream::{Belief, Inside, Look, inside};
use diskferry::testkit::MemStream;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Builder;

/// A bomb goes on for as long as there is room: here there is not much.
const ROOM: usize = 4 << 20;

/// What came, up to the room that there is.
async fn read(input: &[u8], piece: usize) -> Result<Vec<u8>> {
    let look = Look {
        format: None,
        disk: None,
        belief: Belief::File,
    };
    let (mut stream, mut forward) = match inside(Box::new(MemStream::new(input)), look).await? {
        Inside::Raw(stream) => (stream, None),
        Inside::Vmdk(stream) => (stream, Some(Forward::default())),
        Inside::Seeking(..) => return Ok(Vec::new()),
    };
    let mut came = Vec::new();
    let mut ended = false;
    while let Some(bytes) = stream.next(Buffer::unbudgeted(piece)).await? {
        assert!(!ended, "more after fewer bytes than there was room for");
        assert!(!bytes.is_empty() && bytes.len() <= piece);
        ended = bytes.len() < piece;
        came.extend_from_slice(&bytes);
        if let Some(forward) = &mut forward {
            forward.push(&bytes)?;
        }
        if came.len() > ROOM {
            return Ok(came);
        }
    }
    forward.map_or(Ok(()), |forward| forward.finish())?;
    Ok(came)
}

fuzz_target!(|input: &[u8]| {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let found = [64 << 10, 5000].map(|piece| runtime.block_on(read(input, piece)));
    for error in found.iter().filter_map(|found| found.as_ref().err()) {
        let line = error.line();
        assert!(!line.contains(['\n', '\r']), "more than one line: {line:?}");
    }
    match found {
        [Ok(one), Ok(other)] => {
            let common = one.len().min(other.len());
            assert!(one[..common] == other[..common]);
            assert!(one.len() == other.len() || common >= ROOM);
        }
        [Err(_), Err(_)] => {}
        // An error may lie behind the room that one of them had.
        [Ok(some), Err(_)] | [Err(_), Ok(some)] => assert!(some.len() >= ROOM),
    }
});
