//! A virtual machine of the rig, whatever it is for: booted, listened to, turned off.
//!
//! There is no KVM where tests run, so the processor is emulated: about 2 s from start to `init`.
//! The first serial line is the kernel's console; on the second one the guest talks, a line at a time.

use super::initramfs::{Initramfs, Kernel};
use super::server::{Server, socket_dir};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running machine. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    server: Server,
    /// Also for sockets: its path is short.
    dir: TempDir,
}

/// What makes an emulated boot short: nothing to be careful about, nothing to measure or wait for.
const KERNEL_WORDS: &str = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off lsm= audit=0 \
     tsc=reliable no_timer_check cryptomgr.notests raid=noautodetect rcupdate.rcu_expedited=1";

impl Machine {
    /// A directory for the machine to be, for the sockets that `args` of [`Machine::boot`] name.
    pub(crate) fn directory() -> TempDir {
        socket_dir()
    }

    /// Boots with `mebibytes` of memory; `args` are the devices.
    #[track_caller]
    pub(crate) fn boot(
        dir: TempDir,
        kernel: &Kernel,
        initramfs: Initramfs,
        mebibytes: u32,
        args: &[String],
    ) -> Self {
        Self::boot_with(Stdio::null(), dir, kernel, initramfs, mebibytes, args)
    }

    /// Likewise, with something for the emulator to read from.
    #[track_caller]
    pub(crate) fn boot_with(
        stdin: Stdio,
        dir: TempDir,
        kernel: &Kernel,
        initramfs: Initramfs,
        mebibytes: u32,
        args: &[String],
    ) -> Self {
        let initrd = dir.path().join("initrd");
        initramfs.write(&initrd);
        let serial = |name| format!("file:{}", dir.path().join(name).display());
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
            .args(["-m", &mebibytes.to_string()])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-serial", &serial("console"), "-serial", &serial("words")])
            .args(["-append", KERNEL_WORDS])
            .arg("-kernel")
            .arg(kernel.image())
            .arg("-initrd")
            .arg(&initrd)
            .args(args)
            .stdin(stdin)
            .stdout(Stdio::null());
        let server = Server::spawn(&mut command);
        Self { server, dir }
    }

    /// A file or socket beside the machine.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    /// What the guest has said so far, in whole lines.
    pub(crate) fn said(&self) -> Vec<String> {
        let words = fs::read(self.path("words")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        let whole = words.rfind('\n').map_or("", |end| &words[..end]);
        let lines = whole.lines();
        lines.map(|line| line.trim_end().to_owned()).collect()
    }

    /// Waits until `found` is satisfied by what the guest has said. Fails if the machine ends
    /// before, or after `patience`, and shows what it said and what its kernel did.
    #[track_caller]
    pub(crate) fn wait_until<T>(
        &mut self,
        patience: Duration,
        what: &str,
        found: impl Fn(&[String]) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + patience;
        loop {
            // The end first: what was said before it is then there to be read.
            let ended = self.has_ended();
            let said = self.said();
            if let Some(value) = found(&said) {
                return value;
            }
            if ended || Instant::now() > deadline {
                let console = fs::read(self.path("console")).unwrap_or_default();
                let tail = &said[said.len().saturating_sub(40)..];
                panic!(
                    "the guest {} without {what}; it said:\n{}\n\nits console:\n{}",
                    if ended { "ended" } else { "goes on" },
                    tail.join("\n"),
                    String::from_utf8_lossy(&console)
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for a line that begins with `word`, and gives the rest of it.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, patience: Duration, word: &str) -> String {
        self.wait_until(patience, word, |said| {
            let found = said.iter().find_map(|line| line.strip_prefix(word));
            found.map(|rest| rest.trim().to_owned())
        })
    }

    /// Whether the emulator has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.server.child().try_wait().expect("wait").is_some()
    }
}
