//! What an NBD server has besides the export that is looked at.

use super::Found;
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::nbd::client::{Client, Endpoint, Timeouts, list};
use crate::nbd::export::Export;
use crate::nbd::handshake::Listing;
use crate::nbd::uri::Uri;
use serde::Serialize;
use std::time::Duration;

/// What a server is called of which no export is looked at.
pub(super) const SERVER: &str = "NBD server";

/// How long a server may take to list its exports: they are no reason to wait.
const PATIENCE: Duration = Duration::from_secs(5);

impl Found {
    /// What an NBD server has.
    pub(super) fn server_rows(&self) -> Vec<(&str, String)> {
        let mut rows = vec![
            ("address", self.address.clone()),
            ("kind", self.kind.to_owned()),
        ];
        let exports = self.exports.iter().map(|name| format!("{name:?}"));
        rows.extend(exports.map(|name| ("export", name)));
        rows.extend(self.warnings.iter().map(|text| ("warning", text.clone())));
        rows
    }
}

/// What an NBD server tells of an export.
#[derive(Debug, Serialize)]
pub(super) struct ExportFacts {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) flags: Vec<&'static str>,
    pub(super) block_size_minimum: u32,
    pub(super) block_size_preferred: u32,
    pub(super) block_size_maximum: u32,
    pub(super) contexts: Vec<String>,
}

/// The server of an export.
pub(super) struct Server {
    uri: Uri,
    listed: Result<Vec<Listing>>,
}

impl Server {
    /// Asks for its exports; `None` if `address` is not one of a server that has several.
    ///
    /// This comes before the export is opened. A server of one client at a time, such as qemu-nbd,
    /// answers nobody else while it is; and when that client has left, it may end.
    pub(super) async fn ask(address: &Address) -> Result<Option<Self>> {
        let Address::Nbd(uri) = address else {
            return Ok(None);
        };
        let uri: Uri = uri.parse()?;
        let listed = exports(&uri).await;
        Ok(Some(Self { uri, listed }))
    }

    /// All that can be told where there is no default export and none was named.
    pub(super) fn alone(&self, address: &Address) -> Option<Found> {
        let listed = self.listed.as_ref().ok()?;
        let mut names = listed.iter().map(|listing| &listing.listed.name);
        let is_alone = self.uri.export().is_empty()
            && !listed.is_empty()
            && names.all(|name| !name.is_empty());
        is_alone.then(|| Found {
            exports: names_but(listed, ""),
            warnings: vec!["it has no default export: name one".to_owned()],
            ..Found::new(address, SERVER)
        })
    }

    /// The other exports, and the contexts of the one that `client` has open.
    pub(super) async fn others(
        self,
        client: &Client,
        warnings: &mut Vec<String>,
    ) -> (Vec<String>, Vec<String>) {
        let listed = match self.listed {
            // It may have been starting.
            Err(error) if error.kind() == Kind::Transient => exports(&self.uri).await,
            listed => listed,
        };
        let name = &client.export().name;
        match listed {
            Ok(listed) => {
                let others = names_but(&listed, name);
                (others, contexts_of(listed, name))
            }
            Err(error) => {
                warnings.push(error.line());
                Default::default()
            }
        }
    }
}

async fn exports(uri: &Uri) -> Result<Vec<Listing>, Error> {
    let timeouts = Timeouts {
        connect: PATIENCE,
        ..Timeouts::default()
    };
    list(Endpoint::Uri(uri.clone()), timeouts).await
}

fn names_but(listed: &[Listing], name: &str) -> Vec<String> {
    let names = listed.iter().map(|listing| listing.listed.name.clone());
    names.filter(|other| other != name).collect()
}

fn contexts_of(listed: Vec<Listing>, name: &str) -> Vec<String> {
    let mut listed = listed.into_iter();
    let found = listed.find(|listing| listing.listed.name == name);
    let export = found.and_then(|listing| listing.export);
    export.map_or(Vec::new(), |export| export.contexts)
}

/// What `client` has open, and the contexts that were listed.
pub(super) fn export_facts(client: &Client, listed: Vec<String>) -> ExportFacts {
    let Export {
        name,
        description,
        flags,
        block_size,
        contexts,
        ..
    } = client.export();
    let mut all = listed;
    for context in contexts {
        if !all.contains(context) {
            all.push(context.clone());
        }
    }
    let flags = [
        ("read-only", flags.read_only()),
        ("flush", flags.can_flush()),
        ("fua", flags.can_fua()),
        ("trim", flags.can_trim()),
        ("write-zeroes", flags.can_zero()),
        ("fast-zero", flags.can_fast_zero()),
        ("df", flags.can_df()),
        ("multi-conn", flags.can_multi_conn()),
    ];
    ExportFacts {
        name: name.clone(),
        description: description.clone(),
        flags: flags
            .into_iter()
            .filter_map(|(flag, set)| set.then_some(flag))
            .collect(),
        block_size_minimum: block_size.minimum,
        block_size_preferred: block_size.preferred,
        block_size_maximum: block_size.maximum,
        contexts: all,
    }
}

/// The baselines that the contexts of an export are.
pub(super) fn trackers(export: &ExportFacts) -> Vec<String> {
    let bitmaps = export
        .contexts
        .iter()
        .filter_map(|context| context.strip_prefix("qemu:dirty-bitmap:"));
    bitmaps.map(|name| format!("nbd-bitmap:{name}")).collect()
}
