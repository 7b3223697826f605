//! What is left in the termination message. Pure.
//!
//! On success one JSON object, byte for byte as Go's encoder writes the original's
//! `common.TerminationMessage`; on failure one line of text, never JSON.

use crate::error::Error;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;

/// Bytes that Kubernetes keeps of a message.
const LONGEST: usize = 4096;

/// A success, as the controller parses it.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Message {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scratch_space_required: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) preallocation_applied: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vddk_info: Option<VddkInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
}

/// Who served the disk. The capitals are the original's.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(super) struct VddkInfo {
    #[serde(rename = "Version")]
    pub(super) version: String,
    #[serde(rename = "Host")]
    pub(super) host: String,
}

impl Message {
    /// An import that is complete.
    pub(super) fn complete(preallocated: bool) -> Self {
        Self {
            preallocation_applied: Some(preallocated),
            message: Some("Import Complete".to_owned()),
            ..Self::default()
        }
    }

    /// The object, with what Go's encoder escapes for the sake of browsers.
    pub(super) fn text(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_default();
        let mut text = String::with_capacity(json.len());
        for c in json.chars() {
            match c {
                '<' => text.push_str("\\u003c"),
                '>' => text.push_str("\\u003e"),
                '&' => text.push_str("\\u0026"),
                c => text.push(c),
            }
        }
        text
    }
}

/// A failure in one line: the controller looks for the words of errors in small letters.
pub(super) fn failure(doing: &str, error: &Error) -> String {
    let mut line = error.line();
    if let Some(code) = error.errno() {
        let told = io::Error::from_raw_os_error(code).to_string();
        let words = told.split(" (os error").next().unwrap_or_default();
        line = line.replace(words, &small(words));
    }
    format!("{doing}: {line}")
}

/// The first letter made small.
fn small(words: &str) -> String {
    let mut chars = words.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// As much of a line as Kubernetes keeps.
pub(super) fn cut(line: &str) -> String {
    let mut end = line.len().min(LONGEST);
    while !line.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let kept = line.get(..end).unwrap_or_default();
    kept.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::{Message, VddkInfo, cut, failure};
    use crate::error::{Error, Kind};
    use std::io;

    #[test]
    fn a_success_is_byte_for_byte_what_the_controller_knows() {
        let vddk = Message {
            scratch_space_required: Some(false),
            vddk_info: Some(VddkInfo {
                version: "8.0.2".to_owned(),
                host: "esx1.example".to_owned(),
            }),
            ..Message::complete(false)
        };
        assert_eq!(
            vddk.text(),
            r#"{"scratchSpaceRequired":false,"preallocationApplied":false,"vddkInfo":{"Version":"8.0.2","Host":"esx1.example"},"message":"Import Complete"}"#
        );
        assert_eq!(
            Message::complete(true).text(),
            r#"{"preallocationApplied":true,"message":"Import Complete"}"#
        );
        let odd = Message {
            message: Some("a<b>&\"c\"".to_owned()),
            ..Message::default()
        };
        assert_eq!(odd.text(), r#"{"message":"a\u003cb\u003e\u0026\"c\""}"#);
    }

    #[test]
    fn the_words_that_the_controller_looks_for_are_in_small_letters() {
        for (code, words) in [
            (28, "no space left on device"),
            (122, "disk quota exceeded"),
        ] {
            let error = Error::io("write /data/disk.img", io::Error::from_raw_os_error(code));
            let line = failure("Unable to process data", &error.context("copy"));
            assert!(line.contains(words), "{line}");
            assert!(line.starts_with("Unable to process data: copy: "), "{line}");
        }
        let other = failure("Doing", &Error::new(Kind::Io, "No such luck"));
        assert_eq!(other, "Doing: No such luck");
    }

    #[test]
    fn a_message_is_one_line_that_kubernetes_keeps_whole() {
        assert_eq!(cut("a\nb"), "a b");
        let long = "é".repeat(5000);
        assert_eq!(cut(&long).len(), 4096);
    }
}
