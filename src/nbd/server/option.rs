//! The data of options, taken apart. Bytes to values, no decisions.

use crate::nbd::wire::MAX_STRING;

/// What is wrong with the data of an option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Malformed(pub(super) &'static str);

/// `INFO` and `GO`: an export and what the client wants to know.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct InfoQuery<'a> {
    pub(super) name: &'a str,
    pub(super) wanted: Vec<u16>,
}

/// `LIST_META_CONTEXT` and `SET_META_CONTEXT`: an export and queries.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct MetaQuery<'a> {
    pub(super) name: &'a str,
    pub(super) queries: Vec<&'a str>,
}

impl<'a> InfoQuery<'a> {
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut words = Words(data);
        let name = words.string()?;
        let count = words.u16()?;
        let wanted = (0..count).map(|_| words.u16()).collect::<Result<_, _>>()?;
        words.end()?;
        Ok(Self { name, wanted })
    }
}

impl<'a> MetaQuery<'a> {
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut words = Words(data);
        let name = words.string()?;
        let count = words.u32()?;
        // Grown as strings are found, never by the count: that is only the client's word.
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(words.string()?);
        }
        words.end()?;
        Ok(Self { name, queries })
    }
}

/// The name in `EXPORT_NAME`: all of the data.
pub(super) fn export_name(data: &[u8]) -> Result<&str, Malformed> {
    text(data)
}

/// What is left to be taken apart.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// A 32-bit length and so many bytes of UTF-8.
    fn string(&mut self) -> Result<&'a str, Malformed> {
        let len = self.u32()?;
        let len = usize::try_from(len).map_err(|_| TOO_SHORT)?;
        let (head, rest) = self.0.split_at_checked(len).ok_or(TOO_SHORT)?;
        self.0 = rest;
        text(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(*head)
    }

    fn end(&self) -> Result<(), Malformed> {
        match self.0 {
            [] => Ok(()),
            _ => Err(Malformed("the option is longer than what it holds")),
        }
    }
}

const TOO_SHORT: Malformed = Malformed("the option is shorter than what it says it holds");

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    if u32::try_from(bytes.len()).map_or(true, |len| len > MAX_STRING) {
        return Err(Malformed("a string is longer than 4096 bytes"));
    }
    std::str::from_utf8(bytes).map_err(|_| Malformed("a string is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::{InfoQuery, MetaQuery};

    #[test]
    fn a_count_that_the_data_does_not_hold_is_an_error_not_an_allocation() {
        let data = [0, 0, 0, 1, b'a', 0xff, 0xff, 0xff, 0xff];
        assert!(MetaQuery::parse(&data).is_err());
        assert!(InfoQuery::parse(&[0, 0, 0, 0, 0xff, 0xff, 0, 0]).is_err());
    }

    #[test]
    fn every_byte_of_an_option_must_be_accounted_for() {
        let good = [0, 0, 0, 1, b'a', 0, 1, 0, 3];
        let query = InfoQuery::parse(&good).unwrap();
        assert_eq!((query.name, &*query.wanted), ("a", &[3][..]));
        for cut in 0..good.len() {
            assert!(InfoQuery::parse(&good[..cut]).is_err(), "{cut} bytes");
        }
        assert!(InfoQuery::parse(&[&good[..], &[0]].concat()).is_err());
    }
}
