//! Requests: from bytes to something that may be done, or the error that says why not. Pure.

use super::MAX_REQUEST;
use super::menu::Offer;
use super::negotiate::Mode;
use crate::error::{Error, Kind};
use crate::extent::ByteRange;
use crate::nbd::wire::{
    EXTENDED_REQUEST_MAGIC, ExtendedRequest, REQUEST_MAGIC, Request, command, command_flag, errno,
    export_flag,
};
use zerocopy::FromBytes;

/// A request as it came, either shape.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Asked {
    /// [`command_flag`]s.
    pub flags: u16,
    /// One of [`command`].
    pub command: u16,
    /// Repeated in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// A request that was checked and may be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Job {
    /// Read; in one chunk if `whole`.
    Read {
        /// The client wants one chunk of data.
        whole: bool,
    },
    /// Write.
    Write,
    /// Make completed writes durable.
    Flush,
    /// Forget.
    Trim,
    /// Zero.
    Zero {
        /// Keep the space.
        no_hole: bool,
        /// Fail rather than be slow.
        fast: bool,
    },
    /// Tell what is known; one extent only if `one`.
    Status {
        /// The client wants one extent.
        one: bool,
    },
}

/// Why a request is not done: what the client is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// One of [`errno`].
    pub errno: u32,
    /// For people, where the mode carries it.
    pub text: String,
}

impl Fault {
    fn new(errno: u32, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { errno, text }
    }
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        const EPERM: i32 = 1;
        const ENOMEM: i32 = 12;
        const EINVAL: i32 = 22;
        const EFBIG: i32 = 27;
        const ENOSPC: i32 = 28;
        const EROFS: i32 = 30;
        const EOPNOTSUPP: i32 = 95;
        const EDQUOT: i32 = 122;
        let errno = match (error.errno(), error.kind()) {
            (Some(EPERM | EROFS), _) => errno::EPERM,
            (Some(ENOMEM), _) => errno::ENOMEM,
            (Some(EINVAL), _) => errno::EINVAL,
            (Some(EFBIG | ENOSPC | EDQUOT), _) => errno::ENOSPC,
            (Some(EOPNOTSUPP), _) | (None, Kind::Unsupported) => errno::ENOTSUP,
            (None, Kind::Refused) => errno::EPERM,
            (None, Kind::Usage) => errno::EINVAL,
            _ => errno::EIO,
        };
        Self::new(errno, error.line())
    }
}

/// Bytes of a request's header.
#[must_use]
pub fn header_len(mode: Mode) -> usize {
    match mode {
        Mode::Simple | Mode::Structured => size_of::<Request>(),
        Mode::Extended => size_of::<ExtendedRequest>(),
    }
}

/// Reads a header of [`header_len`] bytes. `None` if its magic is wrong: the stream is lost.
#[must_use]
pub fn parse(mode: Mode, bytes: &[u8]) -> Option<Asked> {
    if mode == Mode::Extended {
        let request = ExtendedRequest::read_from_bytes(bytes).ok()?;
        return (request.magic.get() == EXTENDED_REQUEST_MAGIC).then(|| Asked {
            flags: request.flags.get(),
            command: request.command.get(),
            cookie: request.cookie.get(),
            offset: request.offset.get(),
            length: request.length.get(),
        });
    }
    let request = Request::read_from_bytes(bytes).ok()?;
    (request.magic.get() == REQUEST_MAGIC).then(|| Asked {
        flags: request.flags.get(),
        command: request.command.get(),
        cookie: request.cookie.get(),
        offset: request.offset.get(),
        length: request.length.get().into(),
    })
}

impl Asked {
    /// The bytes that it is about.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        ByteRange::at(self.offset, self.length)
    }

    /// How many bytes follow the header, whether or not the request is granted.
    #[must_use]
    pub fn payload(&self, mode: Mode) -> u64 {
        let marked = mode == Mode::Extended && self.flag(command_flag::PAYLOAD_LEN);
        if self.command == command::WRITE || marked {
            self.length
        } else {
            0
        }
    }

    /// Whether `flag` of [`command_flag`] is set.
    #[must_use]
    pub fn flag(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// What is to be done, if it may be.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, offer: &Offer, mode: Mode, contexts: usize) -> Result<Job, Fault> {
        let job = self.job()?;
        self.check_flags(offer, mode)?;
        match job {
            Job::Flush => return Ok(job),
            Job::Write | Job::Trim | Job::Zero { .. } if offer.has(export_flag::READ_ONLY) => {
                return Err(Fault::new(errno::EPERM, "the export is read-only"));
            }
            Job::Trim if !offer.has(export_flag::SEND_TRIM) => {
                return Err(Fault::new(errno::EINVAL, "TRIM was not offered"));
            }
            Job::Status { .. } if contexts == 0 => {
                return Err(Fault::new(errno::EINVAL, "no meta context was chosen"));
            }
            _ => {}
        }
        self.check_range(job, offer)?;
        Ok(job)
    }

    fn job(&self) -> Result<Job, Fault> {
        Ok(match self.command {
            command::READ => Job::Read {
                whole: self.flag(command_flag::DF),
            },
            command::WRITE => Job::Write,
            command::FLUSH => Job::Flush,
            command::TRIM => Job::Trim,
            command::WRITE_ZEROES => Job::Zero {
                no_hole: self.flag(command_flag::NO_HOLE),
                fast: self.flag(command_flag::FAST_ZERO),
            },
            command::BLOCK_STATUS => Job::Status {
                one: self.flag(command_flag::REQ_ONE),
            },
            _ => return Err(Fault::new(errno::EINVAL, "the command is not known")),
        })
    }

    fn check_flags(&self, offer: &Offer, mode: Mode) -> Result<(), Fault> {
        // FUA goes with every command; it means nothing where nothing is written.
        let allowed = command_flag::FUA
            | match self.command {
                command::READ if mode != Mode::Simple => command_flag::DF,
                command::WRITE if mode == Mode::Extended => command_flag::PAYLOAD_LEN,
                command::WRITE_ZEROES if offer.has(export_flag::SEND_FAST_ZERO) => {
                    command_flag::NO_HOLE | command_flag::FAST_ZERO
                }
                command::WRITE_ZEROES => command_flag::NO_HOLE,
                command::BLOCK_STATUS => command_flag::REQ_ONE,
                _ => 0,
            };
        if self.flags & !allowed != 0 {
            return Err(Fault::new(errno::EINVAL, "a flag does not go with it"));
        }
        Ok(())
    }

    fn check_range(&self, job: Job, offer: &Offer) -> Result<(), Fault> {
        let with_data = matches!(job, Job::Read { .. } | Job::Write);
        if self.length == 0 {
            return Err(Fault::new(errno::EINVAL, "it is about no bytes"));
        }
        if with_data && self.length > u64::from(offer.blocks.maximum.min(MAX_REQUEST)) {
            let text = format!("longer than {} bytes", offer.blocks.maximum);
            return Err(Fault::new(errno::EINVAL, text));
        }
        let end = self.offset.checked_add(self.length);
        let Some(end) = end.filter(|end| *end <= offer.size) else {
            let grows = matches!(job, Job::Write | Job::Zero { .. });
            let errno = if grows { errno::ENOSPC } else { errno::EINVAL };
            let text = format!("past the end of the disk at {:#x}", offer.size);
            return Err(Fault::new(errno, text));
        };
        let unit = u64::from(offer.blocks.minimum);
        if !self.offset.is_multiple_of(unit) || (!end.is_multiple_of(unit) && end != offer.size) {
            let text = format!("not aligned to {unit} bytes");
            return Err(Fault::new(errno::EINVAL, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, Job, parse};
    use crate::nbd::server::export::BlockSizes;
    use crate::nbd::server::menu::Offer;
    use crate::nbd::server::negotiate::Mode;
    use crate::nbd::wire::{command, command_flag, errno, export_flag};

    const MIB: u64 = 1 << 20;

    fn offer(flags: u16, minimum: u32, size: u64) -> Offer {
        Offer {
            name: String::new(),
            size,
            flags,
            blocks: BlockSizes {
                minimum,
                preferred: 4096,
                maximum: 1 << 20,
            },
            description: String::new(),
            contexts: vec!["base:allocation".into()],
        }
    }

    fn asked(command: u16, offset: u64, length: u64) -> Asked {
        Asked {
            flags: 0,
            command,
            cookie: 7,
            offset,
            length,
        }
    }

    /// The errno, or zero if the request would be done.
    fn verdict(asked: Asked, offer: &Offer) -> u32 {
        asked
            .check(offer, Mode::Structured, 1)
            .map_or_else(|fault| fault.errno, |_| 0)
    }

    #[test]
    fn a_range_is_on_the_disk_or_an_error_also_where_its_end_overflows() {
        let disk = offer(export_flag::SEND_TRIM, 1, 4 * MIB);
        for (command, past) in [
            (command::READ, errno::EINVAL),
            (command::WRITE, errno::ENOSPC),
            (command::WRITE_ZEROES, errno::ENOSPC),
            (command::TRIM, errno::EINVAL),
            (command::BLOCK_STATUS, errno::EINVAL),
        ] {
            assert_eq!(verdict(asked(command, 4 * MIB - 1, 1), &disk), 0);
            assert_eq!(verdict(asked(command, 4 * MIB, 1), &disk), past);
            assert_eq!(verdict(asked(command, 4 * MIB - 1, 2), &disk), past);
            assert_eq!(verdict(asked(command, u64::MAX, 2), &disk), past);
            assert_eq!(verdict(asked(command, 0, 0), &disk), errno::EINVAL);
        }
    }

    #[test]
    fn only_requests_with_data_are_limited_in_length() {
        let disk = offer(0, 1, 64 * MIB);
        assert_eq!(verdict(asked(command::READ, 0, MIB), &disk), 0);
        for command in [command::READ, command::WRITE] {
            assert_eq!(verdict(asked(command, 0, MIB + 1), &disk), errno::EINVAL);
        }
        for command in [command::WRITE_ZEROES, command::BLOCK_STATUS] {
            assert_eq!(verdict(asked(command, 0, 64 * MIB), &disk), 0);
        }
    }

    #[test]
    fn the_tail_of_the_disk_is_the_only_unaligned_range() {
        let disk = offer(0, 4096, MIB + 1);
        assert_eq!(verdict(asked(command::READ, MIB, 1), &disk), 0);
        assert_eq!(
            verdict(asked(command::READ, 0, MIB + 1 - 4096), &disk),
            errno::EINVAL
        );
        assert_eq!(verdict(asked(command::READ, 1, 4096), &disk), errno::EINVAL);
        assert_eq!(verdict(asked(command::READ, 0, 512), &disk), errno::EINVAL);
    }

    #[test]
    fn a_read_only_export_takes_no_change_but_a_flush() {
        let disk = offer(export_flag::READ_ONLY | export_flag::SEND_TRIM, 1, MIB);
        for command in [command::WRITE, command::WRITE_ZEROES, command::TRIM] {
            assert_eq!(verdict(asked(command, 0, 512), &disk), errno::EPERM);
        }
        assert_eq!(verdict(asked(command::FLUSH, 0, 0), &disk), 0);
    }

    #[test]
    fn a_flag_that_was_not_offered_is_refused() {
        let disk = offer(0, 1, MIB);
        let mut zero = asked(command::WRITE_ZEROES, 0, 512);
        zero.flags = command_flag::FAST_ZERO;
        assert_eq!(verdict(zero, &disk), errno::EINVAL);
        assert_eq!(
            verdict(zero, &offer(export_flag::SEND_FAST_ZERO, 1, MIB)),
            0
        );
        let mut read = asked(command::READ, 0, 512);
        read.flags = command_flag::DF;
        assert_eq!(
            read.check(&disk, Mode::Structured, 0),
            Ok(Job::Read { whole: true })
        );
        assert!(read.check(&disk, Mode::Simple, 0).is_err());
    }

    #[test]
    fn status_without_a_context_is_refused() {
        let ask = asked(command::BLOCK_STATUS, 0, 512);
        assert!(ask.check(&offer(0, 1, MIB), Mode::Structured, 0).is_err());
    }

    #[test]
    fn a_wrong_magic_is_not_a_request() {
        assert_eq!(parse(Mode::Simple, &[0; 28]), None);
        assert_eq!(parse(Mode::Extended, &[0; 32]), None);
        assert_eq!(parse(Mode::Simple, &[]), None);
    }
}
