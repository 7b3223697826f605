//! A directory for one test, and the program under test run from it.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a command may take before the test fails. Nothing in this crate may hang.
const PATIENCE: Duration = Duration::from_secs(120);

/// A directory on the disk of the build, with its own place for journals; gone when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    dir: TempDir,
}

impl Room {
    pub(crate) fn new() -> Self {
        // Not the system's temporary directory: that may be in memory, where O_DIRECT is not.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
        fs::create_dir(dir.path().join("state")).expect("make the state directory");
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where journals of device targets go.
    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// The program with `args`, its state kept in this room. Not started.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diskferry"));
        command
            .args(args)
            .env("XDG_STATE_HOME", self.state())
            .env("HOME", self.dir.path())
            .env_remove("RUST_LOG")
            .env_remove("RUST_BACKTRACE")
            .current_dir(self.dir.path());
        command
    }

    /// Runs the program with nobody to read its standard output; its exit code, and what it says on
    /// standard error.
    pub(crate) fn unread<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> (Option<i32>, String) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done = self.command(args).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code(), said)
    }

    /// Starts the program.
    pub(crate) fn start<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Running {
        Running::start(self.command(args))
    }

    /// Runs the program to its end.
    pub(crate) fn diskferry<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Outcome {
        self.start(args).wait()
    }
}

/// The program while it runs. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    words: String,
    output: TempDir,
}

impl Running {
    /// Starts `command` with its output kept aside: a pipe that nobody reads would stall it.
    pub(crate) fn start(mut command: Command) -> Self {
        let output = tempfile::tempdir().expect("make a directory");
        let file = |name| File::create(output.path().join(name)).expect("make an output file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let words = format!("{command:?}");
        Self {
            child,
            words,
            output,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub(crate) fn stdout(&self) -> String {
        read_lossy(&self.output.path().join("stdout"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // It may have ended by itself, which the caller sees from the outcome.
        let _ = kill_process(Pid::from_raw(pid).expect("a pid"), signal);
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "hangs: {}\nstdout: {}\nstderr: {}",
                self.words,
                self.stdout(),
                read_lossy(&self.output.path().join("stderr")),
            );
            thread::sleep(Duration::from_millis(2));
        };
        Outcome {
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout(),
            stderr: read_lossy(&self.output.path().join("stderr")),
            words: std::mem::take(&mut self.words),
        }
    }

    /// Kills it as the kernel would: no handler, no unwinding.
    pub(crate) fn kill(self) -> Outcome {
        self.signal(Signal::KILL);
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// How a run of the program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    words: String,
}

impl Outcome {
    /// Asserts success.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.exits(0)
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "{} (signal {:?})\nstdout: {}\nstderr: {}",
            self.words,
            self.signal,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Asserts a failure as people should see it: the code, and one line that says all of `parts`.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, parts: &[&str]) -> Self {
        let this = self.exits(code);
        // Before it there may be lines of progress.
        let said = this.stderr.lines().filter(|l| l.starts_with("diskferry: "));
        let line = this.stderr.lines().last().unwrap_or_default();
        assert_eq!(said.count(), 1, "{}:\n{}", this.words, this.stderr);
        assert!(line.starts_with("diskferry: "), "{}", this.stderr);
        for part in parts {
            assert!(
                line.to_lowercase().contains(&part.to_lowercase()),
                "{:?} is missing from: {line}\n{}",
                part,
                this.words
            );
        }
        for never in ["panicked", "RUST_BACKTRACE", "Error {"] {
            assert!(!this.stderr.contains(never), "{}", this.stderr);
        }
        this
    }

    /// The events of `--json`, one a line.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: not an event: {line}"))
            })
            .collect()
    }

    /// The events that were printed whole before the program was killed.
    pub(crate) fn whole_events(&self) -> Vec<Value> {
        let lines = self.stdout.lines();
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The last event of a kind.
    #[track_caller]
    pub(crate) fn event(&self, kind: &str) -> Value {
        self.events()
            .into_iter()
            .rfind(|event| event["event"] == kind)
            .unwrap_or_else(|| panic!("no event {kind:?} in:\n{}", self.stdout))
    }
}
