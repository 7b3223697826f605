//! Kubernetes objects for plans: who runs a migration where, in which order and how many at once is
//! Kubernetes' business, so all that is made here is text for `kubectl apply`. Pure.
//!
//! ```text
//!  wish.rs      what a user asks for, and what a plan needs of its pod
//!  names.rs     names that Kubernetes takes
//!  pod.rs       the pod that runs one migration, by the "restricted" level of Pod Security
//!  objects.rs   Jobs, claims and ConfigMaps
//! ```
//!
//! A Job for each VM, its disks block volumes; or, with `indexed`, one Indexed Job for all VMs of a
//! server, as many at once as is asked for. All pods of an Indexed Job have the same volumes, so
//! there the disks are files of one shared volume.

mod names;
mod objects;
mod pod;
mod wish;

pub use wish::{Migration, Wish};

use crate::error::{Error, Kind, Result};
use objects::{claims, indexed_job, job, plan_map, state_claim};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The objects for `migrations`, as YAML documents in the order in which they are applied.
///
/// # Errors
/// Something in a plan cannot be had in a pod; the line says what.
pub fn render(migrations: &[Migration], wish: &Wish) -> Result<String> {
    check_names(migrations)?;
    let objects = match wish.indexed {
        true => indexed(migrations, wish)?,
        false => each(migrations, wish)?,
    };
    let mut text = String::new();
    for object in &objects {
        let document = serde_saphyr::to_string(object)
            .map_err(|error| Error::new(Kind::Io, "write YAML").because(error))?;
        text.push_str("---\n");
        text.push_str(&document);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}

/// Two VMs under one name would replace each other; two disks on one claim would destroy each other.
fn check_names(migrations: &[Migration]) -> Result<()> {
    let (mut names, mut claims) = (BTreeSet::new(), BTreeMap::new());
    for migration in migrations {
        if !names.insert(migration.name()) {
            let what = format!("two VMs would be called {}", migration.name());
            return Err(Error::new(Kind::Usage, what).hint("the names of VMs must differ"));
        }
        for (claim, what) in migration.claims()? {
            if let Some(other) = claims.insert(claim.clone(), what.clone()) {
                let what = format!("{other} and {what} would both be on the claim {claim}");
                return Err(Error::new(Kind::Usage, what).hint("give one of them another name"));
            }
        }
    }
    Ok(())
}

/// A Job for each VM.
fn each(migrations: &[Migration], wish: &Wish) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for migration in migrations {
        let name = migration.name();
        let text = (String::from("plan.yaml"), migration.plan.text.clone());
        objects.push(plan_map(&name, wish, &BTreeMap::from([text])));
        if wish.storage_class.is_some() {
            objects.extend(claims(migration, wish)?);
            objects.push(state_claim(migration, wish));
        }
        objects.push(job(migration, wish)?);
    }
    Ok(objects)
}

/// One Indexed Job for the VMs of each server.
fn indexed(migrations: &[Migration], wish: &Wish) -> Result<Vec<Value>> {
    let mut by_server: BTreeMap<String, Vec<&Migration>> = BTreeMap::new();
    for migration in migrations {
        let server = migration.needs()?.server;
        by_server.entry(server).or_default().push(migration);
    }
    let mut objects = Vec::new();
    for (server, of_server) in &by_server {
        let name = names::name(server.strip_suffix(":443").unwrap_or(server));
        let plans = of_server.iter().enumerate();
        let plans = plans
            .map(|(index, migration)| (format!("{index}.yaml"), migration.plan.text.clone()))
            .collect();
        objects.push(plan_map(&name, wish, &plans));
        objects.push(indexed_job(&name, of_server, wish)?);
    }
    Ok(objects)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
