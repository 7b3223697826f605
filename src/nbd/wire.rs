//! The bytes of the NBD protocol as its specification draws them. No logic.
//!
//! Names and sections are those of <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "NBDMAGIC", first word of a server.
pub const INIT_PASSWD: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT", second word of a newstyle server and first of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Second word of an oldstyle server, which is refused.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// First word of an option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// First word of an extended reply chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// The longest export name, context name or error text, in bytes.
pub const MAX_STRING: u32 = 4096;

/// Handshake flags, both directions.
pub mod handshake_flag {
    /// The peer speaks fixed newstyle.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// The peer can leave out 124 zeroes after `EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 2;
}

/// Options of the handshake.
pub mod option {
    /// Choose an export without any reply but its size.
    pub const EXPORT_NAME: u32 = 1;
    /// End the session.
    pub const ABORT: u32 = 2;
    /// List the exports.
    pub const LIST: u32 = 3;
    /// Go on under TLS.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Choose an export and start transmission.
    pub const GO: u32 = 7;
    /// Use structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List meta contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose meta contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Use extended headers.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of option replies. Errors have the top bit set.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of a list.
    pub const SERVER: u32 = 2;
    /// One piece of information on an export.
    pub const INFO: u32 = 3;
    /// One meta context.
    pub const META_CONTEXT: u32 = 4;
    /// Set in every error.
    pub const ERROR_BIT: u32 = 1 << 31;
    /// The option is not known.
    pub const ERR_UNSUP: u32 = ERROR_BIT | 1;
    /// Forbidden by policy.
    pub const ERR_POLICY: u32 = ERROR_BIT | 2;
    /// The option's data makes no sense.
    pub const ERR_INVALID: u32 = ERROR_BIT | 3;
    /// Not on this platform.
    pub const ERR_PLATFORM: u32 = ERROR_BIT | 4;
    /// TLS must come first.
    pub const ERR_TLS_REQD: u32 = ERROR_BIT | 5;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = ERROR_BIT | 6;
    /// The server is shutting down.
    pub const ERR_SHUTDOWN: u32 = ERROR_BIT | 7;
    /// The client must ask for block sizes first.
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR_BIT | 8;
    /// The option is too long.
    pub const ERR_TOO_BIG: u32 = ERROR_BIT | 9;
    /// Extended headers must be negotiated first.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR_BIT | 10;
}

/// Pieces of information in `INFO` replies.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// Canonical name.
    pub const NAME: u16 = 1;
    /// Description for people.
    pub const DESCRIPTION: u16 = 2;
    /// Minimum, preferred and maximum block size.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export can do.
pub mod export_flag {
    /// Must be set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// No writes.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `FLUSH` works.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The FUA flag works.
    pub const SEND_FUA: u16 = 1 << 3;
    /// `TRIM` works.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `WRITE_ZEROES` works.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The DF flag works.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers all connections.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// `CACHE` works.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The FAST_ZERO flag works.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Requests.
pub mod command {
    /// Read data.
    pub const READ: u16 = 0;
    /// Write data.
    pub const WRITE: u16 = 1;
    /// Goodbye; no reply.
    pub const DISCONNECT: u16 = 2;
    /// Make completed writes durable.
    pub const FLUSH: u16 = 3;
    /// The content does not matter any more.
    pub const TRIM: u16 = 4;
    /// Read ahead.
    pub const CACHE: u16 = 5;
    /// Make a range read as zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// What is known of a range.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests.
pub mod command_flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1 << 0;
    /// Keep the space allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One chunk of data only.
    pub const DF: u16 = 1 << 2;
    /// One extent only.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Fail at once rather than write zeroes slowly.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// Extended headers: the length is that of a payload.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Types of structured reply chunks. Errors have bit 15 set.
pub mod chunk {
    /// Nothing, only the end.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeroes at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents with 32-bit lengths.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents with 64-bit lengths.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// Set in every error chunk.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// An error.
    pub const ERROR: u16 = ERROR_BIT | 1;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
    /// Flag: the last chunk of a reply.
    pub const FLAG_DONE: u16 = 1;
}

/// Error numbers: Linux' own.
pub mod errno {
    /// Not permitted.
    pub const EPERM: u32 = 1;
    /// Input/output error.
    pub const EIO: u32 = 5;
    /// Out of memory.
    pub const ENOMEM: u32 = 12;
    /// Invalid argument.
    pub const EINVAL: u32 = 22;
    /// No space left.
    pub const ENOSPC: u32 = 28;
    /// Reply too long.
    pub const EOVERFLOW: u32 = 75;
    /// Not supported; FAST_ZERO that would be slow.
    pub const ENOTSUP: u32 = 95;
    /// The server is shutting down.
    pub const ESHUTDOWN: u32 = 108;
}

/// Flags of the context `base:allocation`.
pub mod allocation {
    /// Nothing is allocated.
    pub const HOLE: u64 = 1;
    /// Reads as zeroes.
    pub const ZERO: u64 = 2;
}

/// Flag of the contexts `qemu:dirty-bitmap:NAME`.
pub const DIRTY: u64 = 1;

/// What the server says first.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Greeting {
    /// [`INIT_PASSWD`].
    pub passwd: U64,
    /// [`OPTION_MAGIC`].
    pub magic: U64,
    /// [`handshake_flag`].
    pub flags: U16,
}
const _: () = assert!(size_of::<Greeting>() == 18);

/// Header of an option.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OptionHeader {
    /// [`OPTION_MAGIC`].
    pub magic: U64,
    /// [`option`].
    pub option: U32,
    /// Bytes of data that follow.
    pub length: U32,
}
const _: () = assert!(size_of::<OptionHeader>() == 16);

/// Header of an option reply.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OptionReply {
    /// [`OPTION_REPLY_MAGIC`].
    pub magic: U64,
    /// The option that is answered.
    pub option: U32,
    /// [`reply`].
    pub reply: U32,
    /// Bytes of data that follow.
    pub length: U32,
}
const _: () = assert!(size_of::<OptionReply>() == 20);

/// `INFO_EXPORT`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct InfoExport {
    /// [`info::EXPORT`].
    pub kind: U16,
    /// Bytes of the export.
    pub size: U64,
    /// [`export_flag`].
    pub flags: U16,
}
const _: () = assert!(size_of::<InfoExport>() == 12);

/// `INFO_BLOCK_SIZE`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct InfoBlockSize {
    /// [`info::BLOCK_SIZE`].
    pub kind: U16,
    /// Alignment of every request.
    pub minimum: U32,
    /// What is fast.
    pub preferred: U32,
    /// Longest request with a payload.
    pub maximum: U32,
}
const _: () = assert!(size_of::<InfoBlockSize>() == 14);

/// A compact request.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Request {
    /// [`REQUEST_MAGIC`].
    pub magic: U32,
    /// [`command_flag`].
    pub flags: U16,
    /// [`command`].
    pub command: U16,
    /// Chosen by the client, repeated in the reply.
    pub cookie: U64,
    /// First byte.
    pub offset: U64,
    /// Bytes.
    pub length: U32,
}
const _: () = assert!(size_of::<Request>() == 28);

/// An extended request.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExtendedRequest {
    /// [`EXTENDED_REQUEST_MAGIC`].
    pub magic: U32,
    /// [`command_flag`].
    pub flags: U16,
    /// [`command`].
    pub command: U16,
    /// Chosen by the client, repeated in the reply.
    pub cookie: U64,
    /// First byte.
    pub offset: U64,
    /// Bytes.
    pub length: U64,
}
const _: () = assert!(size_of::<ExtendedRequest>() == 32);

/// A simple reply; data of a read follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SimpleReply {
    /// [`SIMPLE_REPLY_MAGIC`].
    pub magic: U32,
    /// Zero or [`errno`].
    pub error: U32,
    /// Whose reply this is.
    pub cookie: U64,
}
const _: () = assert!(size_of::<SimpleReply>() == 16);

/// Header of a structured reply chunk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StructuredReply {
    /// [`STRUCTURED_REPLY_MAGIC`].
    pub magic: U32,
    /// [`chunk::FLAG_DONE`].
    pub flags: U16,
    /// [`chunk`].
    pub kind: U16,
    /// Whose reply this is.
    pub cookie: U64,
    /// Bytes that follow.
    pub length: U32,
}
const _: () = assert!(size_of::<StructuredReply>() == 20);

/// Header of an extended reply chunk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExtendedReply {
    /// [`EXTENDED_REPLY_MAGIC`].
    pub magic: U32,
    /// [`chunk::FLAG_DONE`].
    pub flags: U16,
    /// [`chunk`].
    pub kind: U16,
    /// Whose reply this is.
    pub cookie: U64,
    /// Offset of the request.
    pub offset: U64,
    /// Bytes that follow.
    pub length: U64,
}
const _: () = assert!(size_of::<ExtendedReply>() == 32);

/// One extent of `BLOCK_STATUS`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockDescriptor {
    /// Bytes.
    pub length: U32,
    /// Flags of the context.
    pub flags: U32,
}
const _: () = assert!(size_of::<BlockDescriptor>() == 8);

/// One extent of `BLOCK_STATUS_EXT`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockDescriptorExt {
    /// Bytes.
    pub length: U64,
    /// Flags of the context.
    pub flags: U64,
}
const _: () = assert!(size_of::<BlockDescriptorExt>() == 16);
