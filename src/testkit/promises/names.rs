//! Names of files in images: none leads out, whatever it is.

use crate::format::Policy;
use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::LazyLock;

/// An image's directory, its neighbours, and links that lead out. A few bytes, left behind.
static TREE: LazyLock<Option<PathBuf>> = LazyLock::new(|| tree().ok());

fn tree() -> io::Result<PathBuf> {
    let root = env::temp_dir().join(format!("diskferry-names-{}", process::id()));
    let vm = root.join("vm");
    fs::create_dir_all(vm.join("below"))?;
    for name in ["base", "below/deep", "../secret"] {
        fs::write(vm.join(name), name)?;
    }
    for (to, name) in [
        ("../secret", "link"),
        ("..", "up"),
        ("base", "good"),
        ("/", "root"),
    ] {
        symlink(to, vm.join(name)).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        })?;
    }
    fs::canonicalize(vm)
}

/// Takes `input` for the name of a file.
pub(super) fn keep(input: &[u8]) -> bool {
    let name = String::from_utf8_lossy(input);
    let Some(vm) = TREE.as_deref() else {
        return false;
    };
    let policy = |allowed: &[PathBuf]| Policy::new(Some(vm), allowed).ok();
    let own = policy(&[]).map(|policy| policy.find(vm, &name));
    let found = own.is_some_and(|found| match found {
        Ok(path) => {
            assert!(
                path.starts_with(vm) && path.is_file(),
                "{name:?} is {path:?}"
            );
            true
        }
        Err(error) => {
            assert!(!error.line().contains(['\n', '\r']));
            false
        }
    });
    let any = policy(&[PathBuf::from("/")]).map(|policy| policy.find(vm, &name));
    if let Some(Ok(path)) = any {
        let odd = ["/proc", "/sys"].map(Path::new);
        assert!(!odd.iter().any(|dir| path.starts_with(dir)), "{path:?}");
    }
    found
}
