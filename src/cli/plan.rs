//! `diskferry plan jobs`: plans → objects of Kubernetes.

use super::Command;
use super::output::{self, Output};
use crate::error::{Error, Kind, Result};
use crate::kubernetes::{Migration, Wish, render};
use crate::migrate::plan::Plan as MigrationPlan;
use crate::migrate::preview::{host, sizes};
use clap::{Args, Subcommand, value_parser};
use std::fs;
use std::path::{Path, PathBuf};

/// Print what others need to carry out plans
#[derive(Args, Clone, Debug)]
pub(super) struct Plan {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    Jobs(Jobs),
}

/// Print the Kubernetes Jobs that migrate the VMs of plans (docs/kubernetes.md)
///
/// A Job for each VM, its disks block volumes, and with --per-host a quota of pods for each host; or
/// with --indexed one Indexed Job for all VMs of a host. For `kubectl apply -f -`.
#[derive(Args, Clone, Debug)]
struct Jobs {
    /// Plans (docs/plan.md); one file may hold several, divided by lines of ---
    #[arg(required = true)]
    plans: Vec<PathBuf>,

    /// The image with diskferry in it
    #[arg(long, value_name = "IMAGE")]
    image: String,

    /// The image that brings VMware's VDDK, as CDI has it
    #[arg(long, value_name = "IMAGE")]
    vddk_image: Option<String>,

    /// The Secret that holds the files and variables that the plans name
    #[arg(long, value_name = "NAME", default_value = "vcenter")]
    secret: String,

    /// The claim of a shared file system that targets are files on
    #[arg(long, value_name = "CLAIM")]
    files: Option<String>,

    /// Print claims too, of this storage class; the VMs are asked how large their disks are
    #[arg(long, value_name = "CLASS", conflicts_with = "indexed")]
    storage_class: Option<String>,

    /// The namespace of all of it; by default kubectl's
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    /// One Indexed Job for all VMs of a host, instead of a Job for each VM
    #[arg(long)]
    indexed: bool,

    /// VMs of one server that are migrated at once; with --indexed 2, else all of them by default
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    per_host: Option<u32>,

    /// Count by the ESXi hosts that the VMs are on now, which are asked for, not by the servers of
    /// the plans
    #[arg(long, requires = "per_host")]
    ask_hosts: bool,
}

impl Command for Plan {
    const NAME: &'static str = "plan";

    async fn run(self, _output: Output) -> Result<()> {
        let What::Jobs(jobs) = self.what;
        let mut migrations = Vec::new();
        for path in &jobs.plans {
            for plan in read(path)? {
                let sizes = match &jobs.storage_class {
                    Some(_) => sizes(&plan).await?,
                    None => Vec::new(),
                };
                let host = match jobs.ask_hosts {
                    true => Some(host(&plan).await?),
                    false => None,
                };
                migrations.push(Migration { plan, sizes, host });
            }
        }
        output::print(&render(&migrations, &jobs.wish())?)
    }
}

impl Jobs {
    fn wish(self) -> Wish {
        Wish {
            image: self.image,
            vddk_image: self.vddk_image,
            secret: self.secret,
            files: self.files,
            storage_class: self.storage_class,
            namespace: self.namespace,
            indexed: self.indexed,
            per_host: self.per_host,
        }
    }
}

/// The plans of a file.
fn read(path: &Path) -> Result<Vec<MigrationPlan>> {
    let name = || format!("read plan {}", path.display());
    let text = fs::read_to_string(path).map_err(|error| Error::io(name(), error))?;
    let mut plans = Vec::new();
    for (number, document) in (1u32..).zip(documents(&text)) {
        let plan = MigrationPlan::parse(&document);
        plans.push(plan.map_err(|error| error.context(format!("{}, document {number}", name())))?);
    }
    match plans.is_empty() {
        true => Err(Error::new(Kind::Usage, name()).because("there is no plan in it")),
        false => Ok(plans),
    }
}

/// The YAML documents of a text that hold anything but comments.
fn documents(text: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for line in text.lines() {
        match (line.trim_end(), all.last_mut()) {
            ("---", _) => all.push(String::new()),
            (line, Some(last)) => {
                last.push_str(line);
                last.push('\n');
            }
            (_, None) => {}
        }
    }
    let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    all.retain(|document| document.lines().any(says));
    all
}

#[cfg(test)]
mod tests {
    use super::documents;

    #[test]
    fn a_file_holds_as_many_plans_as_documents_that_say_something() {
        assert_eq!(documents("a: 1\n"), ["a: 1\n"]);
        assert_eq!(
            documents("# x\n---\na: 1\n---\n\n---\nb: 2"),
            ["a: 1\n", "b: 2\n"]
        );
        assert!(documents("# nothing\n").is_empty());
    }
}
