//! The plan file as YAML draws it: names and shapes, nothing is made sense of here.

use crate::changes::guest::Shutdown;
use crate::error::{Error, Kind, Result};
use crate::migrate::phase::Prove;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    pub(super) vm: String,
    /// One entry: the kind of guest, and what that kind wants to know.
    pub(super) guest: Map<String, Value>,
    pub(super) disks: Vec<Disk>,
    pub(super) precopy_interval: Option<String>,
    pub(super) cutover: Option<Cutover>,
    pub(super) shutdown: Option<Quiesce>,
    #[serde(default)]
    pub(super) limits: Limits,
    pub(super) prove: Option<Prove>,
    #[serde(default)]
    pub(super) hooks: Hooks,
    pub(super) workers: Option<u32>,
    pub(super) metrics: Option<String>,
    #[serde(default)]
    pub(super) overwrite: bool,
    #[serde(default)]
    pub(super) allow_sector_mismatch: bool,
    pub(super) digest: Option<String>,
    pub(super) retry: Option<String>,
    pub(super) distrust_tracking: Option<Percent>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Disk {
    pub(super) name: String,
    pub(super) source: String,
    pub(super) target: Words,
    pub(super) tracker: Option<String>,
}

/// An address: one word, or the words of a server that is started.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Words {
    One(String),
    Many(Vec<String>),
}

/// A number with or without a unit.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Text {
    Number(u64),
    Word(String),
}

/// A percentage, with or without its sign.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Percent {
    Number(f64),
    Word(String),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Cutover {
    Word(String),
    Condition(Condition),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Condition {
    pub(super) at: Option<String>,
    pub(super) when: Option<When>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct When {
    pub(super) downtime_below: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Quiesce {
    pub(super) how: Option<Shutdown>,
    pub(super) timeout: Option<String>,
    pub(super) otherwise: Option<Shutdown>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Limits {
    pub(super) memory: Option<Text>,
    pub(super) connections: Option<u32>,
    pub(super) connections_per_host: Option<u32>,
    pub(super) requests: Option<u32>,
    pub(super) rate: Option<Text>,
    pub(super) rate_per_host: Option<Text>,
    pub(super) windows: Vec<Window>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Window {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) rate: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Hooks {
    pub(super) before_snapshot: Option<Command>,
    pub(super) after_snapshot: Option<Command>,
    pub(super) before_cutover: Option<Command>,
    pub(super) after_cutover: Option<Command>,
    pub(super) done: Option<Command>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Command {
    pub(super) command: Vec<String>,
    pub(super) timeout: Option<String>,
}

/// YAML → shapes.
///
/// # Errors
/// `Usage`: it is no YAML, or not of this shape; with line and column.
pub(super) fn parse(text: &str) -> Result<File> {
    serde_saphyr::from_str(text).map_err(|error| {
        let message = error.without_snippet().to_string();
        let message = message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        Error::new(Kind::Usage, message).hint("docs/plan.md has every key")
    })
}
