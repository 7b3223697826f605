//! A file, and the parents that it is a difference to.
//!
//! VirtualBox calls a difference `{UUID}.vdi`, and its parents are beside it or, the first of all, in
//! the directory above. They are told by the UUID in their headers, and must be as they were when the
//! difference was made (`uuidParentModify`).

use super::header::{self, Disk, Fault, Parent, uuid};
use super::{VdiImage, layout};
use crate::error::{Error, Result};
use crate::extent::ByteRange;
use crate::format::{Opener, Pages, Referenced, Storage, read_range};
use std::sync::Arc;

/// Opens the image on `storage`.
pub(super) async fn image(storage: Arc<dyn Storage>, opener: &Opener) -> Result<VdiImage> {
    let disk = checked(&storage).await?;
    let parent = match &disk.parent {
        None => None,
        Some(parent) => {
            let found = find(&storage, parent, opener).await?;
            let opener = found.opener.entered(found.storage.as_ref());
            Some(Box::new(Box::pin(image(found.storage, &opener)).await?))
        }
    };
    let pages = Pages::new(storage);
    Ok(VdiImage {
        pages,
        disk,
        parent,
    })
}

async fn checked(storage: &Arc<dyn Storage>) -> Result<Disk> {
    let len = u64::try_from(size_of::<layout::Header>()).unwrap_or(0);
    let head = ByteRange::new(0, len);
    let bytes = read_range(storage.as_ref(), "header", head).await?;
    header::header(&bytes, storage.size()).map_err(|fault| failed(storage, fault))
}

/// The parent of the image on `storage`, among the files beside it.
async fn find(storage: &Arc<dyn Storage>, wanted: &Parent, opener: &Opener) -> Result<Referenced> {
    let parent = uuid(&wanted.id);
    let (mut found, mut changed): (Option<Referenced>, Option<String>) = (None, None);
    for name in opener.siblings(".vdi").await? {
        // Part of this chain already, not to be opened, or no VDI: then it is not the parent.
        let Ok(sibling) = opener.file(&name).await else {
            continue;
        };
        let Ok(disk) = checked(&sibling.storage).await else {
            continue;
        };
        if disk.id != wanted.id {
            continue;
        }
        let file = sibling.storage.identity();
        if !wanted.is_unchanged(&disk) {
            changed = Some(file.name);
            continue;
        }
        match &found {
            // One file may be found by two names.
            Some(before) if before.storage.identity().id == file.id => {}
            Some(before) => {
                let (one, other) = (before.storage.identity().name, file.name);
                let fault = Fault::Ambiguous { parent, one, other };
                return Err(failed(storage, fault));
            }
            None => found = Some(sibling),
        }
    }
    let missing = || match changed {
        Some(file) => Fault::Changed { parent, file },
        None => Fault::Orphan { parent },
    };
    found.ok_or_else(|| failed(storage, missing()))
}

fn failed(storage: &Arc<dyn Storage>, fault: Fault) -> Error {
    fault.while_doing(format!("open {}", storage.identity()))
}
