//! What an image says of itself, for people and for scripts.

use serde::{Serialize, Serializer};
use serde_json::Value;

/// What an image says of itself. Serializes to what `inspect --json` prints.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Facts {
    /// Name of the format.
    pub format: &'static str,
    /// Name of the file.
    pub file: String,
    /// Size of the guest's disk in bytes.
    pub virtual_size: u64,
    /// Unit of allocation in bytes: cluster, grain or block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// What only this format has, by name, in the order in which it is shown.
    #[serde(serialize_with = "as_map")]
    pub details: Vec<(&'static str, Value)>,
    /// What a user should know before this disk is moved.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The image that this one is a difference to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing: Option<Box<Facts>>,
}

impl Facts {
    /// Adds a detail, unless there is nothing to tell.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() {
            self.details.push((name, value));
        }
        self
    }

    /// A detail as people read it.
    #[must_use]
    pub fn shown(value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Object(fields) => {
                let fields = fields.iter();
                let all = fields.map(|(name, value)| format!("{name} {}", Self::shown(value)));
                all.collect::<Vec<_>>().join(" ")
            }
            Value::Array(items) => items.iter().map(Self::shown).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        }
    }
}

fn as_map<S: Serializer>(details: &[(&'static str, Value)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(details.iter().map(|(name, value)| (name, value)))
}
