//! One nbdkit, from its start to its end.

use super::address::VddkAddress;
use super::budget::Host;
use super::command;
use super::words::Heard;
use crate::buffer::Buffer;
use crate::endpoint::ServedBy;
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent};
use crate::nbd::child::{Child, Gifts};
use crate::nbd::client::{Client, Endpoint, Options, Retry, Timeouts};
use crate::nbd::uri::Uri;
use crate::secret::Secret;
use crate::source::Source;
use crate::source::nbd::NbdSource;
use std::env;
use std::ffi::OsString;
use std::io::{self, PipeWriter, Write, pipe};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

/// VDDK logs in, finds the disk and opens it within a handshake.
const OPENING: Duration = Duration::from_secs(120);

/// Time for a plugin to tell what it is.
const ASKING: Duration = Duration::from_secs(60);

/// How long the cause of a failure is waited for: it takes another way than the failure.
const HEARING: Duration = Duration::from_millis(400);

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The host has no memory for a request of so many bytes.
    TooLong(usize),
    /// Anything else.
    Failed(Error),
}

/// An nbdkit that serves one disk over several connections.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    source: NbdSource,
    heard: Arc<Mutex<Heard>>,
    /// The sessions that the host gave; none once it is dead.
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Server {
    /// Starts it and opens the disk, with as many of the wanted sessions as the host can spare.
    pub(super) async fn start(
        address: &VddkAddress,
        password: &Secret,
        host: &Host,
        sessions: usize,
    ) -> Result<Self> {
        let held = host.sessions(sessions).await?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let child = spawn(address, password, heard.clone())?;
        let options = Options {
            connections: held.num_permits(),
            // A snapshot never changes, so all sessions see the same.
            force_multi_conn: true,
            read_only: true,
            // Each request is one to the host, which likes them long, however near nbdkit is.
            cut_reads: false,
            timeouts: Timeouts {
                connect: OPENING,
                ..Timeouts::default()
            },
            // Tried again by the one who can shorten a request and start a server.
            retry: Retry::never(),
            ..Options::default()
        };
        let endpoint = Endpoint::Uri(Uri::unix(child.socket(), ""));
        let client = match Client::connect(endpoint, options).await {
            Ok(client) => client,
            Err(error) => {
                let error = explained(&child, &heard, error).await;
                return Err(error.context(format!("open {address}")));
            }
        };
        // One session that could not be had is a failure of the past.
        lock(&heard).forget();
        Ok(Self {
            child,
            source: NbdSource::new(client),
            heard,
            held: Mutex::new(Some(held)),
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.source.size()
    }

    pub(super) fn sessions(&self) -> usize {
        self.source.client().connections()
    }

    pub(super) fn served_by(&self) -> ServedBy {
        let heard = lock(&self.heard);
        ServedBy {
            version: heard.version.clone().unwrap_or_default(),
            host: heard.host.clone().unwrap_or_default(),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.child.ended().is_none()
    }

    /// Gives its sessions back to the host.
    pub(super) fn release(&self) {
        lock(&self.held).take();
    }

    /// How it ended, for people.
    pub(super) fn obituary(&self) -> String {
        match self.child.ended() {
            Some(status) => format!("nbdkit has ended ({status})"),
            None => "nbdkit runs".to_owned(),
        }
    }

    pub(super) async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer, Trouble> {
        let length = buffer.len();
        let before = lock(&self.heard).too_long;
        match self.source.read(offset, buffer).await {
            Ok(buffer) => Ok(buffer),
            Err(error) => {
                let too_long = || lock(&self.heard).too_long > before;
                match in_time(too_long).await {
                    true => Err(Trouble::TooLong(length)),
                    false => Err(Trouble::Failed(error)),
                }
            }
        }
    }

    pub(super) async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        self.source.extents(range).await
    }

    /// What failed, with VDDK's own reason.
    pub(super) async fn explain(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::TooLong(length) => {
                let what = format!("the host has no memory even for {length} bytes");
                Error::new(Kind::Transient, what)
            }
            Trouble::Failed(error) => explained(&self.child, &self.heard, error).await,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits a little for something to become true.
async fn in_time(what: impl Fn() -> bool) -> bool {
    let step = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    while waited < HEARING {
        if what() {
            return true;
        }
        sleep(step).await;
        waited = waited.saturating_add(step);
    }
    what()
}

/// A failure of NBD, told by what nbdkit and VDDK had to say of it.
async fn explained(child: &Child, heard: &Arc<Mutex<Heard>>, error: Error) -> Error {
    in_time(|| lock(heard).cause().is_some()).await;
    let cause = lock(heard).cause();
    let ended = child.ended();
    let Some(cause) = cause else {
        return match ended {
            Some(status) => Error::new(Kind::Transient, format!("nbdkit has ended ({status})")),
            None => error.with_kind(Kind::Transient),
        };
    };
    let kind = if cause.may_pass || ended.is_some() && cause.hint.is_empty() {
        Kind::Transient
    } else {
        Kind::Io
    };
    let error = Error::new(kind, cause.line);
    match cause.hint {
        "" => error,
        hint => error.hint(hint),
    }
}

fn spawn(address: &VddkAddress, password: &Secret, heard: Arc<Mutex<Heard>>) -> Result<Child> {
    let pipe =
        password_pipe(password).map_err(|error| Error::io("hand the password to nbdkit", error))?;
    let gifts = Gifts {
        pipe: Some(pipe),
        environment: Some(environment(address)),
        ear: Some(Arc::new(move |line: &str| lock(&heard).hear(line))),
    };
    Child::start_with(&command::words(address), gifts)
}

fn environment(address: &VddkAddress) -> Vec<(OsString, OsString)> {
    let real = |libdir: &PathBuf| libdir.canonicalize().unwrap_or_else(|_| libdir.clone());
    let libdir = address.libdir.as_ref().map(real);
    command::environment(libdir.as_deref(), env::vars_os(), Path::exists)
}

/// A pipe with the password in it, which fits: it is at most 4 KiB.
fn password_pipe(password: &Secret) -> io::Result<OwnedFd> {
    let (reader, mut writer): (_, PipeWriter) = pipe()?;
    writer.write_all(password.reveal().as_bytes())?;
    Ok(reader.into())
}

/// Asks the plugin what it is, before anything else: its refusals are the clearest.
///
/// # Errors
/// There is no nbdkit, no vddk plugin, no VDDK, or the plugin is too old.
pub(super) async fn check_plugin(address: &VddkAddress) -> Result<()> {
    let nbdkit = address.nbdkit.display();
    let asked = Command::new(&address.nbdkit)
        .args(command::question(address))
        .env_clear()
        .envs(environment(address))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let answer = timeout(ASKING, asked)
        .await
        .map_err(|_| Error::new(Kind::Transient, format!("{nbdkit} --dump-plugin hangs")))?
        .map_err(|error| {
            Error::io(format!("start {nbdkit}"), error).hint("install nbdkit with its vddk plugin")
        })?;
    let mut heard = Heard::default();
    String::from_utf8_lossy(&answer.stderr)
        .lines()
        .for_each(|line| heard.hear(line));
    if !answer.status.success() {
        let plugin = address.plugin.display();
        let error = Error::new(Kind::Io, format!("load nbdkit's plugin {plugin}"));
        return Err(match heard.cause() {
            Some(cause) if cause.hint.is_empty() => error.because(cause.line),
            Some(cause) => error.because(cause.line).hint(cause.hint),
            None => error,
        });
    }
    command::new_enough(&String::from_utf8_lossy(&answer.stdout)).map_err(|version| {
        let version = version.unwrap_or("unknown");
        let what = format!("nbdkit's vddk plugin is of version {version}, and 1.42 is needed");
        Error::new(Kind::Unsupported, what).hint("install a newer nbdkit-plugin-vddk")
    })
}
