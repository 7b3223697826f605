//! The last logout, of a session that was given up with its task: blocking, on a thread and a runtime of
//! its own, since the one that it lived on may be ending.
//!
//! What all such logouts of a process have in common is kept here, and nowhere else: sessions know
//! nothing of each other, and yet many of them must not hold up the end of a program one after the
//! other because their server is gone.

use super::http::Http;
use super::soap::request::Request;
use crate::secret::Secret;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tokio::runtime;
use tokio::time::timeout;

/// Servers that did not answer their last logout: the first one of each is waited for, and again
/// when one was answered.
static SILENT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn silent() -> MutexGuard<'static, BTreeSet<String>> {
    SILENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends `request`, a logout, with the `cookie` of the session. Blocks until it was answered, `limit`
/// at most, and not at all at a server that has not answered one.
///
/// If it fails there is nobody left to tell; the server ends the session later.
pub(super) fn say(http: Http, request: Request, cookie: Secret, limit: Duration) {
    let is_silent = silent().contains(http.authority());
    let last = move || {
        let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        let logout = async { timeout(limit, http.post(&request, Some(&cookie))).await };
        let server = http.authority();
        match runtime.block_on(logout) {
            Ok(_) => silent().remove(server),
            Err(_) => silent().insert(server.to_owned()),
        };
        // A name that is still looked up must not be waited for.
        runtime.shutdown_background();
    };
    let thread = thread::Builder::new().name("logout".to_owned());
    if let Ok(last) = thread.spawn(last)
        && !is_silent
    {
        let _ = last.join();
    }
}
