//! Whether a block device may be written, decided on facts before byte 0. Pure.
//!
//! [`block`](super::block) collects the facts and obeys the verdict; a refusal changes nothing.

use crate::error::{Error, Kind, Result};

/// What was found out about a block device.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// How the user named it.
    pub name: String,
    /// Whether it is a block device at all.
    pub is_block_device: bool,
    /// Bytes that can be written.
    pub size: u64,
    /// The kernel refuses to write to it.
    pub read_only: bool,
    /// The exclusive open was refused.
    pub busy: bool,
    /// Who is known to use it, in words: "mounted on /mnt".
    pub users: Vec<String>,
    /// What is on it, in words: "an ext file system".
    pub signature: Option<&'static str>,
}

/// What the caller wants and allows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Intent {
    /// Bytes that will be written.
    pub source_size: Option<u64>,
    /// The user allows that what is on the device is lost.
    pub overwrite: bool,
    /// A journal shows that what is on the device was written by us.
    pub resuming: bool,
}

/// What to do where something is in the way.
pub(super) const LOSE: &str = "--overwrite, or `overwrite: true` in a plan, if it may be lost";

/// Says yes, or no with the reason and what to do.
///
/// # Errors
/// [`Kind::Refused`] always.
pub fn decide(facts: &Facts, intent: Intent) -> Result<()> {
    let Facts { name, size, .. } = facts;
    let refuse = |why: String| Err(Error::new(Kind::Refused, why));
    let advise = |why: String, hint| Err(Error::new(Kind::Refused, why).hint(hint));
    if !facts.is_block_device {
        return refuse(format!("{name} is not a block device"));
    }
    if facts.read_only {
        return refuse(format!("{name} is read-only"));
    }
    if !facts.users.is_empty() {
        return refuse(format!("{name} is in use: {}", facts.users.join(", ")));
    }
    if facts.busy {
        return advise(
            format!("{name} is in use: the exclusive open failed"),
            "another program, or a mount that is not visible from here, holds it",
        );
    }
    if let Some(need) = intent.source_size.filter(|need| need > size) {
        return refuse(format!(
            "{name} is too small: it has {size} bytes and the source has {need}"
        ));
    }
    match facts.signature {
        Some(found) if !intent.overwrite && !intent.resuming => {
            advise(format!("{name} holds {found}"), LOSE)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Facts, Intent, decide};
    use crate::error::Kind;

    fn good() -> Facts {
        Facts {
            name: "/dev/sdx".into(),
            is_block_device: true,
            size: 1000,
            ..Facts::default()
        }
    }

    #[test]
    fn every_reason_to_refuse_is_named() {
        let with = |change: fn(&mut Facts)| {
            let mut facts = good();
            change(&mut facts);
            facts
        };
        let table = [
            (with(|f| f.is_block_device = false), "not a block device"),
            (with(|f| f.read_only = true), "read-only"),
            (with(|f| f.busy = true), "exclusive open"),
            (
                with(|f| f.users = vec!["mounted on /mnt".into()]),
                "mounted on /mnt",
            ),
            (
                with(|f| f.size = 999),
                "has 999 bytes and the source has 1000",
            ),
            (
                with(|f| f.signature = Some("swap space")),
                "holds swap space",
            ),
        ];
        let intent = Intent {
            source_size: Some(1000),
            ..Intent::default()
        };
        for (facts, reason) in table {
            let error = decide(&facts, intent).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused);
            assert!(error.line().contains(reason), "{}", error.line());
            assert!(error.line().contains("/dev/sdx"));
        }
    }

    #[test]
    fn an_equal_or_larger_blank_device_passes() {
        for source_size in [None, Some(1000), Some(1)] {
            let intent = Intent {
                source_size,
                ..Intent::default()
            };
            assert!(decide(&good(), intent).is_ok());
        }
    }

    #[test]
    fn a_signature_passes_if_it_may_be_lost_or_is_ours_and_excuses_nothing_else() {
        let signed = Facts {
            signature: Some("swap space"),
            ..good()
        };
        for intent in [
            Intent {
                overwrite: true,
                ..Intent::default()
            },
            Intent {
                resuming: true,
                ..Intent::default()
            },
        ] {
            assert!(decide(&signed, intent).is_ok());
            let busy = Facts {
                busy: true,
                ..signed.clone()
            };
            assert!(decide(&busy, intent).is_err());
        }
    }
}
