//! The client's half of the handshake, as a pure state machine. No I/O, no clock.
//!
//! Fixed newstyle only. The caller moves bytes: it reads as many as [`Handshake::need`] says,
//! hands them to [`Handshake::step`], and does what the returned [`Action`] says.
//!
//! ```text
//! greeting ─▶ STARTTLS ─▶ EXTENDED_HEADERS ─▶ STRUCTURED_REPLY ─▶ SET_META_CONTEXT ─▶ GO ─▶ ready
//!             if wanted                       if not extended      if structured      │
//!                  └─▶ LIST ─▶ INFO … ─▶ listed                      EXPORT_NAME ◀────┘ if unknown
//! ```
//!
//! ```text
//!  mod.rs       the machine
//!  options.rs   options to bytes
//!  replies.rs   bytes of option replies to checked values
//! ```
//!
//! [`Handshake::step`] takes arbitrary bytes, never panics, and holds a bounded amount of them:
//! it is the entry point of the fuzz target for handshakes.

mod options;
mod replies;
#[cfg(test)]
mod tests;

pub use replies::{Listed, for_people};

use crate::error::{Error, Kind, Result};
use crate::nbd::export::{BlockSize, Export, Flags};
use crate::nbd::lie::Lie;
use crate::nbd::wire::{
    Greeting, INIT_PASSWD, OLDSTYLE_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionReply,
    handshake_flag, option, reply,
};
use replies::{Info, MAX_REPLY};
use std::collections::VecDeque;
use std::mem;
use zerocopy::FromBytes;

/// The most replies to one option that are believed; an export or a context is one reply.
const MAX_REPLIES: usize = 10_000;

/// What a client wants of a server.
#[derive(Clone, Debug, Default)]
pub struct Wants {
    /// Name of the export; empty is the default export.
    pub export: String,
    /// TLS before anything else.
    pub tls: bool,
    /// Meta contexts to ask for. Those that the server does not have are not an error here.
    pub contexts: Vec<String>,
    /// List the exports and describe each, rather than open one.
    pub list: bool,
}

/// How replies are framed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Style {
    /// Simple replies only.
    Simple,
    /// Structured replies.
    Structured,
    /// Extended headers, in both directions.
    Extended,
}

/// What a handshake agreed on.
#[derive(Clone, Debug)]
pub struct Agreed {
    /// The export.
    pub export: Export,
    /// How replies are framed.
    pub style: Style,
    /// The number and the name of each meta context.
    pub contexts: Vec<(u32, String)>,
}

/// One export of a server.
#[derive(Clone, Debug)]
pub struct Listing {
    /// What `LIST` says.
    pub listed: Listed,
    /// What `INFO` says; `None` if the server would not tell.
    pub export: Option<Export>,
}

/// What the caller must do next.
#[derive(Debug)]
pub enum Action {
    /// Read [`Handshake::need`] bytes and hand them over.
    Read,
    /// Write these bytes, then read as above.
    Write(Vec<u8>),
    /// Do the TLS handshake, then call [`Handshake::tls_started`].
    StartTls,
    /// Done: what follows is transmission.
    Ready(Box<Agreed>),
    /// Done: write these last bytes and hang up.
    Listed(Vec<Listing>, Vec<u8>),
}

/// What the machine waits for.
#[derive(Debug)]
enum Phase {
    Greeting,
    Header,
    Payload(OptionReply),
    /// The answer to `EXPORT_NAME`, which has no header.
    ExportName,
    Tls,
    Over,
}

/// What was learned of an export so far.
#[derive(Debug, Default)]
struct Learned {
    size: Option<(u64, Flags)>,
    name: Option<String>,
    description: Option<String>,
    block_size: Option<BlockSize>,
}

/// The state of one handshake.
#[derive(Debug)]
pub struct Handshake {
    wants: Wants,
    phase: Phase,
    /// The option that is waiting for its final reply.
    sent: u32,
    replies: usize,
    no_zeroes: bool,
    style: Style,
    learned: Learned,
    contexts: Vec<(u32, String)>,
    to_describe: VecDeque<Listed>,
    listings: Vec<Listing>,
}

impl Handshake {
    /// A handshake that is about to read the greeting.
    #[must_use]
    pub fn new(wants: Wants) -> Self {
        Self {
            wants,
            phase: Phase::Greeting,
            sent: 0,
            replies: 0,
            no_zeroes: false,
            style: Style::Simple,
            learned: Learned::default(),
            contexts: Vec::new(),
            to_describe: VecDeque::new(),
            listings: Vec::new(),
        }
    }

    /// How many bytes the next [`step`](Self::step) takes. At most 16 KiB.
    #[must_use]
    pub fn need(&self) -> usize {
        match &self.phase {
            Phase::Greeting => size_of::<Greeting>(),
            Phase::Header => size_of::<OptionReply>(),
            Phase::Payload(header) => usize::try_from(header.length.get()).unwrap_or(0),
            Phase::ExportName if self.no_zeroes => options::EXPORT_NAME_REPLY,
            Phase::ExportName => options::EXPORT_NAME_REPLY_PADDED,
            Phase::Tls | Phase::Over => 0,
        }
    }

    /// What was said last, for the log.
    #[must_use]
    pub fn doing(&self) -> &'static str {
        replies::name_of(self.sent)
    }

    /// Takes the bytes that were [needed](Self::need).
    ///
    /// # Errors
    /// The server refuses what is wanted, or breaks the protocol (`Corrupt`).
    pub fn step(&mut self, bytes: &[u8]) -> Result<Action> {
        match mem::replace(&mut self.phase, Phase::Over) {
            Phase::Greeting => self.greeting(bytes),
            Phase::Header => self.header(bytes),
            Phase::Payload(header) => self.payload(&header, bytes),
            Phase::ExportName => self.export_name(bytes),
            Phase::Tls | Phase::Over => Err(over()),
        }
    }

    /// Goes on after [`Action::StartTls`] was done.
    ///
    /// # Errors
    /// No TLS was asked for.
    pub fn tls_started(&mut self) -> Result<Action> {
        match mem::replace(&mut self.phase, Phase::Over) {
            Phase::Tls => Ok(self.after_tls()),
            _ => Err(over()),
        }
    }

    fn greeting(&mut self, bytes: &[u8]) -> Result<Action> {
        let greeting = Greeting::read_from_bytes(bytes).map_err(|_| over())?;
        let (passwd, magic) = (greeting.passwd.get(), greeting.magic.get());
        let flags = greeting.flags.get();
        if passwd != INIT_PASSWD || (magic != OPTION_MAGIC && magic != OLDSTYLE_MAGIC) {
            return Err(Error::from(Lie::Greeting(passwd, magic)).hint("is it an NBD server?"));
        }
        if magic == OLDSTYLE_MAGIC || flags & handshake_flag::FIXED_NEWSTYLE == 0 {
            return Err(Error::new(
                Kind::Unsupported,
                "the server speaks an old NBD handshake, not fixed newstyle",
            ));
        }
        self.no_zeroes = flags & handshake_flag::NO_ZEROES != 0;
        let mut bytes = options::client_flags(self.no_zeroes);
        let next = if self.wants.tls {
            self.send(option::STARTTLS, &[])
        } else {
            self.after_tls()
        };
        Ok(match next {
            Action::Write(option) => {
                bytes.extend_from_slice(&option);
                Action::Write(bytes)
            }
            other => other,
        })
    }

    fn after_tls(&mut self) -> Action {
        if self.wants.list {
            // Servers tell of contexts only to those who could use them.
            self.send(option::STRUCTURED_REPLY, &[])
        } else {
            self.send(option::EXTENDED_HEADERS, &[])
        }
    }

    fn send(&mut self, option: u32, data: &[u8]) -> Action {
        self.sent = option;
        self.replies = 0;
        self.phase = Phase::Header;
        Action::Write(options::encode(option, data))
    }

    fn header(&mut self, bytes: &[u8]) -> Result<Action> {
        let header = OptionReply::read_from_bytes(bytes).map_err(|_| over())?;
        if header.magic.get() != OPTION_REPLY_MAGIC {
            return Err(Lie::OptionMagic(header.magic.get()).into());
        }
        let (got, length) = (header.option.get(), header.length.get());
        if got != self.sent {
            let sent = self.sent;
            return Err(Lie::WrongOption { sent, got }.into());
        }
        if length > MAX_REPLY {
            return Err(Lie::HugeReply {
                option: got,
                length,
            }
            .into());
        }
        self.replies = self.replies.saturating_add(1);
        if self.replies > MAX_REPLIES {
            return Err(Lie::EndlessReplies(got).into());
        }
        if length == 0 {
            return self.payload(&header, &[]);
        }
        self.phase = Phase::Payload(header);
        Ok(Action::Read)
    }

    fn payload(&mut self, header: &OptionReply, bytes: &[u8]) -> Result<Action> {
        let kind = header.reply.get();
        if kind & reply::ERROR_BIT != 0 {
            return self.refused(kind, bytes);
        }
        self.phase = Phase::Header;
        match (self.sent, kind) {
            (_, reply::ACK) => return self.acknowledged(),
            (option::GO | option::INFO, reply::INFO) => self.learn(bytes)?,
            (option::SET_META_CONTEXT | option::LIST_META_CONTEXT, reply::META_CONTEXT) => {
                self.contexts.push(replies::context(bytes, self.sent)?);
            }
            (option::LIST, reply::SERVER) => self.to_describe.push_back(replies::listed(bytes)?),
            (option, reply) => return Err(Lie::WrongReply { option, reply }.into()),
        }
        Ok(Action::Read)
    }

    fn learn(&mut self, bytes: &[u8]) -> Result<()> {
        match replies::info(bytes, self.sent)? {
            Info::Export { size, flags } => self.learned.size = Some((size, flags)),
            Info::Name(name) => self.learned.name = Some(name),
            Info::Description(text) => {
                self.learned.description = Some(for_people(text.as_bytes()));
            }
            Info::BlockSize(sizes) => self.learned.block_size = Some(sizes),
            Info::Other => {}
        }
        Ok(())
    }

    /// The option that was sent is done.
    fn acknowledged(&mut self) -> Result<Action> {
        match self.sent {
            option::STARTTLS => {
                self.phase = Phase::Tls;
                Ok(Action::StartTls)
            }
            option::EXTENDED_HEADERS => {
                self.style = Style::Extended;
                Ok(self.ask_contexts())
            }
            option::STRUCTURED_REPLY if self.wants.list => Ok(self.send(option::LIST, &[])),
            option::STRUCTURED_REPLY => {
                self.style = Style::Structured;
                Ok(self.ask_contexts())
            }
            option::LIST_META_CONTEXT => Ok(self.listed_contexts()),
            option::SET_META_CONTEXT => Ok(self.go()),
            option::GO => self.ready(),
            option::INFO => self.described(true),
            option::LIST => Ok(self.describe_next()),
            option => Err(Lie::WrongReply {
                option,
                reply: reply::ACK,
            }
            .into()),
        }
    }

    /// The option that was sent is refused: go on without, or give up.
    fn refused(&mut self, code: u32, text: &[u8]) -> Result<Action> {
        let fatal = matches!(code, reply::ERR_TLS_REQD | reply::ERR_SHUTDOWN);
        match self.sent {
            option::EXTENDED_HEADERS if !fatal => Ok(self.send(option::STRUCTURED_REPLY, &[])),
            option::STRUCTURED_REPLY if !fatal && self.wants.list => {
                Ok(self.send(option::LIST, &[]))
            }
            option::STRUCTURED_REPLY if !fatal => Ok(self.go()),
            option::LIST_META_CONTEXT if !fatal => {
                self.contexts.clear();
                Ok(self.listed_contexts())
            }
            option::SET_META_CONTEXT if !fatal => {
                self.contexts.clear();
                Ok(self.go())
            }
            option::GO if code == reply::ERR_UNSUP => Ok(self.choose_by_name()),
            option::INFO if !fatal => self.described(false),
            sent => Err(replies::refusal(sent, code, text, &self.wants.export)),
        }
    }

    fn ask_contexts(&mut self) -> Action {
        if self.wants.contexts.is_empty() {
            return self.go();
        }
        let data = options::meta_contexts(&self.wants.export, &self.wants.contexts);
        self.send(option::SET_META_CONTEXT, &data)
    }

    fn go(&mut self) -> Action {
        let data = options::info_request(&self.wants.export);
        self.send(option::GO, &data)
    }

    /// For servers that are older than `GO`.
    fn choose_by_name(&mut self) -> Action {
        self.sent = option::EXPORT_NAME;
        self.phase = Phase::ExportName;
        Action::Write(options::encode(
            option::EXPORT_NAME,
            self.wants.export.as_bytes(),
        ))
    }

    fn export_name(&mut self, bytes: &[u8]) -> Result<Action> {
        let (size, rest) = bytes.split_first_chunk::<8>().ok_or_else(over)?;
        let flags = rest.first_chunk::<2>().ok_or_else(over)?;
        let size = Export::check_size(u64::from_be_bytes(*size))?;
        let flags = Flags::check(u16::from_be_bytes(*flags))?;
        self.learned.size = Some((size, flags));
        self.ready()
    }

    fn ready(&mut self) -> Result<Action> {
        self.phase = Phase::Over;
        let contexts = mem::take(&mut self.contexts);
        let names = contexts.iter().map(|(_, name)| name.clone()).collect();
        let export = self
            .learned_export(self.wants.export.clone(), names)
            .ok_or(Lie::NoSize)?;
        Ok(Action::Ready(Box::new(Agreed {
            export,
            style: self.style,
            contexts,
        })))
    }

    fn learned_export(&mut self, name: String, contexts: Vec<String>) -> Option<Export> {
        let learned = mem::take(&mut self.learned);
        let (size, flags) = learned.size?;
        Some(Export {
            name: learned.name.unwrap_or(name),
            description: learned.description.filter(|text| !text.is_empty()),
            size,
            flags,
            block_size: learned.block_size.unwrap_or(BlockSize::DEFAULT),
            contexts,
        })
    }

    fn describe_next(&mut self) -> Action {
        match self.to_describe.front() {
            Some(next) => {
                let data = options::info_request(&next.name);
                self.send(option::INFO, &data)
            }
            None => {
                self.phase = Phase::Over;
                let goodbye = options::encode(option::ABORT, &[]);
                Action::Listed(mem::take(&mut self.listings), goodbye)
            }
        }
    }

    fn described(&mut self, told: bool) -> Result<Action> {
        if let Some(listed) = self.to_describe.pop_front() {
            let export = self.learned_export(listed.name.clone(), Vec::new());
            if told && export.is_none() {
                return Err(Lie::NoSize.into());
            }
            // No query asks for all contexts, bitmaps included.
            let data = options::meta_contexts(&listed.name, &[]);
            let export = export.filter(|_| told);
            self.listings.push(Listing { listed, export });
            if told {
                return Ok(self.send(option::LIST_META_CONTEXT, &data));
            }
        }
        Ok(self.describe_next())
    }

    /// The contexts of the export that was described last are known. Of all exports together no
    /// more are kept than one may have: what a server says costs bounded memory.
    fn listed_contexts(&mut self) -> Action {
        let kept: usize = self
            .listings
            .iter()
            .filter_map(|listing| listing.export.as_ref())
            .map(|export| export.contexts.len())
            .sum();
        let contexts = mem::take(&mut self.contexts).into_iter();
        let names = contexts.map(|(_, name)| name);
        if let Some(export) = self
            .listings
            .last_mut()
            .and_then(|last| last.export.as_mut())
        {
            export.contexts = names.take(MAX_REPLIES.saturating_sub(kept)).collect();
        }
        self.describe_next()
    }
}

/// The caller handed over something else than was needed.
fn over() -> Error {
    Error::new(Kind::Corrupt, "the NBD handshake ended early")
}
