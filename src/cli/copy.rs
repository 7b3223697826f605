//! `diskferry copy`: one disk, one pass.

use super::making::MakingOptions;
use super::open::ImageOptions;
use super::output::Output;
use super::speed::Speed;
use super::{Command, stop, words};
use crate::address::Address;
use crate::digest::Algorithm;
use crate::digest::checksum::Checksum;
use crate::error::{Error, Kind, Result};
use crate::job::certificate::{self, Certificate};
use crate::job::options::{Baseline, CopyOptions, JournalPlace, Pass, Reading, Zeroes};
use crate::job::{self, Context};
use clap::{ArgAction, Args};
use std::path::{Path, PathBuf};

/// Copy a disk: all of it, or what changed since a baseline
///
/// Exit code 0 means that the target is complete and durable. After any failure or interruption
/// the same command continues where the last barrier was.
#[derive(Args, Clone, Debug)]
pub(super) struct Copy {
    /// Where the disk is: a path, an NBD URI, an http:// or https:// URL, -, or [ CMD ARGS ]
    #[arg(value_parser = words::address)]
    source: Address,

    /// Where it goes: a path, an NBD URI, -, null:, or [ CMD ARGS ]
    #[arg(value_parser = words::address)]
    target: Address,

    #[command(flatten)]
    image: ImageOptions,

    #[command(flatten)]
    making: MakingOptions,

    #[command(flatten)]
    pass: PassOptions,

    #[command(flatten)]
    journal: JournalOptions,

    /// When the pass is complete, write a certificate of what the target holds to this file
    #[arg(long, value_name = "FILE", conflicts_with = "no_journal")]
    certificate: Option<PathBuf>,

    #[command(flatten)]
    zeroes: ZeroOptions,

    #[command(flatten)]
    speed: Speed,
}

/// Which part of the disk, and its proof.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Pass and proof")]
struct PassOptions {
    /// Copy only what changed since this baseline: nbd-bitmap:NAME; or digest, which reads the
    /// source and writes what differs from what was copied before
    #[arg(long, value_name = "BASELINE", value_parser = words::baseline)]
    changes_since: Option<Baseline>,

    /// The target holds an older copy that somebody else made: a delta may be the first pass
    #[arg(long)]
    adopt: bool,

    /// Read this share of what the tracker calls unchanged and compare it; if it left out a change,
    /// read and compare all of the disk
    #[arg(long, value_name = "PERCENT", value_parser = words::ppm)]
    distrust_tracking: Option<u32>,

    /// The source is quiet and this is the last pass: read the target back and prove it
    #[arg(long = "final")]
    is_final: bool,

    /// Read the target back at the end and compare every block with its digest
    #[arg(long, overrides_with = "no_verify")]
    verify: bool,

    /// Do not read the target back, not even after the final pass
    #[arg(long)]
    no_verify: bool,

    /// How blocks are digested
    #[arg(long, value_name = "NAME", default_value = "xxh3", value_parser = words::digest())]
    digest: Algorithm,

    /// What the bytes of the source itself, as they are stored, must add up to: sha256:HEX, sha512:,
    /// sha1: or md5:; the copy is complete only if they do
    #[arg(long, value_name = "SUM")]
    source_checksum: Option<Checksum>,

    /// Write over a target that holds something else
    #[arg(long)]
    overwrite: bool,

    /// Copy a partition table onto a device whose sectors have another size than it counts in
    #[arg(long)]
    allow_sector_mismatch: bool,
}

/// The record of what is done.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Journal")]
struct JournalOptions {
    /// Where the journal is; beside a file target, else under the user's state directory; a stream
    /// has none, and a server that is started for the copy only one that is named here
    #[arg(long, value_name = "PATH", conflicts_with = "no_journal")]
    journal: Option<PathBuf>,

    /// Keep the journal in memory: nothing can be resumed
    #[arg(long)]
    no_journal: bool,

    /// Forget what an earlier run did and begin again
    #[arg(long)]
    restart: bool,
}

/// What is done about zeroes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Zeroes")]
struct ZeroOptions {
    /// Do not write zeroes found in data, in units of this size; 0 does not look for them
    #[arg(short = 'S', long, value_name = "SIZE", default_value = "4096", value_parser = words::sparse)]
    sparse: u32,

    /// Keep zeroed space allocated on the target, and do not look for zeroes in data
    #[arg(long)]
    allocated: bool,

    /// The target reads as zero already, promised by you
    #[arg(long, alias = "target-is-zero")]
    destination_is_zero: bool,

    /// Do not ask the source what is zero: read everything
    #[arg(long)]
    no_extents: bool,

    /// Accepted for nbdcopy's sake: the target is always flushed
    #[arg(long, action = ArgAction::SetTrue)]
    flush: bool,
}

impl Copy {
    /// The options as the engine takes them.
    fn options(self, output: &Output) -> Result<CopyOptions> {
        if self.source == Address::Null {
            return Err(Error::new(Kind::Usage, "null: can only be copied to"));
        }
        if output.json() && self.target == Address::Stdio {
            let error = Error::new(
                Kind::Usage,
                "--json and the target - both want standard output",
            );
            return Err(error.hint("copy to a named pipe"));
        }
        Ok(CopyOptions {
            source: self.source,
            reading: Reading {
                checksum: self.pass.source_checksum,
                ..self.image.reading()
            },
            target: self.target,
            making: self.making.making()?,
            pass: Pass {
                changes_since: self.pass.changes_since,
                is_final: self.pass.is_final,
            },
            journal: place(self.journal.journal, self.journal.no_journal),
            restart: self.journal.restart,
            overwrite: self.pass.overwrite,
            adopt: self.pass.adopt,
            allow_sector_mismatch: self.pass.allow_sector_mismatch,
            verify: match (self.pass.verify, self.pass.no_verify) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            },
            distrust_ppm: self.pass.distrust_tracking.unwrap_or(0),
            digest: self.pass.digest,
            tuning: self.speed.tuning(),
            zeroes: Zeroes {
                sparse: if self.zeroes.allocated {
                    0
                } else {
                    self.zeroes.sparse
                },
                allocated: self.zeroes.allocated,
                target_is_zero: self.zeroes.destination_is_zero,
                extents: !self.zeroes.no_extents,
            },
        })
    }
}

/// Where a journal is: at `path`, nowhere, or where it belongs.
pub(super) fn place(path: Option<PathBuf>, nowhere: bool) -> JournalPlace {
    match path {
        Some(path) => JournalPlace::Path(path),
        None if nowhere => JournalPlace::None,
        None => JournalPlace::Default,
    }
}

fn certify(options: &CopyOptions, path: &Path) -> Result<()> {
    let name = options.source.to_string();
    let disk = certificate::certify(&name, &options.target, &options.journal)?;
    Certificate::new(None, None, vec![disk]).write(path)
}

impl Command for Copy {
    const NAME: &'static str = "copy";

    async fn run(self, output: Output) -> Result<()> {
        let certificate = self.certificate.clone();
        let options = self.options(&output)?;
        if certificate.is_some() && !job::is_journaled(&options.target, &options.journal) {
            let what = format!(
                "a certificate is made of a journal, and {} has none",
                options.target
            );
            return Err(Error::new(Kind::Usage, what).hint("name one with --journal PATH"));
        }
        let context = Context::new(output.reporter(), stop::on_signals()?);
        job::copy(&options, context).await?;
        match certificate {
            Some(path) => certify(&options, &path),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Copy, Output};
    use crate::address::Address;
    use crate::cli::words::fold_brackets;
    use crate::digest::Algorithm;
    use crate::error::{Kind, Result};
    use crate::job::options::{
        Baseline, Compression, CopyOptions, ImageFormat, JournalPlace, Making,
    };
    use clap::{Args, Command, FromArgMatches};
    use std::ffi::OsString;
    use std::time::Duration;

    fn parse(text: &str) -> Result<Copy, clap::Error> {
        let words: Vec<OsString> = format!("copy {text}")
            .split_whitespace()
            .map(Into::into)
            .collect();
        let grammar = Copy::augment_args(Command::new("copy"));
        Copy::from_arg_matches(&grammar.try_get_matches_from(fold_brackets(words))?)
    }

    fn options(text: &str) -> Result<CopyOptions> {
        parse(text).unwrap().options(&Output::default())
    }

    #[test]
    fn the_defaults_are_those_of_the_engine() {
        let found = options("a b").unwrap();
        assert_eq!(found.source, Address::Path("a".into()));
        assert_eq!(found.target, Address::Path("b".into()));
        assert_eq!(found.journal, JournalPlace::Default);
        assert_eq!(found.verify, None);
        assert_eq!(found.pass.name(), "full");
        assert_eq!((found.zeroes.sparse, found.zeroes.extents), (4096, true));
        assert_eq!(
            (found.tuning.connections, found.tuning.requests),
            (None, 64)
        );
        assert_eq!(found.tuning.memory, 64 << 20);
        assert_eq!(found.tuning.retry, Duration::from_secs(60));
    }

    #[test]
    fn every_option_reaches_the_engine() {
        let found = options(
            "--changes-since nbd-bitmap:b0 --final --no-verify --digest blake3 --overwrite \
             --journal j --restart -S 512 --target-is-zero --no-extents --flush -C 2 -R 8 \
             --request-size 1M --memory 8M --rate 10M --retry 5 --multi-conn -f raw -O raw a b",
        )
        .unwrap();
        assert_eq!(
            found.pass.changes_since,
            Some(Baseline::NbdBitmap("b0".to_owned()))
        );
        assert_eq!(found.pass.name(), "final");
        assert_eq!(found.verify, Some(false));
        assert_eq!(found.digest, Algorithm::Blake3);
        assert!(found.overwrite && found.restart);
        assert_eq!(found.journal, JournalPlace::Path("j".into()));
        assert_eq!(found.zeroes.sparse, 512);
        assert!(found.zeroes.target_is_zero && !found.zeroes.extents && !found.zeroes.allocated);
        assert_eq!(
            (found.tuning.connections, found.tuning.requests),
            (Some(2), 8)
        );
        assert_eq!(found.tuning.request_size, Some(1 << 20));
        assert_eq!(
            (found.tuning.memory, found.tuning.rate),
            (8 << 20, Some(10 << 20))
        );
        assert_eq!(found.tuning.retry, Duration::from_secs(5));
        assert!(found.tuning.force_connections);
    }

    #[test]
    fn options_may_stand_after_a_bracket_that_holds_its_own() {
        let found = options("[ nbdkit -U - memory 1M --allocated ] null: --verify").unwrap();
        assert!(matches!(found.source, Address::Child(command) if command.len() == 6));
        assert_eq!(found.verify, Some(true));
        assert!(!found.zeroes.allocated);
    }

    #[test]
    fn what_an_image_will_be_like_reaches_the_engine() {
        let found = options("-O qcow2 --compress zstd --cluster-size 4k a b").unwrap();
        assert_eq!(found.making.format, ImageFormat::Qcow2);
        assert_eq!(found.making.compression, Some(Compression::Zstd));
        assert_eq!(found.making.cluster, Some(4096));
        let found = options("-O qcow2 --preallocation metadata a b").unwrap();
        assert!(found.making.preallocate);
        assert_eq!(options("-O raw a b").unwrap().making, Making::default());
    }

    #[test]
    fn allocated_looks_for_no_zeroes() {
        assert_eq!(options("--allocated a b").unwrap().zeroes.sparse, 0);
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_anything_is_opened() {
        for (text, kind) in [
            ("null: b", Kind::Usage),
            ("-O vdi a b", Kind::Unsupported),
            ("--compress zstd a b", Kind::Usage),
            ("-O raw --cluster-size 4k a b", Kind::Usage),
        ] {
            assert_eq!(options(text).unwrap_err().kind(), kind, "{text}");
        }
        for text in [
            "a",
            "a b c",
            "-C 0 a b",
            "-R x a b",
            "-S 100 a b",
            "--request-size 3k a b",
            "--digest md5 a b",
            "--changes-since b0 a b",
            "-O qcow2 --compress lzma a b",
            "--journal j --no-journal a b",
            "[ nbdkit b",
            "--nonsense a b",
            "gopher://x b",
        ] {
            let code = parse(text)
                .map(|_| 0)
                .unwrap_or_else(|error| error.exit_code());
            assert_eq!(code, 2, "{text}");
        }
    }
}
