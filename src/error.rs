//! One error type for the whole crate: what was being done, to what, where, why, and what to do.
//!
//! A caller decides by [`Kind`]; a person reads [`Error::line`]. Each level says only what it adds:
//! the causes follow by [`std::error::Error::source`], and [`Error::line`] joins them with colons.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::iter;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about a failure. Matched on for control flow, so it stays small.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// Bytes break the rules of their own format or protocol. No retry helps.
    Corrupt,
    /// Sound, but uses something that this build does not do.
    Unsupported,
    /// This one request failed. The same call may succeed when repeated.
    Transient,
    /// The request failed for good: no space, no permission, gone.
    Io,
    /// Source and target, or target and manifest, hold different bytes where they must agree.
    Mismatch,
    /// A preflight check or a policy says no; nothing was changed.
    Refused,
    /// The command line or a setting makes no sense.
    Usage,
    /// Stopped by a signal; the journal can be resumed.
    Interrupted,
}

impl Kind {
    /// The process exit code that stands for this kind (`docs/reference.md`, "Exit codes").
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Mismatch => 3,
            Self::Refused => 4,
            Self::Interrupted => 5,
            Self::Corrupt | Self::Unsupported | Self::Transient | Self::Io => 1,
        }
    }
}

/// A failure, for people and for control flow.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    doing: Cow<'static, str>,
    at: Option<u64>,
    hint: Option<Cow<'static, str>>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure while `doing` something; a fragment such as `"write /dev/sdb"`, no full stop.
    pub fn new(kind: Kind, doing: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            doing: doing.into(),
            at: None,
            hint: None,
            cause: None,
        }))
    }

    /// An operating system error while `doing` something. Its kind follows from the errno.
    pub fn io(doing: impl Into<Cow<'static, str>>, cause: impl Into<io::Error>) -> Self {
        let cause = cause.into();
        Self::new(kind_of(&cause), doing).because(cause)
    }

    /// Adds the byte offset at which it happened.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.at = Some(offset);
        self
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause, whose text must not be repeated in `doing`.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Wraps this error in what the caller was doing; the kind and the hint stay visible.
    #[must_use]
    pub fn context(self, doing: impl Into<Cow<'static, str>>) -> Self {
        Self::new(self.kind(), doing).because(self)
    }

    /// The same failure under another kind, for a caller that knows more.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Byte offset of the failure: the outermost one that is known.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.0
            .at
            .or_else(|| self.inner_error().and_then(Self::offset))
    }

    /// What to do about it: the innermost hint, which knows most.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.inner_error()
            .and_then(Self::advice)
            .or(self.0.hint.as_deref())
    }

    /// Every level, outermost first.
    fn causes(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        let first: &(dyn StdError + 'static) = self;
        iter::successors(Some(first), |&error| error.source())
    }

    /// The outermost cause of this type: what a caller decides by where a [`Kind`] says too little.
    #[must_use]
    pub fn caused_by<T: StdError + 'static>(&self) -> Option<&T> {
        self.causes().find_map(|error| error.downcast_ref())
    }

    /// The errno at the bottom of the chain, if the operating system reported one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        let told =
            |error: &(dyn StdError + 'static)| error.downcast_ref::<io::Error>()?.raw_os_error();
        self.causes().find_map(told)
    }

    /// The whole story on one line: every level, outermost first, then the hint in parentheses.
    #[must_use]
    pub fn line(&self) -> String {
        let levels: Vec<String> = self.causes().map(ToString::to_string).collect();
        let mut line = levels.join(": ");
        if let Some(hint) = self.advice() {
            line.push_str(" (");
            line.push_str(hint);
            line.push(')');
        }
        line.replace(['\n', '\r'], " ")
    }

    fn inner_error(&self) -> Option<&Self> {
        self.0
            .cause
            .as_ref()
            .and_then(|cause| cause.downcast_ref::<Self>())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.at {
            Some(at) => write!(f, "{} at offset {at:#x}", self.0.doing),
            None => f.write_str(&self.0.doing),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.line())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_ref().map(|cause| &**cause as _)
    }
}

/// Which errors of the operating system may pass when the same call is repeated.
fn kind_of(error: &io::Error) -> Kind {
    use io::ErrorKind as E;
    match error.kind() {
        E::Interrupted
        | E::WouldBlock
        | E::TimedOut
        | E::ConnectionRefused
        | E::ConnectionReset
        | E::ConnectionAborted
        | E::BrokenPipe
        | E::NotConnected
        | E::UnexpectedEof
        | E::HostUnreachable
        | E::NetworkUnreachable
        | E::NetworkDown => Kind::Transient,
        E::ResourceBusy => Kind::Refused,
        _ => Kind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Kind};
    use std::io;

    #[test]
    fn a_line_tells_every_level_once_and_ends_with_the_innermost_hint() {
        let error = Error::io("write /dev/sdb", io::Error::from_raw_os_error(28))
            .at(0x1000)
            .hint("the target is full")
            .context("copy disk 1")
            .hint("a vaguer hint");
        assert_eq!(
            error.line(),
            "copy disk 1: write /dev/sdb at offset 0x1000: \
             No space left on device (os error 28) (the target is full)"
        );
        assert_eq!(error.kind(), Kind::Io);
        assert_eq!(error.offset(), Some(0x1000));
        assert_eq!(error.errno(), Some(28));
    }

    #[test]
    fn a_cause_is_found_by_its_type_however_deep_it_is() {
        let error = Error::io("write", io::Error::from_raw_os_error(28)).context("copy");
        let found = error
            .caused_by::<io::Error>()
            .and_then(io::Error::raw_os_error);
        assert_eq!(found, Some(28));
        assert!(error.caused_by::<std::fmt::Error>().is_none());
    }

    #[test]
    fn a_line_is_one_line_whatever_the_cause_says() {
        let error = Error::new(Kind::Io, "start nbdkit").because("first\nsecond");
        assert_eq!(error.line(), "start nbdkit: first second");
    }

    #[test]
    fn a_lost_connection_may_be_retried_and_a_full_disk_may_not() {
        let kind = |code| Error::io("x", io::Error::from_raw_os_error(code)).kind();
        assert_eq!(kind(104), Kind::Transient, "ECONNRESET");
        assert_eq!(kind(28), Kind::Io, "ENOSPC");
        assert_eq!(kind(5), Kind::Io, "EIO");
    }
}
