//! A command of the user: run, waited for no longer than it may take, its output kept.

use crate::error::{Error, Kind, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Bytes of output that are kept, of each stream. The rest is read and dropped.
const KEPT: usize = 16 << 10;

/// What a command said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Said {
    /// Its exit code; `None` if a signal ended it.
    pub(super) code: Option<i32>,
    /// The beginning of its standard output.
    pub(super) stdout: String,
    /// The beginning of its standard error.
    pub(super) stderr: String,
}

impl Said {
    /// The last line of what it complained about, for a message.
    pub(super) fn complaint(&self) -> &str {
        let lines = self.stdout.lines().chain(self.stderr.lines());
        let mut spoken = lines.map(str::trim).filter(|line| !line.is_empty());
        spoken.next_back().unwrap_or("it said nothing")
    }
}

/// Runs `words` with `env` on top of our own environment.
///
/// # Errors
/// It cannot be started, or took longer than `limit` and was killed, with all that it started.
pub(super) async fn run(words: &[String], env: &[(&str, String)], limit: Duration) -> Result<Said> {
    let (program, arguments) = words
        .split_first()
        .ok_or_else(|| Error::new(Kind::Usage, "a command without words"))?;
    let doing = || format!("run {program}");
    let mut child = Command::new(program)
        .args(arguments)
        .envs(env.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Error::io(doing(), error))?;
    let group = Group::of(&child);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let all = async { tokio::join!(child.wait(), keep(stdout), keep(stderr)) };
    let Ok((status, stdout, stderr)) = timeout(limit, all).await else {
        let what = format!("{program} took longer than {limit:?}");
        return Err(Error::new(Kind::Io, what).because("it was killed"));
    };
    group.ended();
    let status = status.map_err(|error| Error::io(doing(), error))?;
    Ok(Said {
        code: status.code(),
        stdout,
        stderr,
    })
}

/// All processes of a command; killed when dropped before it has ended.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }

    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Whoever is gone already cannot be killed, and need not be.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Reads a stream to its end and keeps its beginning.
async fn keep(stream: Option<impl AsyncRead + Unpin>) -> String {
    let (mut kept, mut piece) = (Vec::new(), [0; 4096]);
    let Some(mut stream) = stream else {
        return String::new();
    };
    while let Ok(length) = stream.read(&mut piece).await {
        let Some(new) = piece.get(..length).filter(|new| !new.is_empty()) else {
            break;
        };
        let room = KEPT.saturating_sub(kept.len());
        kept.extend(new.iter().take(room));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::run;
    use std::time::{Duration, Instant};

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(|word| (*word).to_owned()).collect()
    }

    #[tokio::test]
    async fn output_environment_and_code_come_back() {
        let script = "echo $WHO; echo why >&2; exit 3";
        let env = [("WHO", "me".to_owned())];
        let call = words(&["sh", "-c", script]);
        let said = run(&call, &env, Duration::from_secs(10)).await.unwrap();
        assert_eq!((said.code, said.stdout.as_str()), (Some(3), "me\n"));
        assert_eq!(said.complaint(), "why");
        assert_eq!(said.stderr, "why\n");
    }

    #[tokio::test]
    async fn what_takes_too_long_is_killed_with_its_children() {
        let began = Instant::now();
        let sleepers = words(&["sh", "-c", "sleep 60 & sleep 60; wait"]);
        let error = run(&sleepers, &[], Duration::from_millis(200)).await;
        let error = error.unwrap_err();
        assert!(error.line().contains("took longer"), "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
