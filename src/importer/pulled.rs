//! A disk in a container image: what is asked of the registry, and what is told of the image. Pure but
//! for one call.

use super::image::Image;
use crate::error::Result;
use crate::http::trust::Trust;
use crate::source::registry::{Asking, ContainerImage, pull};
use std::collections::BTreeMap;
use std::time::Duration;

/// In the names of variables that become labels.
const MARK: &str = "_KUBEVIRT_IO_";

/// The architecture of this machine, as images call it.
#[cfg(target_arch = "aarch64")]
const HERE: &str = "arm64";
#[cfg(not(target_arch = "aarch64"))]
const HERE: &str = "amd64";

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
        architecture: image
            .architecture
            .clone()
            .unwrap_or_else(|| HERE.to_owned()),
    };
    pull(&image.endpoint, &asking).await
}

/// What the image says of the disk for the controller: `INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=x`
/// is the label `instancetype.kubevirt.io/default-preference`.
pub(super) fn labels(environment: &[String]) -> Option<BTreeMap<String, String>> {
    let label = |pair: &String| {
        let (name, value) = pair.split_once('=')?;
        let (before, after) = name.split_once(MARK)?;
        let before = before.to_lowercase().replace('_', ".");
        let after = after.to_lowercase().replace('_', "-");
        Some((format!("{before}.kubevirt.io/{after}"), value.to_owned()))
    };
    let found: BTreeMap<String, String> = environment.iter().filter_map(label).collect();
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::labels;

    #[test]
    fn variables_of_kubevirt_are_labels_and_others_are_not() {
        let env = [
            "PATH=/bin",
            "INSTANCETYPE_KUBEVIRT_IO_DEFAULT_INSTANCETYPE=u1.small",
            "INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=a=b",
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
                (&*format!("{prefix}preference"), "a=b"),
            ]
        );
        assert_eq!(labels(&["PATH=/bin".to_owned()]), None);
    }
}
