//! The control socket, in the process that drives.

use super::short_path;
use super::wire::{Answer, LONGEST, Request};
use crate::error::{Error, Result};
use crate::migrate::drive::{Scene, Wish};
use crate::migrate::status::Status;
use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::sleep;

/// After a client could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Clients that are served at once; more wait.
const CLIENTS: usize = 16;

/// Listens until what comes back is polled no more.
///
/// # Errors
/// The socket cannot be made.
pub(crate) fn serve(
    scene: &Arc<Scene>,
    wishes: mpsc::Sender<Wish>,
) -> Result<impl Future<Output = ()> + use<>> {
    let (path, directory) = short_path(scene.book.directory())?;
    let doing = || format!("listen in {}", scene.book.directory().display());
    // Whoever listened before is gone: the lock of the directory is ours.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::io(doing(), error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(|error| Error::io(doing(), error))?;
    drop(directory);
    let scene = scene.clone();
    Ok(async move {
        let slots = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                sleep(PAUSE).await;
                continue;
            };
            let (scene, wishes) = (scene.clone(), wishes.clone());
            tokio::spawn(async move {
                let _slot = slot;
                converse(&scene, &wishes, stream).await;
            });
        }
    })
}

/// Answers one client until it leaves, or says what makes no sense.
async fn converse(scene: &Scene, wishes: &mpsc::Sender<Wish>, stream: UnixStream) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(LONGEST)).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match serde_json::from_str(&line) {
            Ok(request) => answer(scene, wishes, request).await,
            Err(error) => Answer::Refused(format!("not a request: {error}")),
        };
        let Ok(mut text) = serde_json::to_vec(&answer) else {
            return;
        };
        text.push(b'\n');
        if write.write_all(&text).await.is_err() {
            return;
        }
    }
}

async fn answer(scene: &Scene, wishes: &mpsc::Sender<Wish>, request: Request) -> Answer {
    let Some(event) = request.event() else {
        let live = scene.board.live();
        let status = scene.book.look(|record| Status::of(record, Some(&live)));
        return Answer::Status(Box::new(status));
    };
    let (answer, told) = oneshot::channel();
    let wish = Wish {
        event,
        answer: Some(answer),
    };
    let over = || "it has ended".to_owned();
    if wishes.send(wish).await.is_err() {
        return Answer::Refused(over());
    }
    match told.await {
        Ok(Ok(())) => Answer::Done,
        Ok(Err(why)) => Answer::Refused(why),
        Err(_) => Answer::Refused(over()),
    }
}
