//! The connection to a QMP socket: commands, their answers by id, and events as a nudge to look.
//!
//! What an event says is never relied on: it may have been sent while nobody was connected. It only
//! wakes whoever waits, and what is so is then asked.
//!
//! A connection that was lost is made anew by the next command. A command whose answer was lost is
//! not repeated here: it may have been carried out. Whoever sent it looks first.

use super::wire::{Framer, Message, Refusal, Version, Wrong, parse};
use crate::error::{Error, Kind, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Bytes taken from the socket at a time.
const CHUNK: usize = 64 << 10;

/// Commands that wait to be written.
const QUEUE: usize = 16;

/// An answer: what the command returned, or why QEMU would not.
pub type Answer = Result<Value, Refusal>;

/// A QMP server. Connects when it is first asked something.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    /// How long an answer may take.
    patience: Duration,
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
    stirred: Arc<Notify>,
}

impl Client {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(socket: PathBuf, patience: Duration) -> Self {
        Self {
            socket,
            patience,
            link: tokio::sync::Mutex::default(),
            stirred: Arc::default(),
        }
    }

    /// Where the server listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whose server it is.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn version(&self) -> Result<Version> {
        Ok(self.link().await?.version)
    }

    /// User and group of the process that listens, if the kernel tells.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn owner(&self) -> Result<Option<(u32, u32)>> {
        Ok(self.link().await?.owner)
    }

    /// Has a command carried out and gives what it returns.
    ///
    /// # Errors
    /// QEMU refuses, or as for [`call`](Self::call).
    pub async fn ask(&self, command: &'static str, arguments: Value) -> Result<Value> {
        let answer = self.call(command, arguments).await?;
        answer.map_err(|refusal| refused(command, refusal))
    }

    /// Has a command carried out and gives what it returns, or why QEMU refuses.
    ///
    /// # Errors
    /// [`Kind::Transient`] if the server was lost or did not answer in time: whether the command
    /// was carried out is then unknown.
    pub async fn call(&self, command: &'static str, arguments: Value) -> Result<Answer> {
        let link = self.link().await?;
        let id = link.next_id.fetch_add(1, Ordering::Relaxed);
        let answer = link.waiting.expect(id);
        let mut line = json!({"execute": command, "arguments": arguments, "id": id}).to_string();
        line.push('\n');
        tracing::debug!(target: "diskferry::qmp", "{}", line.trim_end());
        let lost = || self.lost(command, link.waiting.why());
        let outcome = timeout(self.patience, async {
            link.commands
                .send(line.into_bytes())
                .await
                .map_err(|_| lost())?;
            answer.await.map_err(|_| lost())
        });
        match outcome.await {
            Ok(answer) => answer,
            Err(_) => {
                // What it still has to say must not be taken for another answer.
                *self.link.lock().await = None;
                let seconds = self.patience.as_secs();
                Err(self.lost(command, format!("no answer within {seconds} s")))
            }
        }
    }

    /// Waits until something happens at the server, but not longer than `at_most`.
    pub async fn stirred(&self, at_most: Duration) {
        let _ = timeout(at_most, self.stirred.notified()).await;
    }

    async fn link(&self) -> Result<Arc<Link>> {
        let mut link = self.link.lock().await;
        match &*link {
            Some(link) if !link.waiting.is_over() => Ok(link.clone()),
            _ => {
                let fresh = Arc::new(self.connect().await?);
                *link = Some(fresh.clone());
                Ok(fresh)
            }
        }
    }

    async fn connect(&self) -> Result<Link> {
        let doing = format!("connect to the QMP socket {}", self.socket.display());
        let connected = UnixStream::connect(&self.socket).await;
        let stream = connected.map_err(|error| {
            Error::io(doing.clone(), error).hint("is the VM running, and is that its socket?")
        })?;
        match timeout(self.patience, Link::open(stream, self.stirred.clone())).await {
            Ok(opened) => opened.map_err(|error| error.context(doing)),
            Err(_) => Err(Error::new(Kind::Transient, doing)
                .because("no greeting")
                .hint("QEMU talks to one client at a time on a socket: is another one connected?")),
        }
    }

    fn lost(&self, command: &str, why: String) -> Error {
        let doing = format!("QMP {command} at {}", self.socket.display());
        Error::new(Kind::Transient, doing).because(why)
    }
}

/// A refusal as an error.
pub(super) fn refused(command: &str, refusal: Refusal) -> Error {
    let doing = format!("QMP {command}");
    if refusal.is_unknown_command() {
        return Error::new(Kind::Unsupported, doing).because(refusal);
    }
    Error::new(Kind::Io, doing).because(refusal)
}

/// What the operating system said of a connection that could not be made.
pub(super) fn io_kind(error: &Error) -> Option<io::ErrorKind> {
    error.caused_by::<io::Error>().map(io::Error::kind)
}

/// One connection.
#[derive(Debug)]
struct Link {
    version: Version,
    owner: Option<(u32, u32)>,
    next_id: AtomicU64,
    commands: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Waiting>,
    tasks: [JoinHandle<()>; 2],
}

impl Link {
    async fn open(stream: UnixStream, stirred: Arc<Notify>) -> Result<Self> {
        let owner = stream.peer_cred().ok();
        let owner = owner.map(|owner| (owner.uid(), owner.gid()));
        let (read, mut write) = stream.into_split();
        let mut reader = Reader::new(read);
        let Message::Greeting(version) = reader.message().await? else {
            return Err(Error::new(
                Kind::Corrupt,
                "no greeting: is that a QMP socket?",
            ));
        };
        let hello = b"{\"execute\": \"qmp_capabilities\", \"id\": 0}\n";
        let written = write.write_all(hello).await;
        written.map_err(|error| Error::io("negotiate", error))?;
        loop {
            match reader.message().await? {
                Message::Done { id: 0, .. } => break,
                Message::Refused { refusal, .. } => {
                    return Err(refused("qmp_capabilities", refusal));
                }
                _ => {}
            }
        }
        let (commands, queue) = mpsc::channel(QUEUE);
        let waiting = Arc::new(Waiting::default());
        let tasks = [
            tokio::spawn(listen(reader, waiting.clone(), stirred)),
            tokio::spawn(speak(write, queue)),
        ];
        Ok(Self {
            version,
            owner,
            next_id: AtomicU64::new(1),
            commands,
            waiting,
            tasks,
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Hands each answer to whoever waits for it, until the connection ends.
async fn listen(mut reader: Reader, waiting: Arc<Waiting>, stirred: Arc<Notify>) {
    loop {
        match reader.message().await {
            Ok(Message::Done { id, value }) => waiting.answer(id, Ok(value)),
            Ok(Message::Refused {
                id: Some(id),
                refusal,
            }) => waiting.answer(id, Err(refusal)),
            Ok(Message::Event(name)) => {
                tracing::debug!(target: "diskferry::qmp", "event {name}");
                stirred.notify_one();
            }
            Ok(Message::Refused { id: None, refusal }) => {
                return waiting.end(format!("QEMU could not read a command: {refusal}"));
            }
            // Whoever connects while QEMU comes up may be greeted twice; then QEMU has forgotten all
            // that was agreed upon.
            Ok(Message::Greeting(_)) => {
                waiting.end("QEMU greeted again, and takes no more commands".to_owned());
                return stirred.notify_one();
            }
            Err(error) => {
                waiting.end(error.line());
                return stirred.notify_one();
            }
        }
    }
}

/// Writes commands whole: whoever sends one may be gone before it is written.
async fn speak(mut write: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(line) = queue.recv().await {
        if write.write_all(&line).await.is_err() {
            return; // The reader sees it end, too.
        }
    }
}

/// Messages off a socket.
struct Reader {
    read: OwnedReadHalf,
    framer: Framer,
    chunk: Vec<u8>,
}

impl Reader {
    fn new(read: OwnedReadHalf) -> Self {
        Self {
            read,
            framer: Framer::default(),
            chunk: vec![0; CHUNK],
        }
    }

    async fn message(&mut self) -> Result<Message> {
        let wrong = |wrong: Wrong| Error::new(Kind::Corrupt, "read from QMP").because(wrong);
        loop {
            if let Some(bytes) = self.framer.cut().map_err(wrong)? {
                return parse(&bytes).map_err(wrong);
            }
            let read = self.read.read(&mut self.chunk).await;
            let length = read.map_err(|error| Error::io("read from QMP", error))?;
            if length == 0 {
                return Err(Error::new(Kind::Transient, "QEMU closed the connection"));
            }
            self.framer
                .push(self.chunk.get(..length).unwrap_or_default());
        }
    }
}

/// Who waits for which answer.
#[derive(Debug, Default)]
struct Waiting(Mutex<Expected>);

#[derive(Debug, Default)]
struct Expected {
    answers: BTreeMap<u64, oneshot::Sender<Answer>>,
    /// Why no answer will come any more.
    over: Option<String>,
}

impl Waiting {
    fn expect(&self, id: u64) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        self.with(|expected| {
            // Else the sender is dropped, and the receiver knows.
            if expected.over.is_none() {
                expected.answers.insert(id, sender);
            }
        });
        receiver
    }

    fn answer(&self, id: u64, answer: Answer) {
        let sender = self.with(|expected| expected.answers.remove(&id));
        // Nobody waits for the answer of a command that took too long.
        let _ = sender.map(|sender| sender.send(answer));
    }

    fn end(&self, why: String) {
        self.with(|expected| {
            expected.over = Some(why);
            expected.answers.clear();
        });
    }

    fn is_over(&self) -> bool {
        self.with(|expected| expected.over.is_some())
    }

    fn why(&self) -> String {
        let why = self.with(|expected| expected.over.clone());
        why.unwrap_or_else(|| "the connection was lost".to_owned())
    }

    fn with<T>(&self, what: impl FnOnce(&mut Expected) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
