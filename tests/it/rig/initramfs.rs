//! What a virtual machine of the rig boots: Debian's kernel, and a file system in memory made of
//! this machine's busybox, a few modules, and programs with the libraries that they need here.
//!
//! `tests/run peers` fetches the kernel (`tests/guest-kernel`); nothing is installed for it.

use super::server::run;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The kernel and its modules.
#[derive(Debug)]
pub(crate) struct Kernel {
    directory: PathBuf,
    /// What each module needs, by file name without its end and with `_` for `-`.
    modules: BTreeMap<String, Vec<PathBuf>>,
}

impl Kernel {
    #[track_caller]
    pub(crate) fn new() -> Self {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let directory = tmp.parent().expect("the build directory").join("guest");
        assert!(
            directory.join("version").exists(),
            "no kernel in {} (tests/run peers)",
            directory.display()
        );
        let list = fs::read_to_string(directory.join("modules/modules.dep")).expect("modules.dep");
        let modules = list
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(module, needed)| {
                // Dependencies come in the order in which they can be *removed*.
                let needed = needed.split_whitespace().rev().chain([module]);
                let files = needed.map(|path| directory.join("modules").join(path));
                (module_name(Path::new(module)), files.collect())
            })
            .collect();
        Self { directory, modules }
    }

    /// What `-kernel` takes.
    pub(crate) fn image(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    /// The files of `wanted` and of what they need, in the order in which they can be loaded, with
    /// their settings. Each wanted one is a name, and settings after a space if it has any.
    ///
    /// What the kernel of another release has built in is no module and not needed.
    fn modules<'a>(&self, wanted: &[&'a str]) -> Vec<(PathBuf, &'a str)> {
        let mut files: Vec<(PathBuf, &str)> = Vec::new();
        for one in wanted {
            let (name, settings) = one.split_once(' ').unwrap_or((one, ""));
            let needed = self.modules.get(name).map_or(&[][..], Vec::as_slice);
            for file in needed {
                if !files.iter().any(|(known, _)| known == file) {
                    let own = module_name(file) == name;
                    files.push((file.clone(), if own { settings } else { "" }));
                }
            }
        }
        files
    }
}

fn module_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.split('.').next().unwrap_or_default();
    stem.replace('-', "_")
}

/// A file system in memory: an archive in cpio's "newc" format, built up file by file.
#[derive(Debug)]
pub(crate) struct Initramfs {
    archive: Vec<u8>,
    /// What is in it, by path without the leading slash.
    paths: Vec<String>,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

impl Initramfs {
    /// One that loads `modules` and then runs `script`, in busybox's shell with all its commands.
    /// What the script prints goes to the second serial line, and at its end the machine turns off.
    #[track_caller]
    pub(crate) fn new(kernel: &Kernel, modules: &[&str], script: &str) -> Self {
        let mut this = Self {
            archive: Vec::new(),
            paths: Vec::new(),
        };
        for path in ["bin", "dev", "proc", "sys", "tmp"] {
            this.add(path, DIRECTORY, &[]);
        }
        this.program("busybox", Path::new("/bin/busybox"));
        let mut load = String::new();
        for (index, (file, settings)) in kernel.modules(modules).iter().enumerate() {
            let bytes = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let name = format!("{index:02}-{}", module_name(file));
            this.add(&name, PROGRAM, &bytes);
            let _ = writeln!(load, "insmod /{name} {settings}");
        }
        // Everything busybox is called by its name: installing hundreds of links takes a while.
        let init = format!(
            "#!/bin/busybox sh\n\
             for c in mount insmod poweroff cat echo sleep ls ln ip mkdir sh sync dd; do\n\
             \x20 /bin/busybox ln -s busybox /bin/$c\n\
             done\n\
             export PATH=/bin HOME=/tmp\n\
             mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev\n\
             exec >/dev/ttyS1 2>&1 </dev/null\n\
             {load}{script}\n\
             sync\npoweroff -f\n"
        );
        this.add("init", PROGRAM, init.as_bytes());
        this
    }

    /// Puts a program of this machine at `/bin/NAME`, and its libraries where they are here.
    #[track_caller]
    pub(crate) fn program(&mut self, name: &str, file: &Path) {
        let bytes = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        self.add(&format!("bin/{name}"), PROGRAM, &bytes);
        for library in libraries(file) {
            let bytes = fs::read(&library).expect("a library");
            self.add(library.trim_start_matches('/'), PROGRAM, &bytes);
        }
    }

    /// Writes the archive to `path`.
    pub(crate) fn write(mut self, path: &Path) {
        self.add("TRAILER!!!", 0, &[]);
        fs::write(path, self.archive).expect("write the initramfs");
    }

    /// Adds one member and the directories above it, unless it is there already.
    fn add(&mut self, path: &str, mode: u32, content: &[u8]) {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.add(above, DIRECTORY, &[]);
        }
        if self.paths.iter().any(|known| known == path) {
            return;
        }
        self.paths.push(path.to_owned());
        let number = self.paths.len();
        let length = content.len();
        let name = path.len() + 1;
        let mut header = format!("070701{number:08X}{mode:08X}");
        // Owner, group, links, time; then the size, four numbers of devices, and the name's length.
        for field in [0, 0, 1, 0, length, 0, 0, 0, 0, name, 0] {
            let _ = write!(header, "{field:08X}");
        }
        self.archive.extend(header.as_bytes());
        self.archive.extend(path.as_bytes());
        self.archive.push(0);
        self.pad();
        self.archive.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        let length = self.archive.len().next_multiple_of(4);
        self.archive.resize(length, 0);
    }
}

/// The dynamic linker and the libraries that `program` is linked with; none if it is static.
fn libraries(program: &Path) -> Vec<String> {
    let script = r#"ldd "$1" 2>/dev/null || true"#;
    let told = run(
        "sh",
        [
            "-c".as_ref(),
            script.as_ref(),
            "sh".as_ref(),
            program.as_os_str(),
        ],
    );
    told.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|word| word.trim_end_matches(':').to_owned())
        .collect()
}
