//! A network that breaks when told: every byte between a client and a server passes through it.
//!
//! It listens on a unix socket or a loopback port, and forwards to the server's unix socket or
//! loopback port. It knows nothing of what it carries: NBD, QMP, anything.

use super::server::socket_dir;
use rustix::net::{Shutdown, shutdown};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// How long a cut may take to come about.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the server is.
#[derive(Clone, Debug)]
pub(crate) enum To {
    Unix(PathBuf),
    /// A port on loopback.
    Tcp(u16),
}

impl To {
    fn connect(&self) -> io::Result<File> {
        let fd: OwnedFd = match self {
            Self::Unix(path) => UnixStream::connect(path)?.into(),
            Self::Tcp(port) => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port))?;
                stream.set_nodelay(true)?;
                stream.into()
            }
        };
        Ok(fd.into())
    }
}

/// The network. What is under way ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    wire: Arc<Wire>,
    listener: Arc<Listener>,
    dir: TempDir,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn accept(&self) -> io::Result<File> {
        let fd: OwnedFd = match self {
            Self::Unix(listener) => listener.accept()?.0.into(),
            Self::Tcp(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nodelay(true)?;
                stream.into()
            }
        };
        Ok(fd.into())
    }

    /// Wakes whoever waits in `accept`, for good.
    fn close(&self) {
        let _ = match self {
            Self::Unix(listener) => shutdown(listener, Shutdown::Both),
            Self::Tcp(listener) => shutdown(listener, Shutdown::Both),
        };
    }
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Mood {
    #[default]
    Well,
    /// Nothing passes; everybody waits.
    Stalled,
    /// Connections end, old and new.
    Cut,
}

#[derive(Debug, Default)]
struct State {
    mood: Mood,
    delay: Duration,
    /// Bytes from the server to pass before the cut.
    left: Option<u64>,
    /// How many connections to come end by themselves, after so many bytes from the server.
    breaks: (u64, u64),
    /// Both ends of each connection.
    ends: Vec<Weak<File>>,
    accepted: u64,
    passed: u64,
}

#[derive(Debug, Default)]
struct Wire {
    state: Mutex<State>,
    changed: Condvar,
}

impl Proxy {
    /// One that clients reach at a unix socket.
    #[track_caller]
    pub(crate) fn new(to: To) -> Self {
        let dir = socket_dir();
        let listener = UnixListener::bind(dir.path().join("s")).expect("listen");
        Self::start(Listener::Unix(listener), dir, to)
    }

    /// One that clients reach at a loopback port.
    #[track_caller]
    pub(crate) fn tcp(to: To) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        Self::start(Listener::Tcp(listener), socket_dir(), to)
    }

    fn start(listener: Listener, dir: TempDir, to: To) -> Self {
        let (wire, listener) = (Arc::new(Wire::default()), Arc::new(listener));
        let (behind, door) = (Arc::clone(&wire), Arc::clone(&listener));
        thread::spawn(move || {
            while let Ok(client) = door.accept() {
                behind.admit(client, &to);
            }
        });
        Self {
            wire,
            listener,
            dir,
        }
    }

    /// The unix socket of a proxy that has one.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// The loopback port of a proxy that has one.
    #[track_caller]
    pub(crate) fn port(&self) -> u16 {
        match &*self.listener {
            Listener::Tcp(listener) => listener.local_addr().expect("its address").port(),
            Listener::Unix(_) => panic!("it has no port"),
        }
    }

    /// Ends every connection now, and each new one as soon as it is made, until mended.
    pub(crate) fn cut(&self) {
        self.wire.cut(&mut self.wire.lock());
    }

    /// Cuts after that many more bytes from server to client, in the middle of whatever they are.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.wire.lock().left = Some(bytes);
    }

    /// Each of the next `times` connections ends after that many bytes from server to client; what
    /// comes after those is well.
    pub(crate) fn break_off(&self, times: u64, bytes: u64) {
        self.wire.lock().breaks = (times, bytes);
    }

    /// Lets nothing pass until mended. Connections stay, and new ones are made but silent.
    pub(crate) fn stall(&self) {
        self.wire.lock().mood = Mood::Stalled;
    }

    /// Holds up everything by `delay`, in both directions, until mended.
    pub(crate) fn delay(&self, delay: Duration) {
        self.wire.lock().delay = delay;
    }

    /// All is well again. What was stalled passes; what was cut stays cut and can be made anew.
    pub(crate) fn mend(&self) {
        let mut state = self.wire.lock();
        (state.mood, state.delay, state.left) = (Mood::Well, Duration::ZERO, None);
        drop(state);
        self.wire.changed.notify_all();
    }

    /// Whether it is cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.wire.lock().mood == Mood::Cut
    }

    /// Waits until what [`Proxy::cut_after`] asked for has happened.
    #[track_caller]
    pub(crate) fn wait_until_cut(&self) {
        let whole = |state: &mut State| state.mood != Mood::Cut;
        let waited = self
            .wire
            .changed
            .wait_timeout_while(self.wire.lock(), PATIENCE, whole);
        let (state, _) = waited.expect("no panic while it was held");
        assert_eq!(state.mood, Mood::Cut, "{} bytes came by", state.passed);
    }

    /// Connections that were made so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.wire.lock().accepted
    }

    /// Bytes that came from the server so far.
    pub(crate) fn passed(&self) -> u64 {
        self.wire.lock().passed
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.close();
        self.cut();
    }
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it was held")
    }

    fn cut(&self, state: &mut State) {
        state.mood = Mood::Cut;
        let open = state.ends.drain(..).filter_map(|end| end.upgrade());
        for end in open {
            let _ = shutdown(&*end, Shutdown::Both);
        }
        self.changed.notify_all();
    }

    /// Takes in a client. One that comes while the network is cut, or whose server is gone, is
    /// dropped.
    fn admit(self: &Arc<Self>, client: File, to: &To) {
        let Ok(server) = to.connect() else { return };
        let (client, server) = (Arc::new(client), Arc::new(server));
        let mut state = self.lock();
        state.accepted += 1;
        if state.mood == Mood::Cut {
            return;
        }
        state.ends.extend([&client, &server].map(Arc::downgrade));
        let (times, bytes) = state.breaks;
        state.breaks.0 = times.saturating_sub(1);
        let most = (times > 0).then_some(bytes);
        drop(state);
        for (from, to, counted) in [(&client, &server, false), (&server, &client, true)] {
            let (wire, from, to) = (Arc::clone(self), Arc::clone(from), Arc::clone(to));
            thread::spawn(move || {
                // An error is an end like any other.
                let _ = wire.carry(&from, &to, counted.then_some(most.unwrap_or(u64::MAX)));
                let _ = shutdown(&*to, Shutdown::Write);
                let _ = shutdown(&*from, Shutdown::Read);
            });
        }
    }

    /// Carries bytes one way: those of the server are counted, and there are `most` of them.
    fn carry(&self, mut from: &File, mut to: &File, most: Option<u64>) -> io::Result<()> {
        let mut bytes = vec![0; 64 << 10];
        let mut left = most.unwrap_or(u64::MAX);
        while left > 0 {
            let length = from.read(&mut bytes)?;
            if length == 0 {
                return Ok(());
            }
            thread::sleep(self.lock().delay);
            let length = usize::try_from(left).map_or(length, |left| left.min(length));
            left -= length as u64;
            let (allowed, last) = self.allow(length, most.is_some());
            to.write_all(&bytes[..allowed])?;
            if last {
                self.cut(&mut self.lock());
                return Ok(());
            }
        }
        Ok(())
    }

    /// How many of `length` bytes may pass, once any may, and whether they are the last.
    fn allow(&self, length: usize, counted: bool) -> (usize, bool) {
        let stalled = |state: &mut State| state.mood == Mood::Stalled;
        let mut state = self
            .changed
            .wait_while(self.lock(), stalled)
            .expect("no panic while it was held");
        if state.mood == Mood::Cut {
            return (0, true);
        }
        if !counted {
            return (length, false);
        }
        let left = state.left.unwrap_or(u64::MAX);
        let allowed = usize::try_from(left).map_or(length, |left| left.min(length));
        state.left = state.left.map(|left| left - allowed as u64);
        state.passed += allowed as u64;
        (allowed, state.left == Some(0))
    }
}
