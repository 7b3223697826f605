//! The options that say what a new disk image will be like.

use super::words;
use crate::error::{Error, Kind, Result};
use crate::job::options::{Compression, ImageFormat, Making};
use clap::{Args, ValueEnum};

/// What is made.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Target image")]
pub(super) struct MakingOptions {
    /// Format of the target: raw, or for a new file qcow2, vmdk (stream-optimized),
    /// vhdx (dynamic) or vhd (fixed)
    #[arg(short = 'O', long, value_name = "FORMAT")]
    target_format: Option<String>,

    /// Write into the raw file or device that is there, and make none
    #[arg(short = 'n', long)]
    no_create: bool,

    /// Compress every cluster of the image
    #[arg(long, value_name = "HOW")]
    compress: Option<Compress>,

    /// Bytes of a cluster of the image
    #[arg(long, value_name = "SIZE", value_parser = words::size)]
    cluster_size: Option<u64>,

    /// Give every cluster its place in the image from the start
    #[arg(long, value_name = "WHAT", default_value = "off")]
    preallocation: Preallocation,
}

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compress {
    Zlib,
    Zstd,
}

/// What is allocated in advance.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Preallocation {
    Off,
    Metadata,
}

impl MakingOptions {
    /// As the engine takes it.
    pub(super) fn making(&self) -> Result<Making> {
        let format = match self.target_format.as_deref() {
            None | Some("raw") => ImageFormat::Raw,
            Some("qcow2") => ImageFormat::Qcow2,
            Some("vmdk") => ImageFormat::Vmdk,
            Some("vhdx") => ImageFormat::Vhdx,
            Some("vhd" | "vpc") => ImageFormat::Vhd,
            Some(other) => {
                let what = format!("the target format {other:?}");
                let error = Error::new(Kind::Unsupported, what);
                let hint = format!("let qemu-nbd write it: [ qemu-nbd -f {other} FILE ]");
                return Err(error
                    .because("only raw, qcow2, vmdk, vhdx and vhd are written")
                    .hint(hint));
            }
        };
        let making = Making {
            format,
            compression: self.compress.map(|compress| match compress {
                Compress::Zlib => Compression::Zlib,
                Compress::Zstd => Compression::Zstd,
            }),
            cluster: self.cluster_size,
            preallocate: self.preallocation == Preallocation::Metadata,
            existing: self.no_create,
        };
        if self.no_create && format != ImageFormat::Raw {
            let what = "images are written anew, and not into one that is there";
            let error = Error::new(Kind::Unsupported, what);
            return Err(error.hint("let qemu-nbd write it: [ qemu-nbd -f FORMAT FILE ]"));
        }
        let plain = Making {
            format,
            existing: self.no_create,
            ..Making::default()
        };
        if format != ImageFormat::Qcow2 && making != plain {
            let what = "--compress, --cluster-size and --preallocation are for qcow2";
            return Err(Error::new(Kind::Usage, what).hint("add -O qcow2"));
        }
        Ok(making)
    }
}
