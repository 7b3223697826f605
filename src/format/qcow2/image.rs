//! A checked header to an [`Image`]: tables are looked up page by page, data files opened.

use super::directory::{Bitmap, SNAPSHOT_FIXED, Snapshot, bitmaps, snapshot_length};
use super::entry::{Rules, l1};
use super::flaw::Flaw;
use super::geometry::Table;
use super::header::{Compression, Header};
use super::runs::{Mapper, Place, Run, Runs};
use crate::error::{Error, Kind, Result};
use crate::extent::ByteRange;
use crate::format::{
    Codec, Facts, Image, Layer, Mapped, Opener, PARTS_MAX, Packed, Pages, Storage, To, over,
    read_range,
};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::sync::Arc;

/// Bytes of an L2 table that are looked at at a time.
const SLICE: u64 = 64 << 10;

/// Tables that one answer looks into at most, so that none takes long.
const TABLES_MAX: u32 = 4096;

/// Bytes of a snapshot table at most.
const SNAPSHOTS_BYTES_MAX: u64 = 16 << 20;

/// A qcow2 image that is open.
#[derive(Debug)]
pub(super) struct Qcow2Image {
    name: String,
    header: Header,
    /// The disk as it is, or as it was when a snapshot was taken.
    size: u64,
    l1: Table,
    mapper: Mapper,
    tables: Pages,
    /// What holds standard clusters: the image, or its external data file.
    data: Arc<dyn Storage>,
    backing: Option<Arc<dyn Image>>,
    snapshots: Vec<Snapshot>,
    bitmaps: Vec<Bitmap>,
}

impl Qcow2Image {
    pub(super) async fn open(storage: Arc<dyn Storage>, opener: &Opener) -> Result<Self> {
        let name = storage.identity().name;
        let flawed = |flaw: Flaw| flaw.error(format!("read the header of {name}"));
        let file = storage.size();
        let start = read_range(storage.as_ref(), "header", ByteRange::new(0, file.min(72))).await?;
        let wanted = Header::wanted(&start, file).map_err(flawed)?;
        let first = read_range(storage.as_ref(), "header", ByteRange::new(0, wanted)).await?;
        let header = Header::parse(&first, file).map_err(flawed)?;
        let snapshots = read_snapshots(storage.as_ref(), &header).await?;
        let bitmaps = read_bitmaps(storage.as_ref(), &header).await?;
        let (size, l1) = match opener.snapshot() {
            Some(wanted) => {
                let found = choose(&snapshots, wanted, &name, &header)?;
                (found.size, found.l1)
            }
            None => (header.size, header.l1),
        };
        let data = data_storage(&storage, &header, opener).await?;
        let backing = match &header.backing {
            Some(backing) => {
                let opened = opener.image(&backing.name, backing.format.as_deref()).await;
                Some(opened.map_err(|error| error.context(format!("open what is under {name}")))?)
            }
            None => None,
        };
        let rules = Rules {
            geometry: header.geometry,
            version: header.version,
            data_file: header.data_file.is_some(),
        };
        Ok(Self {
            mapper: Mapper {
                rules,
                file,
                data: data.size(),
            },
            name,
            size,
            l1,
            tables: Pages::new(storage),
            data,
            backing,
            snapshots,
            bitmaps,
            header,
        })
    }

    /// Where a prefix of `range` is in this layer.
    async fn runs(&self, range: ByteRange) -> Result<Vec<Run>> {
        let slice = SLICE.min(self.header.geometry.cluster());
        let entries = slice.checked_div(self.header.geometry.l2_entry());
        let span = entries
            .unwrap_or(1)
            .saturating_mul(self.header.geometry.cluster());
        let mut runs = Runs::default();
        let mut at = range.start;
        for _ in 0..TABLES_MAX {
            if at >= range.end || runs.len() >= PARTS_MAX {
                break;
            }
            at = match self.table(at).await? {
                None => {
                    let end = next_multiple(at, self.header.geometry.table()).min(range.end);
                    let range = ByteRange::new(at, end);
                    let place = Place::Below;
                    runs.push(Run { range, place });
                    end
                }
                Some(table) => {
                    let end = next_multiple(at, span).min(range.end);
                    self.slice(table, ByteRange::new(at, end), span, &mut runs)
                        .await?
                }
            };
        }
        Ok(runs.into_vec())
    }

    /// Where the L2 table for the guest offset `at` is.
    async fn table(&self, at: u64) -> Result<Option<u64>> {
        let index = self.header.geometry.l1_index(at);
        let place = self.l1.offset.saturating_add(index.saturating_mul(8));
        let bytes = self
            .tables
            .read("L1 table", ByteRange::at(place, 8))
            .await?;
        let raw = bytes.first_chunk().copied().map_or(0, u64::from_be_bytes);
        l1(raw, self.header.geometry).map_err(flawed)
    }

    /// Maps `range`, which one slice of the L2 table at `table` maps. Gives where it stopped.
    async fn slice(&self, table: u64, range: ByteRange, span: u64, runs: &mut Runs) -> Result<u64> {
        let geometry = self.header.geometry;
        let first = range.start & !span.saturating_sub(1);
        let index = (first & geometry.table().saturating_sub(1)) >> geometry.cluster_bits();
        let place = table.saturating_add(index.saturating_mul(geometry.l2_entry()));
        let bytes = ByteRange::at(place, SLICE.min(geometry.cluster()));
        let bytes = self.tables.read("L2 table", bytes).await?;
        self.mapper
            .table(&bytes, first, range, PARTS_MAX, runs)
            .map_err(flawed)
    }

    fn to(&self, place: Place) -> Layer {
        Layer::Here(match place {
            Place::Below => return Layer::Below,
            Place::Zero => To::Zero,
            Place::Raw(offset) => To::Raw {
                storage: Arc::clone(&self.data),
                offset,
            },
            Place::Packed { at, skip } => To::Packed {
                run: Packed {
                    storage: Arc::clone(self.tables.storage()),
                    offset: at.offset,
                    len: u32::try_from(at.len).unwrap_or(u32::MAX),
                    codec: match self.header.compression {
                        Compression::Zlib => Codec::Deflate,
                        Compression::Zstd => Codec::Zstd,
                    },
                    unpacked: u32::try_from(self.header.geometry.cluster()).unwrap_or(u32::MAX),
                },
                skip,
            },
        })
    }
}

/// Whoever asked says of which image, and where.
fn flawed(flaw: Flaw) -> Error {
    flaw.error("look up a cluster")
}

/// The smallest multiple of `unit`, a power of two, above `at`.
fn next_multiple(at: u64, unit: u64) -> u64 {
    (at | unit.saturating_sub(1)).saturating_add(1)
}

/// What holds standard clusters.
async fn data_storage(
    storage: &Arc<dyn Storage>,
    header: &Header,
    opener: &Opener,
) -> Result<Arc<dyn Storage>> {
    let Some(data_file) = &header.data_file else {
        return Ok(Arc::clone(storage));
    };
    let Some(name) = &data_file.name else {
        let what = format!("{} does not say where its data file is", storage.identity());
        return Err(Error::new(Kind::Unsupported, what));
    };
    let opened = opener.file(name).await;
    let doing = || format!("open the data file of {}", storage.identity());
    Ok(opened.map_err(|error| error.context(doing()))?.storage)
}

async fn read_snapshots(storage: &dyn Storage, header: &Header) -> Result<Vec<Snapshot>> {
    let file = storage.size();
    let what = "snapshot table";
    let flawed = |flaw: Flaw| flaw.error(format!("read the {what} of {}", storage.identity()));
    let mut found = Vec::new();
    let mut at = header.snapshots.offset;
    let most = at.saturating_add(SNAPSHOTS_BYTES_MAX);
    for _ in 0..header.snapshots.entries {
        let fixed = read_range(storage, what, ByteRange::at(at, SNAPSHOT_FIXED)).await?;
        let length = snapshot_length(&fixed, file).map_err(flawed)?;
        // The padding of the last one need not be there.
        let range = ByteRange::at(at, length).intersect(ByteRange::new(0, file));
        let entry = read_range(storage, what, range).await?;
        let snapshot = Snapshot::parse(&entry, header.geometry, header.size, file);
        found.push(snapshot.map_err(flawed)?);
        at = at.saturating_add(length);
        if at > most {
            let (what, bytes) = (
                "the snapshot table",
                at.saturating_sub(header.snapshots.offset),
            );
            let most = SNAPSHOTS_BYTES_MAX;
            return Err(flawed(Flaw::TooLarge { what, bytes, most }));
        }
    }
    Ok(found)
}

async fn read_bitmaps(storage: &dyn Storage, header: &Header) -> Result<Vec<Bitmap>> {
    let Some(directory) = header.bitmaps else {
        return Ok(Vec::new());
    };
    let range = ByteRange::at(directory.offset, directory.bytes);
    let bytes = read_range(storage, "bitmap directory", range).await?;
    bitmaps(&bytes, directory)
        .map_err(|flaw| flaw.error(format!("read the bitmaps of {}", storage.identity())))
}

/// The snapshot called `wanted`: an ID goes before a name, as in qemu-img.
fn choose<'a>(
    snapshots: &'a [Snapshot],
    wanted: &str,
    name: &str,
    header: &Header,
) -> Result<&'a Snapshot> {
    if header.data_file.is_some() {
        let what = format!("{name} has its data in another file, where there are no snapshots");
        return Err(Error::new(Kind::Unsupported, what));
    }
    let by_id = snapshots.iter().find(|snapshot| snapshot.id == wanted);
    let found = by_id.or_else(|| snapshots.iter().find(|snapshot| snapshot.name == wanted));
    found.ok_or_else(|| {
        let there: Vec<_> = snapshots.iter().map(|found| found.name.as_str()).collect();
        let error = Error::new(Kind::Usage, format!("{name} has no snapshot {wanted:?}"));
        match there.is_empty() {
            true => error.hint("it has none at all"),
            false => error.hint(format!("one of {}", there.join(", "))),
        }
    })
}

#[async_trait]
impl Image for Qcow2Image {
    fn size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> u64 {
        self.header.geometry.cluster()
    }

    fn facts(&self) -> Facts {
        let header = &self.header;
        let facts = Facts {
            format: "qcow2",
            file: self.name.clone(),
            virtual_size: self.size,
            cluster_size: Some(header.geometry.cluster()),
            warnings: self.warnings(),
            backing: self.backing.as_ref().map(|image| Box::new(image.facts())),
            ..Facts::default()
        };
        let compat = if header.version == 2 { "0.10" } else { "1.1" };
        let compression = match header.compression {
            Compression::Zlib => "zlib",
            Compression::Zstd => "zstd",
        };
        let backing = header.backing.as_ref();
        let data_file = header.data_file.as_ref();
        facts
            .with("compat", compat)
            .with("compression_type", compression)
            .with("refcount_bits", header.refcount_bits)
            .with("lazy_refcounts", yes(header.lazy_refcounts))
            .with("extended_l2", yes(header.geometry.is_extended()))
            .with("dirty", yes(header.dirty))
            .with("backing_file", backing.map(|backing| backing.name.clone()))
            .with("backing_format", backing.and_then(|b| b.format.clone()))
            .with("data_file", data_file.and_then(|file| file.name.clone()))
            .with("data_file_raw", yes(data_file.is_some_and(|file| file.raw)))
            .with("snapshots", listed(&self.snapshots, snapshot_fact))
            .with("bitmaps", listed(&self.bitmaps, bitmap_fact))
    }

    async fn map(&self, range: ByteRange) -> Result<Vec<Mapped>> {
        let runs = self.runs(range).await?;
        let parts = runs
            .into_iter()
            .map(|run| (run.range, self.to(run.place)))
            .collect();
        over(parts, self.backing.as_deref()).await
    }
}

impl Qcow2Image {
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.header.dirty {
            let why = "it was not closed in good order: its refcounts may be wrong, which does not \
                       matter for reading";
            warnings.push(why.to_owned());
        }
        for bitmap in self.bitmaps.iter().filter(|bitmap| bitmap.in_use) {
            warnings.push(format!(
                "bitmap {:?} was not saved: it is useless",
                bitmap.name
            ));
        }
        warnings
    }
}

/// A flag is worth a line only if it is set.
fn yes(flag: bool) -> Value {
    if flag { Value::Bool(true) } else { Value::Null }
}

fn listed<T>(items: &[T], fact: impl Fn(&T) -> Value) -> Value {
    match items {
        [] => Value::Null,
        items => items.iter().map(fact).collect(),
    }
}

fn snapshot_fact(snapshot: &Snapshot) -> Value {
    json!({
        "id": snapshot.id,
        "name": snapshot.name,
        "date": snapshot.seconds,
        "virtual_size": snapshot.size,
        "vm_state_size": snapshot.vm_state,
    })
}

fn bitmap_fact(bitmap: &Bitmap) -> Value {
    json!({
        "name": bitmap.name,
        "granularity": 1_u64.checked_shl(bitmap.granularity_bits.into()),
        "auto": bitmap.auto,
        "in_use": bitmap.in_use,
    })
}
