//! Who asks, and whom we believe. Secrets come from files and the environment: a command line can be
//! seen by every user of the machine.

use super::sign::Sign;
use crate::error::{Error, Kind, Result};
use crate::http::trust::Trust;
use crate::secret::{Place, Secret};
use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use std::env;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// The variable that a password is taken from, if no file is named.
pub const PASSWORD: &str = "DISKFERRY_HTTP_PASSWORD";

/// How long a server may say nothing, if nobody says otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest file of headers.
const LONGEST: u64 = 64 << 10;

/// Who asks, and whom we believe.
#[derive(Clone, Debug)]
pub struct Access {
    /// Whose certificate is believed.
    pub trust: Trust,
    /// Who logs in, if anybody (RFC 7617).
    pub login: Option<Login>,
    /// Files of headers, one `Name: value` a line.
    pub header_files: Vec<PathBuf>,
    /// Headers by themselves.
    pub header_lines: Vec<Secret>,
    /// How long a server may say nothing.
    pub patience: Duration,
    /// Who signs requests, where that is not done by headers that stay the same.
    pub signer: Option<Arc<dyn Sign>>,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            trust: Trust::default(),
            login: None,
            header_files: Vec::new(),
            header_lines: Vec::new(),
            patience: PATIENCE,
            signer: None,
        }
    }
}

/// A user, and where the password is.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user.
    pub user: String,
    /// Where the password is.
    pub password: Place,
}

impl Access {
    /// The headers that let us in.
    ///
    /// # Errors
    /// A file or the password cannot be read, or a line is no header.
    pub fn headers(&self) -> Result<HeaderMap> {
        let mut all = HeaderMap::new();
        for line in &self.header_lines {
            add(&mut all, line.reveal(), "a header")?;
        }
        for path in &self.header_files {
            let text = read(path)?;
            for (number, line) in (1..).zip(text.lines()) {
                if line.trim().is_empty() || line.starts_with('#') {
                    continue;
                }
                add(&mut all, line, &format!("{} line {number}", path.display()))?;
            }
        }
        if let Some(login) = &self.login {
            all.insert(AUTHORIZATION, login.basic()?);
        }
        Ok(all)
    }
}

impl Login {
    /// `Basic`, as a header has it.
    fn basic(&self) -> Result<HeaderValue> {
        let variable = |name: &str| env::var_os(name).is_some();
        if matches!(&self.password, Place::Environment(name) if !variable(name)) {
            let what = format!("there is no password for {:?}", self.user);
            let hint = format!("name its file with --http-password-file FILE, or set {PASSWORD}");
            return Err(Error::new(Kind::Usage, what).hint(hint));
        }
        if self.user.contains(':') {
            let what = format!("the user {:?} has a colon", self.user);
            return Err(Error::new(Kind::Usage, what));
        }
        let password = self.password.read()?;
        let plain = Zeroizing::new(format!("{}:{}", self.user, password.reveal()));
        let line = Zeroizing::new(format!("Basic {}", STANDARD.encode(plain.as_bytes())));
        let value = HeaderValue::from_str(&line);
        let mut value = value.map_err(|_| Error::new(Kind::Usage, "use the password"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Adds `Name: value`. `place` is where it stands; what it says is not repeated.
fn add(all: &mut HeaderMap, line: &str, place: &str) -> Result<()> {
    let bad = || Error::new(Kind::Usage, format!("{place} is not \"Name: value\""));
    let (name, value) = line.split_once(':').ok_or_else(bad)?;
    let name: HeaderName = name.trim().parse().map_err(|_| bad())?;
    let mut value = HeaderValue::from_str(value.trim()).map_err(|_| bad())?;
    value.set_sensitive(true);
    all.append(name, value);
    Ok(())
}

fn read(path: &Path) -> Result<Zeroizing<String>> {
    let failed = |error| {
        let what = format!("read headers from {}", path.display());
        Error::io(what, error).with_kind(Kind::Usage)
    };
    let mut text = Zeroizing::new(String::new());
    let file = File::open(path).map_err(failed)?;
    file.take(LONGEST)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{Access, Login};
    use crate::secret::{Place, Secret};
    use std::fs;

    #[test]
    fn who_asks_comes_from_files_and_shows_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (password, headers) = (dir.path().join("p"), dir.path().join("h"));
        fs::write(&password, "open sesame\n").unwrap();
        fs::write(&headers, "# ours\n\nX-Token: s3cret\nX-Token: two\n").unwrap();
        let access = Access {
            login: Some(Login {
                user: "Aladdin".to_owned(),
                password: Place::File(password),
            }),
            header_files: vec![headers.clone()],
            header_lines: vec![Secret::new("X-More:1".to_owned())],
            ..Access::default()
        };
        let all = access.headers().unwrap();
        assert_eq!(all["authorization"], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(all.get_all("x-token").iter().count(), 2);
        assert_eq!(all["x-more"], "1");
        let shown = format!("{access:?} {all:?}");
        assert!(
            !shown.contains("s3cret") && !shown.contains("QWxh"),
            "{shown}"
        );
        fs::write(&headers, "ok: 1\ns3cret without a name\n").unwrap();
        let error = access.headers().unwrap_err().line();
        assert!(error.ends_with("line 2 is not \"Name: value\""), "{error}");
    }
}
