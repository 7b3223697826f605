//! What an image may open: the rules, apart from who opens.
//!
//! An image names files: its parent, its extents, its data file. Whoever wrote the image chose the
//! names, so they are believed as little as the rest of it. By default a name must lead to a
//! regular file in the image's own directory or below, after every symbolic link is followed.
//! Names that are protocols (`nbd:…`, `json:…`) are refused, and so are `/proc` and `/sys`
//! whatever is allowed.

use crate::error::{Error, Kind, Result};
use rustix::fs::FileType;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Directories out of which an image may open files.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The directory of the image that the user named, real; none if it is not in one.
    own: Option<PathBuf>,
    /// Directories that the user allowed, real.
    allowed: Vec<PathBuf>,
}

/// Never opened for an image, whatever is allowed: there, reading is doing.
const NEVER: [&str; 2] = ["/proc", "/sys"];

impl Policy {
    /// Allows the directory `own` of an image and the `allowed` ones. Blocks.
    ///
    /// # Errors
    /// A directory is not there.
    pub fn new(own: Option<&Path>, allowed: &[PathBuf]) -> Result<Self> {
        let real = |path: &Path| {
            let found = fs::canonicalize(path);
            found.map_err(|error| Error::io(format!("open directory {}", path.display()), error))
        };
        let own = own.map(real).transpose()?;
        Ok(Self {
            // An image in the root directory does not own the machine.
            own: own.filter(|path| path.parent().is_some()),
            allowed: allowed
                .iter()
                .map(|path| real(path))
                .collect::<Result<_>>()?,
        })
    }

    /// Names of the files that an image in `dir` may perhaps open and that end in `ending`, whatever
    /// its case: those beside it by their name, those in directories that the user allowed by their
    /// path. At most `most`, in order. Blocks.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn siblings(&self, dir: &Path, ending: &str, most: usize) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for (at, place) in [(dir, Path::new(""))].into_iter().chain(
            self.allowed
                .iter()
                .map(|dir| (dir.as_path(), dir.as_path())),
        ) {
            let at = match at.as_os_str().is_empty() {
                true => Path::new("."),
                false => at,
            };
            for entry in fs::read_dir(at)? {
                let Ok(name) = entry?.file_name().into_string() else {
                    continue;
                };
                let start = name.len().saturating_sub(ending.len());
                let is_like = name.get(start..);
                if is_like.is_some_and(|end| end.eq_ignore_ascii_case(ending)) {
                    found.extend(place.join(name).to_str().map(str::to_owned));
                }
                if found.len() >= most {
                    break;
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Finds the file that an image in `dir` calls `name`, and checks that it may be opened. Blocks.
    ///
    /// # Errors
    /// `Refused` if it may not be opened; `Io` if it is not there.
    pub fn find(&self, dir: &Path, name: &str) -> Result<PathBuf> {
        let doing = || format!("open {name:?}, which the image names");
        let refused = |why: String| Error::new(Kind::Refused, doing()).because(why);
        plain(name).map_err(|why| refused(why.to_owned()))?;
        let path = dir.join(name);
        let real = fs::canonicalize(&path)
            .map_err(|error| Error::io(doing(), error).with_kind(Kind::Io))?;
        let own = self.own.as_ref().is_some_and(|own| real.starts_with(own));
        let allowed = self.allowed.iter().any(|dir| real.starts_with(dir));
        let never = NEVER.iter().any(|dir| real.starts_with(dir));
        if never || !(own || allowed) {
            let shown = real.display();
            let error = refused(format!("{shown} is outside of the image's own directory"));
            let parent = real.parent().unwrap_or(&real).display();
            return Err(match never {
                true => error,
                false => error.hint(format!("if the image is trusted: --allow-backing {parent}")),
            });
        }
        let stat = fs::metadata(&real).map_err(|error| Error::io(doing(), error))?;
        let kind = FileType::from_raw_mode(stat.mode());
        match kind {
            _ if kind.is_file() => Ok(real),
            _ if kind.is_block_device() && allowed => Ok(real),
            _ => Err(refused(format!("{} is not a regular file", real.display()))),
        }
    }
}

/// Whether `name` is the name of a file and nothing else.
fn plain(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.contains('\0') {
        return Err("that is not the name of a file");
    }
    // QEMU's rule: a colon before the first slash ends the name of a protocol.
    let head = name.split('/').next().unwrap_or(name);
    if head.contains(':') {
        return Err("that is the name of a protocol, not of a file");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Policy;
    use crate::error::Kind;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use tempfile::TempDir;

    /// `vm/` with an image's neighbours, and `secret` beside it.
    fn tree() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("vm/below")).unwrap();
        for name in ["vm/base", "vm/below/deep", "secret"] {
            fs::write(at(name), name).unwrap();
        }
        symlink("../secret", at("vm/link")).unwrap();
        symlink("base", at("vm/good")).unwrap();
        symlink("..", at("vm/up")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("vm/fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        dir
    }

    #[test]
    fn only_files_in_the_own_directory_are_found_and_links_do_not_lead_out() {
        let tree = tree();
        let vm = tree.path().join("vm");
        let policy = Policy::new(Some(&vm), &[]).unwrap();
        for name in ["base", "good", "below/deep", "below/../base"] {
            assert!(policy.find(&vm, name).is_ok(), "{name}");
        }
        let absolute = vm.join("base");
        assert!(policy.find(&vm, absolute.to_str().unwrap()).is_ok());
        for name in [
            "../secret",
            "link",
            "up/secret",
            "/etc/passwd",
            "/proc/self/environ",
            "fifo",
            "below",
            "",
            "nbd:unix:/x",
            "nbd://host",
            "json:{}",
            "file:base",
            "C:\\disk.vhd",
            "a\0b",
        ] {
            let error = policy.find(&vm, name).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{name}: {error:?}");
        }
        assert_eq!(policy.find(&vm, "gone").unwrap_err().kind(), Kind::Io);
    }

    #[test]
    fn what_the_user_allows_is_found_and_proc_never_is() {
        let tree = tree();
        let vm = tree.path().join("vm");
        let policy = Policy::new(Some(&vm), &[tree.path().to_owned(), "/".into()]).unwrap();
        assert!(policy.find(&vm, "../secret").is_ok());
        assert!(policy.find(&vm, "link").is_ok());
        for name in ["/proc/self/environ", "/proc/self/mem", "/sys/kernel/mm"] {
            assert_eq!(policy.find(&vm, name).unwrap_err().kind(), Kind::Refused);
        }
        assert_eq!(policy.find(&vm, "fifo").unwrap_err().kind(), Kind::Refused);
    }

    #[test]
    fn an_image_in_the_root_directory_or_in_none_opens_nothing() {
        for own in [Some(Path::new("/")), None] {
            let policy = Policy::new(own, &[]).unwrap();
            let error = policy.find(Path::new("/"), "etc/passwd").unwrap_err();
            assert_eq!(error.kind(), Kind::Refused);
            assert!(error.line().contains("--allow-backing /etc"), "{error:?}");
        }
    }
}
