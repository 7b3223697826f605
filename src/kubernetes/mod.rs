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
//! host. All pods of an Indexed Job have the same volumes, and Kubernetes has no claim templates for
//! Jobs, so there the disks are files of one shared volume.
//!
//! How many VMs of a host are migrated at once is the parallelism of its Indexed Job. For Jobs by
//! themselves it is a quota of pods that have the priority class of that host: what is above it is
//! not made, and Kubernetes tries again.

mod names;
mod objects;
mod pod;
mod wish;

pub use wish::{Migration, Wish};

use crate::error::{Error, Kind, Result};
use objects::{claims, class, indexed_job, job, plan_map, quota, state_claim};
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
    if let Some(most) = wish.per_host {
        let classes = migrations.iter().map(Migration::class);
        let classes: BTreeSet<String> = classes.collect::<Result<_>>()?;
        for name in &classes {
            objects.push(class(name));
            objects.push(quota(name, most, wish));
        }
    }
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

/// One Indexed Job for the VMs of each host.
fn indexed(migrations: &[Migration], wish: &Wish) -> Result<Vec<Value>> {
    let mut by_host: BTreeMap<String, Vec<&Migration>> = BTreeMap::new();
    for migration in migrations {
        by_host
            .entry(migration.group()?)
            .or_default()
            .push(migration);
    }
    let mut objects = Vec::new();
    for (name, of_host) in &by_host {
        let plans = of_host.iter().enumerate();
        let plans = plans
            .map(|(index, migration)| (format!("{index}.yaml"), migration.plan.text.clone()))
            .collect();
        objects.push(plan_map(name, wish, &plans));
        objects.push(indexed_job(name, of_host, wish)?);
    }
    Ok(objects)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
