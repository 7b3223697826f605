//! What an importer pod may have: uid 107 without a capability, 600 MB of memory with what is cached
//! for it, three quarters of a processor.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Who a pod runs as.
pub(crate) const POD_UID: u32 = 107;

const MEMORY: &str = "600000000";

/// Joins control groups, gives up what a pod does not have, and becomes the program.
const BECOME: &str = r#"
groups=$1
shift
IFS=,
for group in $groups; do echo $$ >"$group/cgroup.procs" || exit 126; done
exec setpriv --reuid=107 --regid=107 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs -- "$@"
"#;

/// The limits of a pod as control groups, of either version; removed when dropped.
#[derive(Debug)]
pub(crate) struct Limits(Vec<PathBuf>);

impl Limits {
    #[track_caller]
    pub(crate) fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("diskferry-test-{}-{number}", std::process::id());
        let top = Path::new("/sys/fs/cgroup");
        let settings: &[(&str, &str, &str)] = match top.join("cgroup.controllers").exists() {
            true => &[("", "memory.max", MEMORY), ("", "cpu.max", "75000 100000")],
            false => &[
                ("memory", "memory.limit_in_bytes", MEMORY),
                ("cpu", "cpu.cfs_quota_us", "75000"),
            ],
        };
        let mut groups = Self(Vec::new());
        for (controller, file, value) in settings {
            let group = top.join(controller).join(&name);
            fs::create_dir_all(&group).expect("make a control group (tests run as root)");
            if !groups.0.contains(&group) {
                groups.0.push(group.clone());
            }
            fs::write(group.join(file), value).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
        groups
    }

    /// The groups, divided by commas.
    pub(crate) fn words(&self) -> String {
        let paths = self.0.iter().map(|path| path.display().to_string());
        paths.collect::<Vec<_>>().join(",")
    }

    /// `program` as a pod runs it.
    #[track_caller]
    pub(crate) fn command(&self, program: &Path) -> Command {
        for above in program.ancestors().skip(1) {
            let mode = fs::metadata(above).map_or(0, |meta| meta.permissions().mode());
            assert!(
                mode & 1 != 0,
                "uid {POD_UID} may not enter {}",
                above.display()
            );
        }
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", BECOME, "sh", &self.words()])
            .arg(program);
        command
    }

    /// The importer in `root`, which is its whole file system, with nothing told to it yet.
    #[track_caller]
    pub(crate) fn importer(&self, root: &Path) -> Command {
        let mut command = self.command(&root.join("cdi-importer"));
        command
            .args(["-alsologtostderr", "-v=1"])
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .env("DISKFERRY_ROOT", root);
        command
    }

    /// The most that was used at once, page cache included, if the kernel counts it.
    pub(crate) fn peak(&self) -> Option<u64> {
        let group = self.0.first()?;
        let names = ["memory.peak", "memory.max_usage_in_bytes"];
        let told = names
            .iter()
            .find_map(|name| fs::read_to_string(group.join(name)).ok());
        told?.trim().parse().ok()
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        for group in &self.0 {
            // Whoever was killed in it may take a moment to be gone.
            for _ in 0..100 {
                if fs::remove_dir(group).is_ok() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Makes what is at `path` the pod's.
#[track_caller]
pub(crate) fn give_to_pod(path: &Path) {
    chown(path, Some(POD_UID), Some(POD_UID))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
