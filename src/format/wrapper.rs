//! Files that are compressed as a whole: gzip (RFC 1952), xz, zstd (RFC 8878). Pure; reads nothing.
//!
//! Bytes go in as they come, bytes come out as there is room: neither grows with the other, so a
//! file that unpacks to more than anybody has is met where it is written and not in memory. What
//! the libraries need for themselves is bounded too: a window of 128 MiB at most.
//!
//! A file may be several members (gzip), streams (xz) or frames (zstd), one after the other, and
//! only the end of one is a good place to end: everything else is a file that was cut off.

use crate::error::{Error, Kind, Result};
use flate2::{Decompress, FlushDecompress, Status as Inflated};
use liblzma::stream::{Action, Error as XzError, Status as XzStatus, Stream as Xz};
use std::fmt;
use zstd::zstd_safe::{DCtx, InBuffer, OutBuffer, get_error_name, get_frame_content_size};

/// Bytes that xz may need for one stream. `xz -9` takes 65 MiB.
const XZ_MEMORY: u64 = 160 << 20;

/// Bits of the window of a gzip member.
const GZIP_WINDOW: u8 = 15;

/// How a whole file is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wrapper {
    /// `.gz`
    Gzip,
    /// `.xz`
    Xz,
    /// `.zst`
    Zstd,
}

/// Every wrapper there is, and the names by which people know it; the first is the usual one.
pub const WRAPPERS: [(Wrapper, &[&str]); 3] = [
    (Wrapper::Gzip, &["gz", "gzip"]),
    (Wrapper::Xz, &["xz"]),
    (Wrapper::Zstd, &["zst", "zstd"]),
];

impl Wrapper {
    /// The wrapper of a file that begins with `head`.
    #[must_use]
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            // The third byte is the method, of which there is one.
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            // A frame to be skipped, as parallel writers put before each other one.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The wrapper called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let found = WRAPPERS.iter().find(|(_, names)| names.contains(&name));
        found.map(|(wrapper, _)| *wrapper)
    }

    /// A format as `-f` takes it, `vmdk.gz` or `gz` alone, in two: what is inside, and how that is
    /// wrapped.
    #[must_use]
    pub fn split(format: &str) -> (Option<&str>, Option<Self>) {
        if let Some(wrapper) = Self::named(format) {
            return (None, Some(wrapper));
        }
        match format.rsplit_once('.') {
            Some((inner, name)) => match Self::named(name) {
                Some(wrapper) => (Some(inner), Some(wrapper)),
                None => (Some(format), None),
            },
            None => (Some(format), None),
        }
    }

    /// Whether zeroes may follow the last member, in which unit.
    fn padding(self) -> Option<u64> {
        match self {
            // As tapes leave them, and gzip takes them.
            Self::Gzip => Some(1),
            // "Stream Padding" of the format.
            Self::Xz => Some(4),
            Self::Zstd => None,
        }
    }
}

impl fmt::Display for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        })
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Unpacked {
    /// Bytes of the input that are done with.
    pub used: usize,
    /// Bytes of the output that were filled.
    pub made: usize,
}

/// A file that is being unpacked.
pub struct Decoder {
    wrapper: Wrapper,
    engine: Engine,
    place: Place,
    /// Bytes that went in.
    used: u64,
}

/// Where in the file the next byte is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// Before the first member.
    Start,
    Inside,
    /// After a member, and so many zeroes.
    Between(u64),
}

enum Engine {
    Gzip(Decompress),
    /// Made anew for each stream.
    Xz(Option<Xz>),
    Zstd(DCtx<'static>, Frame),
}

/// A frame of zstd that is being unpacked.
#[derive(Default)]
struct Frame {
    /// Its first bytes, which say how much is in it, if anything does.
    head: Vec<u8>,
    /// Bytes that came out.
    made: u64,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("wrapper", &self.wrapper)
            .field("place", &self.place)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// At the start of a file.
    #[must_use]
    pub fn new(wrapper: Wrapper) -> Self {
        let engine = match wrapper {
            Wrapper::Gzip => Engine::Gzip(Decompress::new_gzip(GZIP_WINDOW)),
            Wrapper::Xz => Engine::Xz(None),
            Wrapper::Zstd => Engine::Zstd(DCtx::create(), Frame::default()),
        };
        Self {
            wrapper,
            engine,
            place: Place::Start,
            used: 0,
        }
    }

    /// Unpacks from `input` into `out` as far as either goes.
    ///
    /// Nothing used and nothing made means that more input is needed.
    ///
    /// # Errors
    /// `Corrupt`: what is packed is damaged; `Refused`: it needs too much memory.
    pub fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Unpacked> {
        let mut done = Unpacked::default();
        if self.place != Place::Inside {
            done.used = self.between(input);
            self.count(done.used);
            if self.place != Place::Inside {
                return Ok(done);
            }
        }
        let input = input.get(done.used..).unwrap_or_default();
        let moved = self.engine.step(input, out);
        let (moved, ended) = moved.map_err(|why| self.failed(why))?;
        self.count(moved.used);
        done.used = done.used.saturating_add(moved.used);
        done.made = moved.made;
        if ended {
            self.place = Place::Between(0);
        }
        Ok(done)
    }

    /// Passes over what stands between two members; how much of it there is.
    fn between(&mut self, input: &[u8]) -> usize {
        let zeroes = match self.place {
            Place::Between(_) if self.wrapper.padding().is_some() => {
                input.iter().take_while(|byte| **byte == 0).count()
            }
            _ => 0,
        };
        if zeroes < input.len() {
            self.engine.begin();
            self.place = Place::Inside;
        } else if let Place::Between(before) = &mut self.place {
            *before = before.saturating_add(length(zeroes));
        }
        zeroes
    }

    /// The file has ended.
    ///
    /// # Errors
    /// `Corrupt`: it was cut off.
    pub fn finish(&self) -> Result<()> {
        let unit = self.wrapper.padding().unwrap_or(1);
        match self.place {
            Place::Between(zeroes) if zeroes.is_multiple_of(unit) => Ok(()),
            Place::Start => Err(self.failed(Fault::corrupt("it is empty"))),
            _ => Err(self
                .failed(Fault::corrupt("it ends inside of what is packed"))
                .hint("the file was cut off: fetch it again")),
        }
    }

    fn count(&mut self, used: usize) {
        self.used = self.used.saturating_add(length(used));
    }

    fn failed(&self, fault: Fault) -> Error {
        Error::new(fault.kind, format!("unpack {} data", self.wrapper))
            .at(self.used)
            .because(fault.why)
    }
}

/// Why a library goes no further.
struct Fault {
    kind: Kind,
    why: String,
}

impl Fault {
    fn corrupt(why: impl fmt::Display) -> Self {
        let (kind, why) = (Kind::Corrupt, why.to_string());
        Self { kind, why }
    }

    fn refused(why: impl fmt::Display) -> Self {
        let (kind, why) = (Kind::Refused, why.to_string());
        Self { kind, why }
    }
}

impl Engine {
    /// Another member begins.
    fn begin(&mut self) {
        match self {
            Self::Gzip(inflate) => inflate.reset(true),
            Self::Xz(stream) => *stream = None,
            // Begins by itself.
            Self::Zstd(..) => {}
        }
    }

    /// One step, and whether the member has ended with it.
    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<(Unpacked, bool), Fault> {
        match self {
            Self::Gzip(inflate) => {
                let (used, made) = (inflate.total_in(), inflate.total_out());
                let status = inflate.decompress(input, out, FlushDecompress::None);
                let status = status.map_err(Fault::corrupt)?;
                let moved = Unpacked {
                    used: since(used, inflate.total_in()),
                    made: since(made, inflate.total_out()),
                };
                Ok((moved, status == Inflated::StreamEnd))
            }
            Self::Xz(stream) => {
                let stream = match stream {
                    Some(stream) => stream,
                    none => {
                        let flags = liblzma::stream::TELL_UNSUPPORTED_CHECK;
                        let made = Xz::new_stream_decoder(XZ_MEMORY, flags);
                        none.insert(made.map_err(xz_fault)?)
                    }
                };
                let (used, made) = (stream.total_in(), stream.total_out());
                let status = stream.process(input, out, Action::Run);
                let status = status.map_err(xz_fault)?;
                let moved = Unpacked {
                    used: since(used, stream.total_in()),
                    made: since(made, stream.total_out()),
                };
                Ok((moved, status == XzStatus::StreamEnd))
            }
            Self::Zstd(context, frame) => {
                // A frame that comes whole goes another way through the library, where some are
                // sound that are damaged if they come in pieces: so none comes whole.
                let input = match frame.head.is_empty() {
                    true => input.get(..1).unwrap_or_default(),
                    false => input,
                };
                let mut source = InBuffer::around(input);
                let mut output = OutBuffer::around(out);
                let left = context.decompress_stream(&mut output, &mut source);
                let left = left.map_err(|code| zstd_fault(get_error_name(code)))?;
                let moved = Unpacked {
                    used: source.pos(),
                    made: output.pos(),
                };
                frame.goes_on(input.get(..moved.used).unwrap_or_default(), moved.made);
                if left == 0 {
                    std::mem::take(frame).ends()?;
                }
                Ok((moved, left == 0))
            }
        }
    }
}

impl Frame {
    /// Bytes of the longest header of a frame.
    const HEAD: usize = 18;

    fn goes_on(&mut self, used: &[u8], made: usize) {
        let room = Self::HEAD.saturating_sub(self.head.len());
        self.head.extend(used.iter().take(room));
        self.made = self.made.saturating_add(length(made));
    }

    /// Compares what came out with what the header said. The library does so, too, unless the last
    /// block is empty and comes by itself.
    fn ends(self) -> Result<(), Fault> {
        match get_frame_content_size(&self.head) {
            Ok(Some(size)) if size != self.made => {
                let made = self.made;
                let why = format!("a frame of {size} bytes has {made} in it");
                Err(Fault::corrupt(why))
            }
            _ => Ok(()),
        }
    }
}

fn xz_fault(error: XzError) -> Fault {
    match error {
        XzError::MemLimit | XzError::Mem => {
            let mib = XZ_MEMORY >> 20;
            Fault::refused(format!(
                "it needs more than the {mib} MiB that it may have (pack it with less than that)"
            ))
        }
        XzError::UnsupportedCheck => Fault::refused("its checksum is of a kind that is not known"),
        other => Fault::corrupt(other),
    }
}

fn zstd_fault(name: &str) -> Fault {
    match name {
        "Frame requires too much memory for decoding" => {
            Fault::refused("its window is longer than 128 MiB (pack it with --long=27 at most)")
        }
        other => Fault::corrupt(other),
    }
}

fn since(before: u64, after: u64) -> usize {
    usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX)
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Decoder, WRAPPERS, Wrapper};
    use crate::error::{Error, Kind};
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn pack(wrapper: Wrapper, bytes: &[u8]) -> Vec<u8> {
        match wrapper {
            Wrapper::Gzip => {
                let mut packer = GzEncoder::new(Vec::new(), Compression::default());
                packer.write_all(bytes).unwrap();
                packer.finish().unwrap()
            }
            Wrapper::Xz => {
                let mut packer = liblzma::write::XzEncoder::new(Vec::new(), 1);
                packer.write_all(bytes).unwrap();
                packer.finish().unwrap()
            }
            Wrapper::Zstd => {
                let mut packer = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
                packer.include_checksum(true).unwrap();
                packer.write_all(bytes).unwrap();
                packer.finish().unwrap()
            }
        }
    }

    /// All that comes out of `packed`, which goes in by `piece` bytes and comes out by `room`.
    fn unpack(
        wrapper: Wrapper,
        packed: &[u8],
        piece: usize,
        room: usize,
    ) -> Result<Vec<u8>, Error> {
        let mut decoder = Decoder::new(wrapper);
        let (mut all, mut out) = (Vec::new(), vec![0; room]);
        for input in packed.chunks(piece) {
            let mut at = 0;
            loop {
                let done = decoder.step(&input[at..], &mut out)?;
                at += done.used;
                all.extend(&out[..done.made]);
                if done.used == 0 && done.made == 0 {
                    break;
                }
            }
            assert_eq!(at, input.len(), "all of the input is used");
        }
        decoder.finish().map(|()| all)
    }

    fn text() -> Vec<u8> {
        let lines = (0..9000u32).map(|line| format!("line {line} {}\n", line.wrapping_mul(77_777)));
        lines.collect::<String>().into_bytes()
    }

    #[test]
    fn what_was_packed_comes_out_however_it_is_cut_and_from_several_members() {
        let text = text();
        let (first, second) = text.split_at(100_000);
        for (wrapper, _) in WRAPPERS {
            let whole = pack(wrapper, &text);
            assert_eq!(Wrapper::of(&whole), Some(wrapper));
            let two = [pack(wrapper, first), pack(wrapper, second)].concat();
            for packed in [whole, two] {
                for (piece, room) in [(1 << 20, 1 << 20), (1 << 20, 777), (13, 1 << 16)] {
                    let found = unpack(wrapper, &packed, piece, room).unwrap();
                    assert!(found == text, "{wrapper} {piece} {room}");
                }
            }
        }
    }

    #[test]
    fn what_is_cut_off_at_any_byte_or_damaged_is_never_whole() {
        let text = &text()[..3000];
        for (wrapper, _) in WRAPPERS {
            let packed = pack(wrapper, text);
            for end in 0..packed.len() {
                let found = unpack(wrapper, &packed[..end], 1 << 16, 1 << 16);
                assert_eq!(found.unwrap_err().kind(), Kind::Corrupt, "{wrapper} {end}");
            }
            let mut damaged = packed.clone();
            let middle = damaged.len() / 2;
            damaged[middle] ^= 0x10;
            assert!(unpack(wrapper, &damaged, 64, 64).is_err(), "{wrapper}");
            let mut longer = packed;
            longer.extend(b"more");
            assert!(unpack(wrapper, &longer, 64, 64).is_err(), "{wrapper}");
        }
    }

    #[test]
    fn a_frame_that_ends_before_its_size_is_damaged_however_it_is_cut() {
        // Its only block is the last one, and empty.
        let packed = b"\x28\xb5\x2f\xfd\x60\x00\x26\x05\x00\x00";
        for piece in 1..=packed.len() {
            let found = unpack(Wrapper::Zstd, packed, piece, 1 << 16);
            assert_eq!(found.unwrap_err().kind(), Kind::Corrupt, "{piece}");
        }
        let frames = [
            &pack(Wrapper::Zstd, &[7; 9000])[..],
            b"\x50\x2a\x4d\x18\x03\0\0\0abc",
        ];
        assert_eq!(
            unpack(Wrapper::Zstd, &frames.concat(), 3, 100).unwrap(),
            [7; 9000]
        );
    }

    #[test]
    fn an_empty_frame_is_one_thing_however_it_is_cut() {
        // Its only block repeats a byte not once, which the library takes in a frame that comes whole.
        let repeats = b"\x28\xb5\x2f\xfd\x20\x00\x03\x00\x00\x00";
        // As everybody writes it.
        let raw = b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00";
        for piece in 1..=repeats.len() {
            let found = unpack(Wrapper::Zstd, repeats, piece, 1 << 16);
            assert_eq!(found.unwrap_err().kind(), Kind::Corrupt, "{piece}");
            assert_eq!(unpack(Wrapper::Zstd, raw, piece, 1 << 16).unwrap(), b"");
        }
    }

    #[test]
    fn zeroes_may_follow_where_the_format_says_so() {
        let after = |wrapper, zeroes| {
            let packed = [pack(wrapper, b"disk"), vec![0; zeroes]].concat();
            unpack(wrapper, &packed, 3, 100).is_ok()
        };
        assert!(after(Wrapper::Gzip, 5) && after(Wrapper::Xz, 8));
        assert!(!after(Wrapper::Xz, 5) && !after(Wrapper::Zstd, 4));
    }

    #[test]
    fn a_format_is_told_from_its_wrapper() {
        for (name, found) in [
            ("gz", (None, Some(Wrapper::Gzip))),
            ("raw.xz", (Some("raw"), Some(Wrapper::Xz))),
            ("vmdk.zstd", (Some("vmdk"), Some(Wrapper::Zstd))),
            ("vmdk", (Some("vmdk"), None)),
            ("what.ever", (Some("what.ever"), None)),
        ] {
            assert_eq!(Wrapper::split(name), found, "{name}");
        }
    }

    #[test]
    fn a_frame_that_is_to_be_skipped_is() {
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"note"].concat();
        let packed = [skipped, pack(Wrapper::Zstd, b"disk")].concat();
        assert_eq!(Wrapper::of(&packed), Some(Wrapper::Zstd));
        assert_eq!(unpack(Wrapper::Zstd, &packed, 5, 2).unwrap(), b"disk");
    }
}
