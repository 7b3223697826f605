//! The handshake of a server: bytes in, bytes out, and what comes next. No I/O, no clock.
//!
//! Fixed newstyle only. Follows the section "Fixed newstyle negotiation" of the [specification];
//! each option is answered by one method. Whoever drives this bounds its time; its memory is
//! bounded here: an option longer than [`MAX_OPTION`] is skipped, not kept.
//!
//! [specification]: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md

use super::menu::{Menu, Offer, Tls};
use super::option::{InfoQuery, MetaQuery, export_name};
use crate::nbd::wire::{
    Greeting, INIT_PASSWD, InfoBlockSize, InfoExport, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    OptionHeader, OptionReply, export_flag, handshake_flag, info, option, reply,
};
use zerocopy::{FromBytes, IntoBytes};

/// The longest data of an option that is looked at, in bytes.
pub const MAX_OPTION: usize = 64 << 10;

/// The shape of replies, and of requests for the last one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, PartialOrd, Ord)]
pub enum Mode {
    /// Simple replies.
    #[default]
    Simple,
    /// Structured replies.
    Structured,
    /// Extended headers both ways; replies are structured.
    Extended,
}

/// What was agreed on when transmission starts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Terms {
    /// Place of the chosen export in the menu.
    pub offer: usize,
    /// Shape of requests and replies.
    pub mode: Mode,
    /// Ids of the chosen contexts: places in [`Offer::contexts`].
    pub contexts: Vec<usize>,
}

/// What comes after a step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Next {
    /// Another step.
    Continue,
    /// The TLS handshake, then another step. No greeting again.
    StartTls,
    /// Requests.
    Transmit(Terms),
    /// The end of the connection. With what the client did wrong, if it did.
    Close(Option<&'static str>),
}

/// What a step gives: bytes for the client, and what comes after they were sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// To be sent, in this order, before anything else happens.
    pub output: Vec<u8>,
    /// What comes then.
    pub next: Next,
}

/// What the next bytes of the client are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Expect {
    Flags,
    Header,
    Data { option: u32, length: usize },
    Skip { option: u32, left: usize },
    Nothing,
}

/// A handshake under way.
///
/// Send [`greeting`](Self::greeting), then again and again give [`step`](Self::step) exactly
/// [`wants`](Self::wants) bytes of the client. Whatever these bytes are, it neither panics nor
/// keeps more than [`MAX_OPTION`] of them; made for fuzzing as much as for use.
#[derive(Clone, Debug)]
pub struct Negotiation {
    menu: Menu,
    expect: Expect,
    no_zeroes: bool,
    secure: bool,
    mode: Mode,
    /// Export and contexts of the last `SET_META_CONTEXT` that went well.
    chosen: Option<(usize, Vec<usize>)>,
}

impl Negotiation {
    /// A handshake in which the client chooses from `menu`.
    #[must_use]
    pub fn new(menu: Menu) -> Self {
        Self {
            menu,
            expect: Expect::Flags,
            no_zeroes: false,
            secure: false,
            mode: Mode::Simple,
            chosen: None,
        }
    }

    /// The first bytes of the server.
    #[must_use]
    pub fn greeting() -> Vec<u8> {
        let greeting = Greeting {
            passwd: INIT_PASSWD.into(),
            magic: OPTION_MAGIC.into(),
            flags: (handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES).into(),
        };
        greeting.as_bytes().to_vec()
    }

    /// How many bytes the next step takes: at most [`MAX_OPTION`], zero only after the end.
    #[must_use]
    pub fn wants(&self) -> usize {
        match self.expect {
            Expect::Flags => size_of::<u32>(),
            Expect::Header => size_of::<OptionHeader>(),
            Expect::Data { length, .. } => length,
            Expect::Skip { left, .. } => left.min(MAX_OPTION),
            Expect::Nothing => 0,
        }
    }

    /// Takes exactly [`wants`](Self::wants) bytes of the client.
    pub fn step(&mut self, input: &[u8]) -> Step {
        if input.len() != self.wants() {
            return self.close("it stopped in the middle of the handshake");
        }
        match self.expect {
            Expect::Flags => self.client_flags(input),
            Expect::Header => self.header(input),
            Expect::Data { option, .. } => {
                self.expect = Expect::Header;
                self.answer(option, input)
            }
            Expect::Skip { option, left } => {
                let left = left.saturating_sub(input.len());
                if left > 0 {
                    self.expect = Expect::Skip { option, left };
                    return proceed(Vec::new());
                }
                self.expect = Expect::Header;
                refuse(option, reply::ERR_TOO_BIG, "the option is too long")
            }
            Expect::Nothing => self.close("the handshake is over"),
        }
    }

    fn client_flags(&mut self, input: &[u8]) -> Step {
        const FIXED: u32 = handshake_flag::FIXED_NEWSTYLE as u32;
        const NO_ZEROES: u32 = handshake_flag::NO_ZEROES as u32;
        let flags = input.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
        if flags & !(FIXED | NO_ZEROES) != 0 {
            return self.close("it sets handshake flags that were not offered");
        }
        if flags & FIXED == 0 {
            return self.close("it does not speak fixed newstyle");
        }
        self.no_zeroes = flags & NO_ZEROES != 0;
        self.expect = Expect::Header;
        proceed(Vec::new())
    }

    fn header(&mut self, input: &[u8]) -> Step {
        let header = match OptionHeader::read_from_bytes(input) {
            Ok(header) if header.magic.get() == OPTION_MAGIC => header,
            _ => return self.close("an option does not start with IHAVEOPT"),
        };
        let option = header.option.get();
        let length = usize::try_from(header.length.get()).unwrap_or(usize::MAX);
        match length {
            0 => return self.answer(option, &[]),
            1..=MAX_OPTION => self.expect = Expect::Data { option, length },
            left => self.expect = Expect::Skip { option, left },
        }
        proceed(Vec::new())
    }

    fn answer(&mut self, option: u32, data: &[u8]) -> Step {
        let empty = data.is_empty();
        let locked = self.menu.tls == Tls::Required && !self.secure;
        match option {
            option::ABORT => self.end(acknowledge(option), Next::Close(None)),
            option::STARTTLS if empty => self.start_tls(),
            option::EXPORT_NAME if locked => self.close("it asks for an export before TLS"),
            _ if locked => refuse(option, reply::ERR_TLS_REQD, "TLS comes first"),
            option::EXPORT_NAME => self.export_name(data),
            option::LIST if empty => proceed(self.list()),
            option::STRUCTURED_REPLY if empty => self.structured_reply(),
            option::EXTENDED_HEADERS if empty => self.extended_headers(),
            option::INFO | option::GO => self.info_or_go(option, data),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta(option, data),
            option::STARTTLS
            | option::LIST
            | option::STRUCTURED_REPLY
            | option::EXTENDED_HEADERS => {
                refuse(option, reply::ERR_INVALID, "the option takes no data")
            }
            _ => refuse(option, reply::ERR_UNSUP, "the option is not known"),
        }
    }

    fn start_tls(&mut self) -> Step {
        let option = option::STARTTLS;
        if self.secure {
            return refuse(option, reply::ERR_INVALID, "TLS is on already");
        }
        if self.menu.tls == Tls::Unavailable {
            return refuse(option, reply::ERR_POLICY, "there is no TLS here");
        }
        // What was agreed on in the clear could have been said by anyone.
        self.secure = true;
        self.mode = Mode::Simple;
        self.chosen = None;
        Step {
            output: acknowledge(option),
            next: Next::StartTls,
        }
    }

    /// `EXPORT_NAME` knows no error reply: what cannot be granted ends the connection.
    fn export_name(&mut self, data: &[u8]) -> Step {
        if self.mode == Mode::Extended {
            return self.close("it uses EXPORT_NAME after EXTENDED_HEADERS");
        }
        let Some(place) = export_name(data).ok().and_then(|name| self.menu.find(name)) else {
            return self.close("it asks for an export that is not here");
        };
        let Some(offer) = self.menu.offers.get(place) else {
            return self.close("it asks for an export that is not here");
        };
        let mut output = offer.size.to_be_bytes().to_vec();
        output.extend(self.transmission_flags(offer).to_be_bytes());
        if !self.no_zeroes {
            output.resize(output.len().saturating_add(124), 0);
        }
        self.transmit(place, output)
    }

    fn list(&self) -> Vec<u8> {
        let mut output = Vec::new();
        for Offer {
            name, description, ..
        } in &self.menu.offers
        {
            let length = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
            let parts = [&length[..], name.as_bytes(), description.as_bytes()];
            push(&mut output, option::LIST, reply::SERVER, &parts);
        }
        push(&mut output, option::LIST, reply::ACK, &[]);
        output
    }

    fn structured_reply(&mut self) -> Step {
        let option = option::STRUCTURED_REPLY;
        match self.mode {
            Mode::Simple => {
                self.mode = Mode::Structured;
                proceed(acknowledge(option))
            }
            Mode::Structured => refuse(option, reply::ERR_INVALID, "agreed on already"),
            Mode::Extended => refuse(
                option,
                reply::ERR_EXT_HEADER_REQD,
                "extended headers were agreed on",
            ),
        }
    }

    fn extended_headers(&mut self) -> Step {
        let option = option::EXTENDED_HEADERS;
        if self.mode == Mode::Extended {
            return refuse(option, reply::ERR_INVALID, "agreed on already");
        }
        self.mode = Mode::Extended;
        proceed(acknowledge(option))
    }

    fn info_or_go(&mut self, option: u32, data: &[u8]) -> Step {
        let query = match InfoQuery::parse(data) {
            Ok(query) => query,
            Err(error) => return refuse(option, reply::ERR_INVALID, error.0),
        };
        let Some(place) = self.menu.find(query.name) else {
            return refuse(option, reply::ERR_UNKNOWN, "there is no such export");
        };
        let Some(offer) = self.menu.offers.get(place) else {
            return refuse(option, reply::ERR_UNKNOWN, "there is no such export");
        };
        let output = self.describe(option, offer, &query.wanted);
        match option {
            option::GO => self.transmit(place, output),
            _ => proceed(output),
        }
    }

    /// The `INFO` replies on `offer`, and the acknowledgement.
    fn describe(&self, option: u32, offer: &Offer, wanted: &[u16]) -> Vec<u8> {
        let mut output = Vec::new();
        let export = InfoExport {
            kind: info::EXPORT.into(),
            size: offer.size.into(),
            flags: self.transmission_flags(offer).into(),
        };
        push(&mut output, option, reply::INFO, &[export.as_bytes()]);
        let mut tell = |kind: u16, text: &str| {
            let parts = [&kind.to_be_bytes()[..], text.as_bytes()];
            push(&mut output, option, reply::INFO, &parts);
        };
        if wanted.contains(&info::NAME) {
            tell(info::NAME, &offer.name);
        }
        if wanted.contains(&info::DESCRIPTION) && !offer.description.is_empty() {
            tell(info::DESCRIPTION, &offer.description);
        }
        // Told unasked where it matters: a client that does not look gets EINVAL later.
        if wanted.contains(&info::BLOCK_SIZE) || offer.blocks.minimum > 1 {
            let sizes = InfoBlockSize {
                kind: info::BLOCK_SIZE.into(),
                minimum: offer.blocks.minimum.into(),
                preferred: offer.blocks.preferred.into(),
                maximum: offer.blocks.maximum.into(),
            };
            push(&mut output, option, reply::INFO, &[sizes.as_bytes()]);
        }
        push(&mut output, option, reply::ACK, &[]);
        output
    }

    fn meta(&mut self, option: u32, data: &[u8]) -> Step {
        let set = option == option::SET_META_CONTEXT;
        if set {
            // Whatever becomes of this request, the one before it does not count any more.
            self.chosen = None;
        }
        if self.mode == Mode::Simple {
            return refuse(option, reply::ERR_INVALID, "structured replies come first");
        }
        let query = match MetaQuery::parse(data) {
            Ok(query) => query,
            Err(error) => return refuse(option, reply::ERR_INVALID, error.0),
        };
        let Some(place) = self.menu.find(query.name) else {
            return refuse(option, reply::ERR_UNKNOWN, "there is no such export");
        };
        let contexts = self.menu.offers.get(place).map_or(&[][..], |o| &o.contexts);
        let (mut ids, mut output) = (Vec::new(), Vec::new());
        for (id, context) in contexts.iter().enumerate() {
            if matches(context, &query.queries, set) {
                let number = u32::try_from(id).unwrap_or(u32::MAX).to_be_bytes();
                let parts = [&number[..], context.as_bytes()];
                push(&mut output, option, reply::META_CONTEXT, &parts);
                ids.push(id);
            }
        }
        push(&mut output, option, reply::ACK, &[]);
        if set {
            self.chosen = Some((place, ids));
        }
        proceed(output)
    }

    fn transmission_flags(&self, offer: &Offer) -> u16 {
        match self.mode {
            Mode::Simple => offer.flags,
            Mode::Structured | Mode::Extended => offer.flags | export_flag::SEND_DF,
        }
    }

    fn transmit(&mut self, offer: usize, output: Vec<u8>) -> Step {
        // Contexts that were chosen for another export are void.
        let contexts = match self.chosen.take() {
            Some((place, contexts)) if place == offer => contexts,
            _ => Vec::new(),
        };
        let mode = self.mode;
        self.end(
            output,
            Next::Transmit(Terms {
                offer,
                mode,
                contexts,
            }),
        )
    }

    fn close(&mut self, why: &'static str) -> Step {
        self.end(Vec::new(), Next::Close(Some(why)))
    }

    fn end(&mut self, output: Vec<u8>, next: Next) -> Step {
        self.expect = Expect::Nothing;
        Step { output, next }
    }
}

/// Whether one of the `queries` means `context`. A client may ask for what starts with `base:` or
/// `qemu:dirty-bitmap:` when it asks for a list; to list without any query means all.
fn matches(context: &str, queries: &[&str], set: bool) -> bool {
    let all = !set && queries.is_empty();
    let hit = |query: &&str| {
        *query == context || (!set && query.ends_with(':') && context.starts_with(*query))
    };
    all || queries.iter().any(hit)
}

fn proceed(output: Vec<u8>) -> Step {
    let next = Next::Continue;
    Step { output, next }
}

fn acknowledge(option: u32) -> Vec<u8> {
    let mut output = Vec::new();
    push(&mut output, option, reply::ACK, &[]);
    output
}

fn refuse(option: u32, error: u32, why: &str) -> Step {
    let mut output = Vec::new();
    push(&mut output, option, error, &[why.as_bytes()]);
    proceed(output)
}

/// Appends one option reply whose data are `parts`.
fn push(output: &mut Vec<u8>, option: u32, kind: u32, parts: &[&[u8]]) {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let header = OptionReply {
        magic: OPTION_REPLY_MAGIC.into(),
        option: option.into(),
        reply: kind.into(),
        length: u32::try_from(length).unwrap_or(u32::MAX).into(),
    };
    output.extend_from_slice(header.as_bytes());
    parts.iter().for_each(|part| output.extend_from_slice(part));
}

#[cfg(test)]
#[path = "negotiate_tests.rs"]
mod tests;
