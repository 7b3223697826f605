//! One pass: this program again, called as a user would call it, and what it says of itself.

use crate::error::{Error, Kind, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::interval;

/// How often the condition for a kill is looked at.
const GLANCE: Duration = Duration::from_millis(5);

/// A command to be run.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    /// This program.
    pub(super) program: PathBuf,
    /// The words after its name, `copy` first.
    pub(super) words: Vec<String>,
}

/// One event, as far as the story tells of it. Fields that an event lacks are zero.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    event: String,
    message: String,
    pub(super) resumed: u64,
    pub(super) read: u64,
    pub(super) written: u64,
    pub(super) zeroed: u64,
    pub(super) skipped: u64,
    pub(super) verified: u64,
    pub(super) position: u64,
    pub(super) proven: bool,
}

/// How a run went.
#[derive(Clone, Debug, Default)]
pub(super) struct Ran {
    /// From its start until it had ended.
    pub(super) took: Duration,
    /// From its start until it began to read the target back; all of it if it never did.
    pub(super) copied: Duration,
    /// `start`, once it came.
    pub(super) start: Told,
    /// The last `barrier`: where a run that is killed is continued from.
    pub(super) barrier: Told,
    /// `done`.
    pub(super) done: Told,
}

impl Pass {
    /// The command line as a user would type it.
    pub(super) fn line(&self) -> String {
        let words = self.words.iter().map(|word| quoted(word));
        format!("diskferry {}", words.collect::<Vec<_>>().join(" "))
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It failed: with its own message.
    pub(super) async fn run(&self) -> Result<Ran> {
        let (status, ran, message) = self.watch(|_| false).await?;
        if status.success() {
            return Ok(ran);
        }
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        let kind = code.map_or(Kind::Io, kind_of);
        Err(
            Error::new(kind, self.line()).because(match message.is_empty() {
                true => format!("it ended with {status}"),
                false => message,
            }),
        )
    }

    /// Runs it until `enough`, told of the last barrier, then kills it with SIGKILL.
    ///
    /// # Errors
    /// It ended before that.
    pub(super) async fn run_until(&self, enough: impl FnMut(u64) -> bool) -> Result<Ran> {
        let (status, ran, message) = self.watch(enough).await?;
        match status.code() {
            None => Ok(ran),
            Some(code) => {
                let doing = format!(
                    "{}: ended with code {code} before it was killed",
                    self.line()
                );
                Err(Error::new(Kind::Io, doing).because(message))
            }
        }
    }

    async fn watch(
        &self,
        mut enough: impl FnMut(u64) -> bool,
    ) -> Result<(ExitStatus, Ran, String)> {
        let failed = |error| Error::io(format!("run {}", self.line()), error);
        let began = Instant::now();
        let mut child = Command::new(&self.program)
            .args(&self.words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let Some(output) = child.stdout.take() else {
            return Err(Error::new(Kind::Io, "a child without output"));
        };
        let mut lines = BufReader::new(output).lines();
        let (mut ran, mut message) = (Ran::default(), String::new());
        let mut glance = interval(GLANCE);
        loop {
            tokio::select! {
                line = lines.next_line() => match line.map_err(failed)? {
                    Some(line) => ran.hear(&line, began, &mut message),
                    None => break,
                },
                _ = glance.tick() => if enough(ran.barrier.position) {
                    child.start_kill().map_err(failed)?;
                    break;
                },
            }
        }
        let status = child.wait().await.map_err(failed)?;
        ran.took = began.elapsed();
        if ran.copied.is_zero() {
            ran.copied = ran.took;
        }
        Ok((status, ran, message))
    }
}

impl Ran {
    /// Takes note of one line. Lines and events that mean nothing here are passed over.
    fn hear(&mut self, line: &str, began: Instant, message: &mut String) {
        let Ok(told) = serde_json::from_str::<Told>(line) else {
            return;
        };
        match told.event.as_str() {
            "start" => self.start = told,
            "barrier" => self.barrier = told,
            "verify" => self.copied = began.elapsed(),
            "done" => self.done = told,
            "failed" => *message = told.message,
            _ => {}
        }
    }
}

/// The kind that stands behind an exit code.
fn kind_of(code: u8) -> Kind {
    let kinds = [
        Kind::Usage,
        Kind::Mismatch,
        Kind::Refused,
        Kind::Interrupted,
    ];
    let found = kinds.into_iter().find(|kind| kind.exit_code() == code);
    found.unwrap_or(Kind::Io)
}

/// `word` as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A path as a word of a command line.
///
/// # Errors
/// It is not UTF-8, and so cannot be told to anybody.
pub(super) fn word(path: &Path) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::new(Kind::Usage, format!("{} is not UTF-8", path.display())))
}

#[cfg(test)]
mod tests {
    use super::{Kind, Pass, quoted};
    use std::time::{Duration, Instant};

    /// A shell that stands for diskferry.
    fn script(text: &str) -> Pass {
        Pass {
            program: "/bin/sh".into(),
            words: vec!["-c".into(), text.into()],
        }
    }

    #[test]
    fn a_word_is_quoted_only_where_a_shell_would_take_it_apart() {
        assert_eq!(quoted("--rate=1M"), "--rate=1M");
        assert_eq!(
            quoted("nbd+unix:///x?socket=/s"),
            "'nbd+unix:///x?socket=/s'"
        );
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[tokio::test]
    async fn a_run_is_heard_killed_and_its_failure_told() {
        let pass = script(
            r#"echo '{"event":"barrier","position":7}'
               echo '{"event":"done","read":5,"proven":true}'"#,
        );
        let ran = pass.run().await.unwrap();
        assert_eq!(
            (ran.done.read, ran.done.proven, ran.barrier.position),
            (5, true, 7)
        );

        let pass =
            script(r#"echo '{"event":"failed","message":"the LUN is gone","code":4}'; exit 4"#);
        let error = pass.run().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(
            error.line().ends_with("the LUN is gone"),
            "{}",
            error.line()
        );
        assert!(
            pass.run_until(|_| false).await.is_err(),
            "it ended by itself"
        );

        let pass = script(r#"echo '{"event":"barrier","position":9}'; exec sleep 600"#);
        let began = Instant::now();
        let ran = pass.run_until(|position| position == 9).await.unwrap();
        assert_eq!(ran.barrier.position, 9);
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
