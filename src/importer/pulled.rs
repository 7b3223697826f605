//! A disk in a container image: what is asked of the registry, and what is told of the image. Pure but
//! for one call, and a line in the log.

use super::image::Image;
use super::log;
use crate::error::Result;
use crate::http::trust::Trust;
use crate::source::registry::{Asking, ContainerImage, pull};
use std::collections::BTreeMap;
use std::time::Duration;

/// In the names of variables that become labels.
const MARK: &str = "_KUBEVIRT_IO_";

/// Bytes that all labels may take of a message of 4096.
const LABELS: usize = 3072;

/// Finds the image.
///
/// # Errors
/// As for [`pull`].
pub(super) async fn find(
    image: &Image,
    trust: Trust,
    patience: Duration,
) -> Result<ContainerImage> {
    let asking = Asking {
        login: image.login.clone(),
        trust,
        plain: image.insecure,
        patience,
        architecture: image.architecture.clone(),
    };
    pull(&image.endpoint, &asking).await
}

/// What the image says of the disk for the controller: `INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=x`
/// is the label `instancetype.kubevirt.io/default-preference`. What Kubernetes would refuse as a label,
/// and all that comes with it, or what there is no room for, is left out.
pub(super) fn labels(environment: &[String]) -> Option<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut taken = 0usize;
    for (prefix, name, value) in environment.iter().filter_map(|pair| named(pair)) {
        let is_label = is_prefix(&prefix) && is_word(&name) && (value.is_empty() || is_word(value));
        let label = format!("{prefix}/{name}");
        // With the quotes, the colon and the comma.
        let size = label.len().saturating_add(value.len()).saturating_add(6);
        if !is_label || taken.saturating_add(size) > LABELS {
            log(&format!("the image's label {label:.80} is left out"));
            continue;
        }
        taken = taken.saturating_add(size);
        found.insert(label, value.to_owned());
    }
    (!found.is_empty()).then_some(found)
}

/// The prefix, the name and the value of the label that a variable stands for, if it stands for one.
fn named(pair: &str) -> Option<(String, String, &str)> {
    let (name, value) = pair.split_once('=')?;
    let (before, after) = name.split_once(MARK)?;
    let before = before.to_lowercase().replace('_', ".");
    let after = after.to_lowercase().replace('_', "-");
    Some((format!("{before}.kubevirt.io"), after, value))
}

/// Whether `text` is what Kubernetes takes as the name of a label, or as its value.
fn is_word(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    bytes.len() <= 63 && is_end(bytes.first()) && is_end(bytes.last()) && bytes.iter().all(inside)
}

/// Whether `text` may stand before the name of a label: a domain.
fn is_prefix(text: &str) -> bool {
    let is_part = |part: &str| is_word(part) && !part.contains(['_', '.']);
    text.len() <= 253 && text.split('.').all(is_part) && !text.contains(char::is_uppercase)
}

#[cfg(test)]
mod tests {
    use super::super::message::Message;
    use super::labels;

    #[test]
    fn variables_of_kubevirt_are_labels_and_others_are_not() {
        let env = [
            "PATH=/bin",
            "INSTANCETYPE_KUBEVIRT_IO_DEFAULT_INSTANCETYPE=u1.small",
            "INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=rhel.9",
            "KUBEVIRT_IO=x",
        ];
        let found = labels(&env.map(str::to_owned)).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        let prefix = "instancetype.kubevirt.io/default-";
        assert_eq!(
            found,
            [
                (&*format!("{prefix}instancetype"), "u1.small"),
                (&*format!("{prefix}preference"), "rhel.9"),
            ]
        );
        assert_eq!(labels(&["PATH=/bin".to_owned()]), None);
    }

    #[test]
    fn what_kubernetes_would_refuse_and_what_there_is_no_room_for_is_left_out() {
        let long = "x".repeat(64);
        for pair in [
            "A_KUBEVIRT_IO_B=a=b",
            "A_KUBEVIRT_IO_B=-a",
            "A_KUBEVIRT_IO_B=a b",
            &format!("A_KUBEVIRT_IO_B={long}"),
            &format!("A_KUBEVIRT_IO_{long}=x"),
            &format!("{long}_KUBEVIRT_IO_B=x"),
            "A__B_KUBEVIRT_IO_B=x",
            "_KUBEVIRT_IO_B=x",
            "A_KUBEVIRT_IO_=x",
        ] {
            assert_eq!(labels(&[pair.to_owned()]), None, "{pair}");
        }
        assert_eq!(labels(&["A_KUBEVIRT_IO_B=".to_owned()]).unwrap().len(), 1);
        let many = (0..500).map(|n| format!("A_KUBEVIRT_IO_B{n}={}", &long[1..]));
        let many: Vec<String> = many.collect();
        let message = Message {
            labels: labels(&many),
            ..Message::complete(true)
        };
        assert!((2000..4096).contains(&message.text().len()));
    }
}
