//! `diskferry map`: what of a disk is data and what reads as zero.

use super::open::ImageOptions;
use super::output::{self, Output};
use super::scan::WINDOW;
use super::sequence;
use super::speed::Speed;
use super::{Command, open, words};
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent, ExtentKind, push_merged};
use crate::format::{Facts, Image, To};
use crate::source::Source;
use crate::source::stream::{Came, Laid};
use crate::{job, report};
use clap::{Args, ValueEnum};
use futures_util::stream::StreamExt;
use std::io::{self, BufWriter, Write};

/// Show what of a disk is data and what reads as zero
#[derive(Args, Clone, Debug)]
pub(super) struct Map {
    /// The disk: a path, an NBD URI or [ CMD ARGS ]
    #[arg(value_parser = words::address)]
    source: Address,

    /// How it is shown; json has the fields of `qemu-img map --output=json`
    #[arg(long, value_enum, default_value_t = Form::Human)]
    output: Form,

    #[command(flatten)]
    image: ImageOptions,

    #[command(flatten)]
    speed: Speed,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Form {
    Human,
    Json,
}

impl Command for Map {
    const NAME: &'static str = "map";

    async fn run(self, output: Output) -> Result<()> {
        let (reading, tuning) = (self.image.reading(), self.speed.tuning());
        let form = if output.json() {
            Form::Json
        } else {
            self.output
        };
        let mut out = BufWriter::new(io::stdout());
        let mut table = Table::new(form);
        table.begin(&mut out)?;
        let mut show = |row: Row| table.row(&mut out, &row);
        if let Some(laid) = job::in_order(&self.source, &reading, &tuning).await? {
            in_order(laid, |extent| show(Row::of(extent))).await?;
        } else {
            let disk = open::disk(&self.source, &reading, &tuning).await?;
            let source = disk.source.as_ref();
            match disk.image.filter(|_| form == Form::Json) {
                Some(image) => placed(source, image.as_ref(), show).await?,
                None => each(source, |extent| show(Row::of(extent))).await?,
            }
        }
        table.end(&mut out)?;
        output::write(&mut out, b"")
    }
}

/// A part of a disk, and where it is stored.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Row {
    extent: Extent,
    /// Which layer of a chain has it, 0 being the top.
    depth: usize,
    compressed: bool,
    /// Where in its file it begins; `None` if it is nowhere, or compressed.
    offset: Option<u64>,
}

impl Row {
    /// A part of a raw disk.
    fn of(extent: Extent) -> Self {
        Self {
            depth: 0,
            compressed: false,
            offset: Some(extent.range.start),
            extent,
        }
    }

    /// Makes `next` a part of this, if it only goes on.
    fn takes(&mut self, next: &Self) -> bool {
        let len = self.extent.range.len();
        let alike = Self {
            extent: self.extent,
            offset: self.offset.map(|offset| offset.saturating_add(len)),
            ..*self
        };
        let then = Self {
            extent: self.extent,
            ..*next
        };
        let goes_on = alike == then && self.extent.kind == next.extent.kind;
        if goes_on {
            self.extent.range.end = next.extent.range.end;
        }
        goes_on
    }
}

/// Calls `show` with every part of an image and where it is.
async fn placed(
    source: &dyn Source,
    image: &dyn Image,
    mut show: impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    let layers = layers(&image.facts());
    let mut open: Option<Row> = None;
    let mut rest = ByteRange::new(0, source.size());
    while !rest.is_empty() {
        let (window, _) = rest.split(WINDOW);
        let mut rows = Vec::new();
        for extent in source.extents(window).await? {
            rest.start = extent.range.end;
            match extent.kind {
                ExtentKind::Zero => rows.push(Row {
                    offset: None,
                    ..Row::of(extent)
                }),
                ExtentKind::Data => places(image, extent.range, &layers, &mut rows).await?,
            }
        }
        if rest.start == window.start {
            return Err(nothing(rest.start));
        }
        for row in rows {
            if !open.as_mut().is_some_and(|last| last.takes(&row))
                && let Some(done) = open.replace(row)
            {
                show(done)?;
            }
        }
    }
    open.map_or(Ok(()), show)
}

/// The files of an image and of what is under it.
fn layers(facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    let mut layer = Some(facts);
    while let Some(facts) = layer {
        found.push(facts.file.clone());
        layer = facts.backing.as_deref();
    }
    found
}

/// Where the data in `range` are.
async fn places(
    image: &dyn Image,
    range: ByteRange,
    layers: &[String],
    rows: &mut Vec<Row>,
) -> Result<()> {
    let mut rest = range;
    while !rest.is_empty() {
        let parts = image.map(rest).await?;
        if parts.is_empty() {
            return Err(nothing(rest.start));
        }
        for part in parts {
            rest.start = part.range.end;
            let (storage, compressed, offset) = match &part.to {
                To::Zero => (None, false, None),
                To::Raw { storage, offset } => (Some(storage), false, Some(*offset)),
                To::Packed { run, .. } => (Some(&run.storage), true, None),
            };
            let name = storage.map(|storage| storage.identity().name);
            let layer = layers.iter().position(|file| Some(file) == name.as_ref());
            rows.push(Row {
                extent: Extent::data(part.range),
                depth: layer.unwrap_or(0),
                compressed,
                offset,
            });
        }
    }
    Ok(())
}

fn nothing(at: u64) -> Error {
    let error = Error::new(Kind::Corrupt, "ask the source for its extents");
    error.because("it answered with nothing").at(at)
}

/// The same of a disk that comes in order: all that is sent is data.
async fn in_order(laid: Laid, mut show: impl FnMut(Extent) -> Result<()>) -> Result<()> {
    let mut pieces = std::pin::pin!(sequence::once(laid));
    let (mut at, mut found) = (0u64, Vec::new());
    while let Some(came) = pieces.next().await {
        let came = came?;
        let range = ByteRange::at(at, came.len());
        at = range.end;
        push_merged(
            &mut found,
            match came {
                Came::Data(_) => Extent::data(range),
                Came::Zeroes(_) => Extent::zero(range),
            },
        );
        while found.len() > 1 {
            show(found.remove(0))?;
        }
    }
    found.into_iter().try_for_each(show)
}

/// Calls `show` with every extent of `source` in order; neighbours of one kind come as one.
///
/// One answer of the source is in memory at a time, however large and shredded the disk.
async fn each(source: &dyn Source, mut show: impl FnMut(Extent) -> Result<()>) -> Result<()> {
    let mut rest = ByteRange::new(0, source.size());
    let mut open: Option<Extent> = None;
    while !rest.is_empty() {
        let (window, _) = rest.split(WINDOW);
        for extent in source.extents(window).await? {
            if extent.range.start != rest.start || extent.range.is_empty() {
                let error = Error::new(Kind::Corrupt, "ask the source for its extents");
                return Err(error
                    .because(format!("it answered {} out of order", extent.range))
                    .at(rest.start));
            }
            rest.start = extent.range.end;
            match &mut open {
                Some(last) if last.kind == extent.kind => last.range.end = extent.range.end,
                _ => {
                    if let Some(done) = open.replace(extent) {
                        show(done)?;
                    }
                }
            }
        }
        if rest.start == window.start {
            return Err(nothing(rest.start));
        }
    }
    open.map_or(Ok(()), show)
}

/// Writes extents as they come.
struct Table {
    form: Form,
    lines: u64,
    data: u64,
    zero: u64,
}

impl Table {
    fn new(form: Form) -> Self {
        Self {
            form,
            lines: 0,
            data: 0,
            zero: 0,
        }
    }

    fn begin(&self, out: &mut dyn Write) -> Result<()> {
        match self.form {
            Form::Json => put(out, "["),
            Form::Human => put(out, &format!("{:<18} {:<18} Kind\n", "Offset", "Length")),
        }
    }

    fn row(&mut self, out: &mut dyn Write, row: &Row) -> Result<()> {
        let extent = row.extent;
        let ByteRange { start, .. } = extent.range;
        let length = extent.range.len();
        let zero = extent.kind == ExtentKind::Zero;
        let count = if zero { &mut self.zero } else { &mut self.data };
        *count = count.saturating_add(length);
        let text = match self.form {
            Form::Human => {
                let kind = if zero { "zero" } else { "data" };
                format!("{start:<#18x} {length:<#18x} {kind}\n")
            }
            Form::Json => {
                let offset = row.offset.map(|offset| format!(", \"offset\": {offset}"));
                format!(
                    "{}{{ \"start\": {start}, \"length\": {length}, \"depth\": {}, \"present\": true, \
                     \"zero\": {zero}, \"data\": {}, \"compressed\": {}{}}}",
                    if self.lines > 0 { ",\n" } else { "" },
                    row.depth,
                    !zero,
                    row.compressed,
                    offset.unwrap_or_default(),
                )
            }
        };
        self.lines = self.lines.saturating_add(1);
        put(out, &text)
    }

    fn end(&self, out: &mut dyn Write) -> Result<()> {
        match self.form {
            Form::Json => put(out, "]\n"),
            Form::Human => {
                let (data, zero) = (report::bytes(self.data), report::bytes(self.zero));
                put(out, &format!("{data} of data, {zero} of zeroes\n"))
            }
        }
    }
}

fn put(out: &mut dyn Write, text: &str) -> Result<()> {
    output::write_only(out, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{Form, Row, Table, each};
    use crate::extent::{ByteRange, Extent, ExtentKind};
    use crate::testkit::MemSource;
    use futures_util::FutureExt;

    fn mapped(source: &MemSource, form: Form) -> String {
        let mut out = Vec::new();
        let mut table = Table::new(form);
        table.begin(&mut out).unwrap();
        let walk = each(source, |extent| table.row(&mut out, &Row::of(extent)));
        walk.now_or_never().unwrap().unwrap();
        table.end(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// A disk so shredded that its answers come in many parts.
    fn shredded(pieces: u64) -> MemSource {
        let source = MemSource::new(pieces * 0x2000);
        for piece in 0..pieces {
            source.put(piece * 0x2000, &[1; 0x1000]);
        }
        source
    }

    #[test]
    fn json_has_the_fields_of_qemu_img_and_parses() {
        let text = mapped(&shredded(2), Form::Json);
        assert!(text.starts_with(
            "[{ \"start\": 0, \"length\": 4096, \"depth\": 0, \"present\": true, \"zero\": false, \
             \"data\": true, \"compressed\": false, \"offset\": 0},\n"
        ));
        let extents: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(extents.len(), 4);
        assert_eq!(
            (&extents[3]["zero"], &extents[3]["data"]),
            (&true.into(), &false.into())
        );
        assert_eq!(extents[3]["offset"], 0x3000);
        assert_eq!(mapped(&MemSource::new(0), Form::Json), "[]\n");
    }

    #[test]
    fn people_get_a_table_and_a_sum() {
        let text = mapped(&shredded(1), Form::Human);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["0x0", "0x1000", "data"]
        );
        assert_eq!(lines[3], "4.0 KiB of data, 4.0 KiB of zeroes");
    }

    #[test]
    fn extents_cover_the_disk_and_neighbours_differ_however_the_answers_are_cut() {
        for pieces in [1, 7, 8, 9, 100] {
            let source = shredded(pieces);
            let (mut at, mut last) = (0, None);
            let walk = each(&source, |Extent { range, kind }| {
                assert_eq!(range, ByteRange::new(at, at + 0x1000));
                assert_ne!(last.replace(kind), Some(kind));
                at = range.end;
                Ok(())
            });
            walk.now_or_never().unwrap().unwrap();
            assert_eq!(at, pieces * 0x2000);
            assert_eq!(last, Some(ExtentKind::Zero));
        }
    }
}
