//! A server that is started for this job, by systemd socket activation.
//!
//! The child gets a listening Unix socket as descriptor 3, with `LISTEN_FDS=1` and `LISTEN_PID`
//! set to its own process id, as `sd_listen_fds(3)` wants. Only the child itself knows that id
//! before it runs, so a shell sets it and then becomes the server; the command's words are handed
//! to that shell as arguments and are never parsed by it.
//!
//! A child may also be given an environment of its own, and a pipe as descriptor 4, by which it learns
//! a secret that must be neither in its words nor in its environment.
//!
//! The socket lies in a directory of our own that goes when the [`Child`] goes. What the child
//! writes to its standard error is kept, the last lines of it, for the error message.

use crate::error::{Error, Kind, Result};
use crate::nbd::handshake::for_people;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{self, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

/// Becomes the server: descriptor 0, which is the socket, moves to 3.
const BECOME: &str = r#"export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&0 0</dev/null"#;

/// The same, and descriptor 1, which is the pipe, moves to 4.
const BECOME_WITH_PIPE: &str =
    r#"export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&0 4<&1 0</dev/null 1>/dev/null"#;

/// Lines of standard error that are kept.
const KEPT_LINES: usize = 10;

/// Bytes of one line that are kept.
const KEPT_BYTES: u64 = 500;

/// Time that a child gets to end by itself.
const GRACE: Duration = Duration::from_secs(30);

/// Tells the directories of one process apart.
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Hears each line of a child's standard error, as far as it was kept.
pub type Ear = Arc<dyn Fn(&str) + Send + Sync>;

/// What a child is given besides its words.
#[derive(Default)]
pub struct Gifts {
    /// The end of a pipe that becomes descriptor 4.
    pub pipe: Option<OwnedFd>,
    /// Its environment, if that is not ours.
    pub environment: Option<Vec<(OsString, OsString)>>,
    /// Who listens to it.
    pub ear: Option<Ear>,
}

/// A running server that ends with this value.
#[derive(Debug)]
pub struct Child {
    process: Mutex<tokio::process::Child>,
    name: String,
    directory: Directory,
    last_words: Arc<Mutex<VecDeque<String>>>,
}

impl Child {
    /// Starts `command`, which must know socket activation, as nbdkit and qemu-nbd do.
    ///
    /// # Errors
    /// `command` is empty, or no process can be started. That it is no server shows later.
    pub fn start(command: &[String]) -> Result<Self> {
        Self::start_with(command, Gifts::default())
    }

    /// Starts `command` with `gifts`.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn start_with(command: &[String], mut gifts: Gifts) -> Result<Self> {
        let name = command
            .first()
            .cloned()
            .ok_or_else(|| Error::new(Kind::Usage, "\"[ ]\" names no server to start"))?;
        let doing = || format!("start the server {name}");
        let directory = Directory::create().map_err(|error| Error::io(doing(), error))?;
        let listener =
            UnixListener::bind(directory.socket()).map_err(|error| Error::io(doing(), error))?;
        let mut process = shell(command, listener, &mut gifts)
            .spawn()
            .map_err(|error| Error::io(doing(), error))?;
        let last_words = Arc::new(Mutex::default());
        if let Some(stderr) = process.stderr.take() {
            tokio::spawn(listen(stderr, name.clone(), last_words.clone(), gifts.ear));
        }
        Ok(Self {
            process: Mutex::new(process),
            name,
            directory,
            last_words,
        })
    }

    /// Where the server listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.socket()
    }

    /// The command's first word.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds to a failed request what the child has to say, if it has ended.
    pub async fn explain(&self, error: Error) -> Error {
        // A dying child closes its socket before it can be waited for.
        for _ in 0..10 {
            if let Some(status) = self.ended() {
                // Its last words may still be in the pipe.
                sleep(Duration::from_millis(20)).await;
                return self.obituary(status);
            }
            sleep(Duration::from_millis(20)).await;
        }
        error
    }

    fn obituary(&self, status: ExitStatus) -> Error {
        let words = self.last_words();
        let error = Error::new(
            Kind::Io,
            format!("the server {} has ended ({status})", self.name),
        );
        if words.is_empty() {
            error
        } else {
            error.because(words)
        }
    }

    /// The last lines that the child wrote to its standard error.
    #[must_use]
    pub fn last_words(&self) -> String {
        let words = self
            .last_words
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        words
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        self.lock().try_wait().ok().flatten()
    }

    /// Asks it to end, waits for that, and kills it if it does not.
    pub async fn stop(&self) {
        self.terminate();
        let gone = async {
            while self.ended().is_none() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(GRACE, gone).await.is_err() {
            tracing::warn!("the server {} does not end and is killed", self.name);
            self.lock().start_kill().ok();
        }
    }

    fn terminate(&self) {
        let process = self.lock();
        // No id once it was waited for, so this never hits another process.
        let id = process.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).ok();
        }
    }

    fn lock(&self) -> MutexGuard<'_, tokio::process::Child> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shell that becomes `command`, with everything where the server looks for it.
fn shell(command: &[String], listener: UnixListener, gifts: &mut Gifts) -> Command {
    let mut shell = Command::new("/bin/sh");
    let script = match gifts.pipe.take() {
        Some(pipe) => {
            shell.stdout(Stdio::from(pipe));
            BECOME_WITH_PIPE
        }
        None => BECOME,
    };
    if let Some(environment) = gifts.environment.take() {
        shell.env_clear().envs(environment);
    }
    shell
        .args(["-c", script, "sh"])
        .args(command)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stderr(Stdio::piped());
    shell
}

/// Keeps the last lines of standard error, and reads on whatever comes, so that the child never
/// waits for us.
async fn listen<R>(stderr: R, name: String, kept: Arc<Mutex<VecDeque<String>>>, ear: Option<Ear>)
where
    R: AsyncRead + Unpin,
{
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut start = (&mut reader).take(KEPT_BYTES);
        if !matches!(start.read_until(b'\n', &mut line).await, Ok(1..)) {
            return;
        }
        let text = for_people(&line);
        if text.is_empty() {
            continue;
        }
        tracing::info!(server = %name, "{text}");
        if let Some(ear) = &ear {
            ear(&text);
        }
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(text);
    }
}

/// A directory that nobody else can enter, removed with all that is in it.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn create() -> io::Result<Self> {
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = env::temp_dir().join(format!("diskferry-{}-{number}", process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                // Left behind by an earlier process of the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 10_000 => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let path: &Path = &self.0;
        if let Err(error) = fs::remove_dir_all(path) {
            tracing::debug!("remove {}: {error}", path.display());
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.terminate();
    }
}
