//! QEMU's NBD server: there is one at most, and it cannot be asked where it listens.

use super::client::refused;
use super::drive::Vm;
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::nbd::client::{Client, Endpoint, Options};
use crate::nbd::uri::{Place, Uri};
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// What a client says that wants nothing: its flags, then `NBD_OPT_ABORT` without data.
const GOODBYE: &[u8; 20] = b"\0\0\0\x01IHAVEOPT\0\0\0\x02\0\0\0\0";

/// How long a server may take to answer that.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether an NBD server listens at a socket.
///
/// The handshake is ended as the protocol wants, and its end waited for: a QEMU that stops its server
/// while a client is in the middle of one may hang, and its VM with it (7.2 does).
pub(super) async fn listens(socket: &Path) -> bool {
    let talk = async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut greeting = [0; 18]; // NBDMAGIC, IHAVEOPT, flags
        stream.read_exact(&mut greeting).await?;
        stream.write_all(GOODBYE).await?;
        let mut answer = [0; 20];
        stream.read_exact(&mut answer).await?;
        Ok::<_, io::Error>(greeting.starts_with(b"NBDMAGIC"))
    };
    matches!(timeout(PATIENCE, talk).await, Ok(Ok(true)))
}

/// Starts the NBD server, unless one is known to run.
pub(super) async fn serve(vm: &Vm) -> Result<()> {
    let Some(socket) = vm.options.own_server(&vm.tag) else {
        return Ok(());
    };
    if listens(&socket).await {
        return Ok(());
    }
    let address = json!({"type": "unix", "data": {"path": socket}});
    let started = vm
        .client
        .call("nbd-server-start", json!({"addr": address}))
        .await?;
    match started {
        Ok(_) => Ok(()),
        Err(refusal) if refusal.desc.contains("already running") => {
            let error = refused("nbd-server-start", refusal).with_kind(Kind::Refused);
            Err(match of_another(vm).await {
                Some(socket) => error.hint(format!(
                    "it is that of another migration, at {}: end or cancel that, or remove what it \
                     left as docs/qmp.md has it",
                    socket.display()
                )),
                None => error.hint(
                    "QEMU has one NBD server at most and does not tell where it listens: \
                     say so, or stop it with nbd-server-stop if nobody needs it",
                ),
            })
        }
        Err(refusal) if refusal.desc.contains("Permission denied") => {
            let owner = vm.client.owner().await?;
            let owner = owner.map_or_else(String::new, |(user, group)| {
                format!(", user {user} and group {group},")
            });
            let scratch = vm.options.scratch.display();
            let error = refused("nbd-server-start", refusal).with_kind(Kind::Refused);
            Err(error.hint(format!(
                "QEMU{owner} must be able to make files in {scratch}"
            )))
        }
        Err(refusal) => Err(refused("nbd-server-start", refusal)),
    }
}

/// The socket of another migration that has its server in the same scratch directory.
async fn of_another(vm: &Vm) -> Option<PathBuf> {
    for socket in vm.scratch.sockets_of_others() {
        if listens(&socket).await {
            return Some(socket);
        }
    }
    None
}

/// Where the export `name` is read.
pub(super) fn address(vm: &Vm, name: &str) -> Result<Uri> {
    match vm.options.place(&vm.tag) {
        Place::Unix(path) => Ok(Uri::unix(path, name)),
        Place::Tcp { host, port } => {
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                host
            };
            format!("nbd://{host}:{port}/{name}").parse()
        }
    }
}

/// Makes sure that the export `name`, of `size` bytes, is where it is said to be.
pub(super) async fn check(vm: &Vm, name: &str, size: u64) -> Result<Address> {
    let uri = address(vm, name)?;
    let text = uri.to_string();
    let options = Options {
        connections: 1,
        extents: false,
        read_only: true,
        ..Options::default()
    };
    let connected = Client::connect(Endpoint::Uri(uri), options).await;
    let found = connected.map_err(|error| {
        let what = format!("find the export {name} where QEMU's NBD server is said to be");
        error.context(what)
    })?;
    let served = found.export().size;
    found.close().await;
    if served != size {
        let what = format!("{text} has {served} bytes, and the disk {size}");
        return Err(Error::new(Kind::Mismatch, what));
    }
    Ok(Address::Nbd(text))
}
