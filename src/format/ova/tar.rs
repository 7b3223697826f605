//! Headers of a tar file → its members. Pure.
//!
//! POSIX.1-1988 ("ustar") and -2001 ("pax"), and the long names of GNU tar. An OVA holds regular
//! files and nothing else, so links, devices and sparse files are refused rather than passed over:
//! what is read must be what everybody else reads. A layer of a container image holds a file system, so
//! there they are told of.

use super::Fault;

/// Bytes of a header, and the unit in which everything is placed.
pub const BLOCK: u64 = 512;

/// Members of an OVA. Real ones have a few dozen at most.
const MEMBERS_MAX: usize = 4096;

/// Of a layer: those of an operating system have some hundred thousand.
const LAYER_MAX: usize = 4 << 20;

/// Longest pax header or long name.
const EXTRA_MAX: u64 = 64 << 10;

/// A file in a tar file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Its name, below the directory that the tar file stands for.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// What comes after a header.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Next {
    /// The content of a file.
    File(Member),
    /// Something else with a name, and its content; of a layer only.
    Other(Member),
    /// So many bytes about the file after them, for [`Walk::extra`].
    Extra(u64),
    /// Another header.
    Header,
    /// Nothing: the end was marked.
    End,
}

/// A tar file whose headers are read one after the other.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    is_layer: bool,
    members: usize,
    /// What the content of the last header says: `L` or `x`.
    extra: Option<u8>,
    name: Option<String>,
    size: Option<u64>,
}

/// Bytes up to the next header after a member of `size` bytes.
#[must_use]
pub fn padded(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX)
}

impl Walk {
    /// Of a layer of a container image, which holds more than files.
    #[must_use]
    pub fn of_layer() -> Self {
        Self {
            is_layer: true,
            ..Self::default()
        }
    }

    /// Reads the next header.
    ///
    /// # Errors
    /// It is none, or one of something that an OVA does not hold.
    pub fn header(&mut self, block: &[u8]) -> Result<Next, Fault> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(Next::End);
        }
        checksum(block)?;
        self.members = self.members.saturating_add(1);
        let most = if self.is_layer {
            LAYER_MAX
        } else {
            MEMBERS_MAX
        };
        if self.members > most {
            return Err(Fault::Members);
        }
        let size = number(field(block, 124, 12)).ok_or(Fault::Header("size"))?;
        let kind = block.get(156).copied().unwrap_or_default();
        match kind {
            b'L' | b'K' | b'x' | b'g' if size > EXTRA_MAX => Err(Fault::Header("extended header")),
            b'L' | b'x' | b'g' => {
                self.extra = Some(kind);
                Ok(Next::Extra(size))
            }
            b'0' | 0 | b'7' => {
                let name = self.named(block)?;
                let (name, size) = (plain(&name)?, self.size.take().unwrap_or(size));
                Ok(Next::File(Member { name, size }))
            }
            b'K' if self.is_layer => {
                self.extra = Some(kind);
                Ok(Next::Extra(size))
            }
            b'5' => {
                (self.name, self.size) = (None, None);
                Ok(Next::Header)
            }
            b'1'..=b'6' if self.is_layer => {
                let name = self.named(block)?;
                // What it is linked to may be as long; it has no content.
                self.size = None;
                let (name, size) = (plain(&name)?, 0);
                Ok(Next::Other(Member { name, size }))
            }
            kind => Err(Fault::Kind(char::from(kind))),
        }
    }

    /// The name of the next member, long or not.
    fn named(&mut self, block: &[u8]) -> Result<String, Fault> {
        match self.name.take() {
            Some(name) => Ok(name),
            None => named(block),
        }
        .map(|name| match self.is_layer {
            // Some write what is at the top of the file system so.
            true => name.trim_start_matches('/').to_owned(),
            false => name,
        })
    }

    /// Takes what [`Next::Extra`] announced.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn extra(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match self.extra.take() {
            Some(b'L') => {
                let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                let text = std::str::from_utf8(text).map_err(|_| Fault::Header("name"))?;
                self.name = Some(text.to_owned());
                Ok(())
            }
            Some(b'x') => self.pax(bytes),
            // Those of all files: comments, where an OVA has any.
            _ => Ok(()),
        }
    }

    /// Lines of "LENGTH KEY=VALUE\n".
    fn pax(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let bad = || Fault::Header("pax header");
        let mut rest = bytes;
        while !rest.is_empty() {
            let blank = rest.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
            let (length, _) = rest.split_at_checked(blank).ok_or_else(bad)?;
            let length = std::str::from_utf8(length).map_err(|_| bad())?;
            let length: usize = length.parse().map_err(|_| bad())?;
            let (line, after) = rest.split_at_checked(length).ok_or_else(bad)?;
            let line = line.get(blank.saturating_add(1)..).ok_or_else(bad)?;
            let line = line.strip_suffix(b"\n").ok_or_else(bad)?;
            let line = std::str::from_utf8(line).map_err(|_| bad())?;
            let (key, value) = line.split_once('=').ok_or_else(bad)?;
            match key {
                "path" => self.name = Some(value.to_owned()),
                "size" => self.size = Some(value.parse().map_err(|_| bad())?),
                key if key.starts_with("GNU.sparse") => return Err(Fault::Kind('S')),
                _ => {}
            }
            rest = after;
        }
        Ok(())
    }
}

fn field(block: &[u8], at: usize, len: usize) -> &[u8] {
    block.get(at..at.saturating_add(len)).unwrap_or_default()
}

/// The sum of all bytes, those of the checksum counted as blanks.
fn checksum(block: &[u8]) -> Result<(), Fault> {
    if block.len() < 512 {
        return Err(Fault::Short);
    }
    let counted = block.iter().enumerate().map(|(at, byte)| match at {
        148..156 => u64::from(b' '),
        _ => u64::from(*byte),
    });
    match number(field(block, 148, 8)) {
        Some(found) if found == counted.sum::<u64>() => Ok(()),
        _ => Err(Fault::Checksum),
    }
}

/// Octal digits, or GNU's numbers of 64 bits.
fn number(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
        let (front, last) = field.split_at_checked(field.len().checked_sub(8)?)?;
        let (first, front) = front.split_first()?;
        let fits = *first == 0x80 && front.iter().all(|byte| *byte == 0);
        return fits.then(|| u64::from_be_bytes(last.try_into().unwrap_or_default()));
    }
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches(['\0', ' ']);
    match text.is_empty() {
        true => Some(0),
        false if text.bytes().all(|digit| digit.is_ascii_digit()) => {
            u64::from_str_radix(text, 8).ok()
        }
        false => None,
    }
}

/// The name in a header, with the prefix that ustar has for long ones.
fn named(block: &[u8]) -> Result<String, Fault> {
    let text = |at, len| {
        let field: &[u8] = field(block, at, len);
        let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(text).map_err(|_| Fault::Header("name"))
    };
    let name = text(0, 100)?;
    // GNU's own magic has no prefix there.
    let prefix = match field(block, 257, 6) {
        b"ustar\0" => text(345, 155)?,
        _ => "",
    };
    Ok(match prefix {
        "" => name.to_owned(),
        prefix => format!("{prefix}/{name}"),
    })
}

/// A name that leads nowhere but down.
fn plain(name: &str) -> Result<String, Fault> {
    let short = name.strip_prefix("./").unwrap_or(name);
    let odd = short.is_empty()
        || short.starts_with('/')
        || short.split('/').any(|part| part == "..")
        || short.contains(|c: char| c.is_control());
    match odd {
        true => Err(Fault::Name(name.escape_default().to_string())),
        false => Ok(short.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, Member, Next, Walk};
    use crate::testkit::ova::header;

    fn first(block: &[u8]) -> Result<Next, Fault> {
        Walk::default().header(block)
    }

    fn file(name: &str, size: u64) -> Next {
        let name = name.to_owned();
        Next::File(Member { name, size })
    }

    #[test]
    fn a_header_tells_name_and_size() {
        assert_eq!(first(&header("a.ovf", b'0', 77)), Ok(file("a.ovf", 77)));
        assert_eq!(first(&header("./d/b", b'0', 0)), Ok(file("d/b", 0)));
        assert_eq!(first(&[0; 512]), Ok(Next::End));
        assert_eq!(first(&header("dir/", b'5', 0)), Ok(Next::Header));
        assert_eq!(
            first(&header("large", b'0', 9 << 40)),
            Ok(file("large", 9 << 40))
        );
    }

    #[test]
    fn long_names_and_sizes_come_before_their_file() {
        let mut walk = Walk::default();
        assert_eq!(walk.header(&header("x", b'L', 5)), Ok(Next::Extra(5)));
        walk.extra(b"long\0").unwrap();
        assert_eq!(walk.header(&header("short", b'0', 1)), Ok(file("long", 1)));
        assert_eq!(walk.header(&header("x", b'x', 9)), Ok(Next::Extra(9)));
        walk.extra(b"12 path=pax\n14 size=12345\n12 uid=12345\n")
            .unwrap_err();
        assert_eq!(walk.header(&header("x", b'x', 9)), Ok(Next::Extra(9)));
        walk.extra(b"12 path=pax\n14 size=12345\n").unwrap();
        assert_eq!(walk.header(&header("x", b'0', 1)), Ok(file("pax", 12345)));
        assert_eq!(walk.header(&header("next", b'0', 1)), Ok(file("next", 1)));
    }

    #[test]
    fn what_does_not_belong_is_refused() {
        for name in ["/etc/passwd", "../up", "a/../../b", "", "new\nline"] {
            assert!(matches!(first(&header(name, b'0', 1)), Err(Fault::Name(_))));
        }
        for kind in [b'1', b'2', b'3', b'4', b'6', b'S'] {
            let found = first(&header("a", kind, 0));
            assert_eq!(found, Err(Fault::Kind(kind.into())));
        }
        let mut walk = Walk::default();
        walk.header(&header("x", b'x', 9)).unwrap();
        let sparse = b"22 GNU.sparse.major=1\n";
        assert_eq!(walk.extra(sparse), Err(Fault::Kind('S')));
        let mut damaged = header("a", b'0', 1);
        damaged[3] ^= 1;
        assert_eq!(first(&damaged), Err(Fault::Checksum));
        assert_eq!(first(&damaged[..500]), Err(Fault::Short));
    }

    #[test]
    fn a_layer_may_hold_links_and_devices_and_long_targets_and_nothing_that_leads_out() {
        let mut walk = Walk::of_layer();
        for kind in [b'1', b'2', b'3', b'4', b'6'] {
            let name = "etc/x".to_owned();
            let found = walk.header(&header("./etc/x", kind, 7));
            assert_eq!(found, Ok(Next::Other(Member { name, size: 0 })));
        }
        assert_eq!(walk.header(&header("x", b'K', 5)), Ok(Next::Extra(5)));
        walk.extra(b"long\0").unwrap();
        assert_eq!(walk.header(&header("d/", b'5', 0)), Ok(Next::Header));
        assert_eq!(walk.header(&header("a", b'0', 1)), Ok(file("a", 1)));
        for kind in [b'0', b'2'] {
            let found = walk.header(&header("disk/../../up", kind, 1));
            assert!(matches!(found, Err(Fault::Name(_))), "{found:?}");
        }
        assert_eq!(walk.header(&header("a", b'S', 1)), Err(Fault::Kind('S')));
    }

    #[test]
    fn the_number_of_members_is_bounded() {
        let mut walk = Walk::default();
        let block = header("a", b'0', 0);
        let found = (0..5000).find_map(|_| walk.header(&block).err());
        assert_eq!(found, Some(Fault::Members));
    }
}
