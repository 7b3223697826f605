//! Where an NBD server breaks the protocol. Each variant carries what was found.
//!
//! One enum for the handshake and for transmission. A lie ends the connection, and no retry is
//! made: a server that miscounts once cannot be believed about the bytes either.

use crate::error::{Error, Kind};

/// What a server did that the specification forbids.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Lie {
    /// The first words are not those of an NBD server.
    #[error("it greets with {0:#018x} {1:#018x}, which is not NBD")]
    Greeting(u64, u64),
    /// An option reply starts with the wrong word.
    #[error("an option reply starts with {0:#018x}")]
    OptionMagic(u64),
    /// An option reply names an option that was not sent.
    #[error("it answers option {got} when asked option {sent}")]
    WrongOption {
        /// The option that is waiting for a reply.
        sent: u32,
        /// The option of the reply.
        got: u32,
    },
    /// An option reply of a type that does not belong to the option.
    #[error("it answers option {option} with a reply of type {reply:#x}")]
    WrongReply {
        /// The option that is waiting for a reply.
        option: u32,
        /// The type of the reply.
        reply: u32,
    },
    /// An option reply that is longer than any sound one.
    #[error("it answers option {option} with {length} bytes")]
    HugeReply {
        /// The option that is waiting for a reply.
        option: u32,
        /// Bytes announced.
        length: u32,
    },
    /// An option reply whose data has the wrong length or content.
    #[error("its reply to option {option} makes no sense: {what}")]
    Malformed {
        /// The option that is waiting for a reply.
        option: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Option replies without end.
    #[error("it answers option {0} with more replies than can be right")]
    EndlessReplies(u32),
    /// A handshake that ended before the size of the export was told.
    #[error("it does not tell the size of the export")]
    NoSize,
    /// A size that no disk has.
    #[error("it says the export has {0} bytes")]
    Size(u64),
    /// Transmission flags without the flag that says that they are flags.
    #[error("its transmission flags {0:#06x} lack HAS_FLAGS")]
    Flags(u16),
    /// Block sizes that contradict each other or the specification.
    #[error("its block sizes are minimum {minimum}, preferred {preferred}, maximum {maximum}")]
    BlockSize {
        /// Alignment of every request.
        minimum: u32,
        /// What is fast.
        preferred: u32,
        /// Longest request with a payload.
        maximum: u32,
    },
    /// The export is not the one that it was before the connection was lost.
    #[error("the export changed: {0}")]
    Changed(String),
    /// A reply starts with the wrong word.
    #[error("a reply starts with {0:#010x}")]
    ReplyMagic(u32),
    /// A reply to a request that is not waiting for one.
    #[error("it answers cookie {0:#x}, which no request has")]
    Cookie(u64),
    /// A reply of a kind that does not belong to the request.
    #[error("it answers {command} with {what}")]
    WrongKind {
        /// The request.
        command: &'static str,
        /// What came.
        what: &'static str,
    },
    /// A chunk of a type that is neither known nor an error.
    #[error("it sends a reply chunk of unknown type {0}")]
    ChunkType(u16),
    /// A chunk with a length that its type cannot have.
    #[error("it sends a chunk of type {kind} with {length} bytes")]
    ChunkLength {
        /// Type of the chunk.
        kind: u16,
        /// Bytes announced.
        length: u64,
    },
    /// A chunk for bytes that were not asked for.
    #[error("it sends {length} bytes at {offset:#x} to a read of {start:#x}..{end:#x}")]
    Overrun {
        /// Where the chunk starts.
        offset: u64,
        /// Bytes in the chunk.
        length: u64,
        /// First byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
    },
    /// Two chunks for the same bytes.
    #[error("it sends the bytes at {0:#x} twice")]
    Overlap(u64),
    /// A read that ends without all of its bytes.
    #[error("it ends a read after {got} of {asked} bytes")]
    Short {
        /// Bytes that came.
        got: u64,
        /// Bytes asked for.
        asked: u64,
    },
    /// A reply in more pieces than can be right.
    #[error("it sends one reply in more than {0} pieces")]
    Pieces(usize),
    /// A status descriptor that covers nothing.
    #[error("it sends a status descriptor of zero bytes at {0:#x}")]
    EmptyDescriptor(u64),
    /// Status descriptors that go on after the range asked for.
    #[error("its status descriptors go on at {0:#x}, past the range asked for")]
    DescriptorOverrun(u64),
    /// Status for a context that was not negotiated.
    #[error("it sends the status of context {0}, which was not negotiated")]
    Context(u32),
    /// No status for the context that was asked for.
    #[error("it ends a status reply without the context that was asked for")]
    NoStatus,
    /// An error chunk or an error reply without an error number.
    #[error("it reports an error with number zero")]
    ErrorZero,
}

impl From<Lie> for Error {
    fn from(lie: Lie) -> Self {
        Self::new(Kind::Corrupt, "the NBD server breaks the protocol").because(lie)
    }
}
