//! `diskferry checksum`: one digest of the content of a disk.

use super::open::ImageOptions;
use super::output::{self, Output};
use super::scan::{self, Reader};
use super::sequence::{self, Sequence};
use super::speed::Speed;
use super::{Command, words};
use crate::address::Address;
use crate::digest::{Algorithm, BLOCK, Content, Digest};
use crate::error::Result;
use crate::extent::ByteRange;
use crate::job::options::Tuning;
use crate::pipeline::counters::Counters;
use crate::plan::Step;
use crate::source::Source;
use crate::source::stream::{Came, Laid};
use clap::Args;
use futures_util::stream::{self, StreamExt};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Print a digest of the content of a disk, the same whatever its holes and its format
#[derive(Args, Clone, Debug)]
pub(super) struct Checksum {
    /// The disk: a path, an NBD URI or [ CMD ARGS ]
    #[arg(value_parser = words::address)]
    source: Address,

    /// How it is digested
    #[arg(long, value_name = "NAME", default_value = "xxh3", value_parser = words::digest())]
    digest: Algorithm,

    /// Do not ask the source what is zero: read everything
    #[arg(long)]
    no_extents: bool,

    #[command(flatten)]
    image: ImageOptions,

    #[command(flatten)]
    speed: Speed,
}

impl Command for Checksum {
    const NAME: &'static str = "checksum";

    async fn run(self, output: Output) -> Result<()> {
        let tuning = self.speed.tuning();
        let (reading, throttle) = (self.image.reading(), self.speed.throttle());
        let source = Sequence::open(&self.source, &reading, &tuning, &throttle).await?;
        let counters = Arc::new(Counters::default());
        let progress = output.progress(&counters, source.size().unwrap_or(0));
        let scan = Scan {
            algorithm: self.digest,
            extents: !self.no_extents,
            counters,
        };
        let (size, digest) = match source {
            Sequence::Any(source) => (source.size(), scan.run(source, &tuning).await?),
            Sequence::Once(laid) => scan.in_order(laid).await?,
        };
        drop(progress);
        let name = match self.digest {
            Algorithm::Xxh3 => "xxh3",
            Algorithm::Blake3 => "blake3",
        };
        output::print(&if output.json() {
            let address = self.source.to_string();
            let value = digest.to_string();
            format!(
                "{}\n",
                json!({ "source": address, "size": size, "algorithm": name, "digest": value })
            )
        } else {
            format!("{name}:{digest}  {}\n", self.source)
        })
    }
}

/// How a disk is digested.
struct Scan {
    algorithm: Algorithm,
    extents: bool,
    counters: Arc<Counters>,
}

/// A part of a disk that has been looked at.
enum Seen {
    Zeroes(ByteRange),
    Blocks(ByteRange, Vec<Digest>),
}

impl Scan {
    /// Reads all of `source`, many pieces at a time, and digests it in order.
    async fn run(&self, source: Arc<dyn Source>, tuning: &Tuning) -> Result<Digest> {
        let size = source.size();
        let reader = Reader::new(source, tuning, 1);
        let mut content = Content::new(self.algorithm);
        let plans = stream::iter(scan::windows(size))
            .map(|window| reader.plan(window, self.extents))
            .buffered(2)
            .map(|planned| match planned {
                Ok(steps) => steps.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            });
        let mut seen = std::pin::pin!(
            plans
                .flat_map(stream::iter)
                .map(|step| self.look(&reader, step))
                .buffered(reader.width)
        );
        while let Some(part) = seen.next().await {
            let range = match part? {
                Seen::Zeroes(range) => {
                    content.zeroes(range.len().div_ceil(BLOCK));
                    range
                }
                Seen::Blocks(range, digests) => {
                    digests.into_iter().for_each(|digest| content.block(digest));
                    range
                }
            };
            self.counters.position.store(range.end, Ordering::Relaxed);
        }
        Ok(content.finish(size))
    }

    /// Digests what comes in order; its size, too, which is known in the end.
    async fn in_order(&self, laid: Laid) -> Result<(u64, Digest)> {
        let block = usize::try_from(BLOCK).unwrap_or(usize::MAX);
        let mut content = Content::new(self.algorithm);
        let (mut size, mut begun) = (0u64, Vec::new());
        let mut pieces = std::pin::pin!(sequence::once(laid));
        while let Some(came) = pieces.next().await {
            let mut came = came?;
            size = size.saturating_add(came.len());
            while !came.is_empty() {
                // Whole blocks of zeroes are as good as one.
                if let (Came::Zeroes(count @ BLOCK..), true) = (&came, begun.is_empty()) {
                    let blocks = count / BLOCK;
                    content.zeroes(blocks);
                    let _ = came.split_to(blocks.saturating_mul(BLOCK));
                    continue;
                }
                let room = block.saturating_sub(begun.len());
                came.split_to(u64::try_from(room).unwrap_or(u64::MAX))
                    .append_to(&mut begun);
                if begun.len() == block {
                    content.block(self.algorithm.digest(&begun));
                    begun.clear();
                }
            }
            self.counters.position.store(size, Ordering::Relaxed);
        }
        if !begun.is_empty() {
            content.block(self.algorithm.digest(&begun));
        }
        Ok((size, content.finish(size)))
    }

    async fn look(&self, reader: &Reader, step: Result<Step>) -> Result<Seen> {
        let range = match step? {
            Step::Zero(range) => {
                Counters::add(&self.counters.skipped, range.len());
                return Ok(Seen::Zeroes(range));
            }
            Step::Copy(range) => range,
        };
        let data = reader.read(range).await?;
        Counters::add(&self.counters.read, range.len());
        let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
        let block = usize::try_from(BLOCK).unwrap_or(usize::MAX);
        let bytes = data.get(..length).unwrap_or(&data);
        let digests = bytes
            .chunks(block)
            .map(|block| self.algorithm.digest(block));
        Ok(Seen::Blocks(range, digests.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::Scan;
    use crate::digest::{Algorithm, BLOCK, Content, Digest};
    use crate::endpoint::Limits;
    use crate::extent::ByteRange;
    use crate::job::options::Tuning;
    use crate::source::stream::Laid;
    use crate::testkit::{Call, MemSource, MemStream};
    use futures_util::FutureExt;
    use std::sync::Arc;

    fn checksum(source: &MemSource, extents: bool, tuning: &Tuning) -> Digest {
        let scan = Scan {
            algorithm: Algorithm::Xxh3,
            extents,
            counters: Arc::default(),
        };
        let running = scan.run(Arc::new(source.clone()), tuning);
        running.now_or_never().unwrap().unwrap()
    }

    /// The definition, applied to bytes in one go.
    fn defined(bytes: &[u8]) -> Digest {
        let mut content = Content::new(Algorithm::Xxh3);
        bytes
            .chunks(usize::try_from(BLOCK).unwrap())
            .for_each(|block| content.block(Algorithm::Xxh3.digest(block)));
        content.finish(bytes.len() as u64)
    }

    fn disk() -> Vec<u8> {
        let mut bytes = vec![0u8; (3 << 20) + 1000];
        bytes[70_000..200_000].fill(7);
        bytes[2 << 20] = 9;
        bytes[(3 << 20) + 999] = 1;
        bytes
    }

    #[test]
    fn the_checksum_is_the_defined_one_whatever_the_holes_limits_and_memory() {
        let bytes = disk();
        let expected = defined(&bytes);
        let small = Tuning {
            memory: 128 << 10,
            requests: 2,
            ..Tuning::default()
        };
        let aligned = Limits {
            align: 4096,
            max: 256 << 10,
            ..Limits::NONE
        };
        for source in [
            MemSource::holding(&bytes),
            MemSource::holding(&bytes).with_limits(aligned),
        ] {
            for tuning in [&Tuning::default(), &small] {
                assert_eq!(checksum(&source, true, tuning), expected);
                assert_eq!(checksum(&source, false, tuning), expected);
            }
        }
    }

    #[tokio::test]
    async fn what_comes_in_order_has_the_checksum_of_what_can_be_read_anywhere() {
        let bytes = disk();
        let scan = Scan {
            algorithm: Algorithm::Xxh3,
            extents: true,
            counters: Arc::default(),
        };
        for len in [0, 1, 65_536, 70_001, bytes.len()] {
            let part = &bytes[..len];
            let laid = Laid::Raw(Box::new(MemStream::new(part)));
            let found = scan.in_order(laid).await.unwrap();
            assert_eq!(found, (len as u64, defined(part)), "{len}");
        }
    }

    #[test]
    fn holes_are_not_read() {
        let source = MemSource::new(1 << 40);
        source.put(1 << 39, &[1; 100]);
        checksum(&source, true, &Tuning::default());
        let reads: Vec<_> = source
            .calls()
            .into_iter()
            .filter(|call| matches!(call, Call::Read(_)))
            .collect();
        assert_eq!(reads, [Call::Read(ByteRange::at(1 << 39, BLOCK))]);
    }
}
