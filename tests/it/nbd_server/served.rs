//! A server inside the test, over a disk that lives.

use crate::rig::Rng;
use diskferry::demo::LiveDisk;
use diskferry::nbd::server::{Export, Listen, Place, Server, Settings};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Size of the disk: not a multiple of anything but 512.
pub(super) const SIZE: u64 = (32 << 20) + 512;

/// How long anything may take before it counts as hanging.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a Unix socket, with the export `disk`.
pub(super) struct Served {
    pub(super) disk: LiveDisk,
    pub(super) server: Option<Server>,
    pub(super) runtime: Runtime,
    dir: TempDir,
}

impl Served {
    pub(super) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(super) fn with(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let listen = Listen::Unix(dir.path().join("s"));
        let server = runtime.block_on(Server::start(&listen, settings)).unwrap();
        let disk = LiveDisk::create(dir.path(), SIZE).unwrap();
        server.add("disk", Arc::new(disk.clone())).unwrap();
        Self {
            disk,
            server: Some(server),
            runtime,
            dir,
        }
    }

    /// With data in the first MiB, in one block in the middle, and in the last sector.
    pub(super) fn filled() -> Self {
        let served = Self::new();
        let mut rng = Rng::new(1);
        for (offset, len) in [(0, 1 << 20), (16 << 20, 65536), (SIZE - 512, 512)] {
            served.disk.write_at(offset, &rng.bytes(len)).unwrap();
        }
        served
    }

    pub(super) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub(super) fn add(&self, name: &str, export: impl Export + 'static) {
        self.server().add(name, Arc::new(export)).unwrap();
    }

    pub(super) fn uri(&self, name: &str) -> String {
        self.server().place().uri(name, false)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A client that does not wait for ever.
    pub(super) fn connect(&self) -> UnixStream {
        let Place::Unix(path) = self.server().place() else {
            panic!("not a Unix socket")
        };
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// All bytes of the disk, as of now.
    pub(super) fn content(&self) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(SIZE).unwrap()];
        let view = self.disk.checkpoint(None, None).unwrap();
        view.read_at(0, &mut all).unwrap();
        all
    }
}
