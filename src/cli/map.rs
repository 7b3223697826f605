//! `diskferry map`: what of a disk is data and what reads as zero.

use super::open::ImageOptions;
use super::output::{self, Output};
use super::scan::WINDOW;
use super::speed::Speed;
use super::{Command, open, words};
use crate::address::Address;
use crate::error::{Error, Kind, Result};
use crate::extent::{ByteRange, Extent, ExtentKind};
use crate::report;
use crate::source::Source;
use clap::{Args, ValueEnum};
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
        let source =
            open::source(&self.source, &self.image.reading(), &self.speed.tuning()).await?;
        let form = if output.json() {
            Form::Json
        } else {
            self.output
        };
        let mut out = BufWriter::new(io::stdout());
        let mut table = Table::new(form);
        table.begin(&mut out)?;
        each(source.as_ref(), |extent| table.extent(&mut out, extent)).await?;
        table.end(&mut out)?;
        output::write(&mut out, b"")
    }
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
            let error = Error::new(Kind::Corrupt, "ask the source for its extents");
            return Err(error.because("it answered with nothing").at(rest.start));
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

    fn extent(&mut self, out: &mut dyn Write, extent: Extent) -> Result<()> {
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
            Form::Json => format!(
                "{}{{ \"start\": {start}, \"length\": {length}, \"depth\": 0, \"present\": true, \
                 \"zero\": {zero}, \"data\": {}, \"compressed\": false, \"offset\": {start}}}",
                if self.lines > 0 { ",\n" } else { "" },
                !zero
            ),
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
    use super::{Form, Table, each};
    use crate::extent::{ByteRange, Extent, ExtentKind};
    use crate::testkit::MemSource;
    use futures_util::FutureExt;

    fn mapped(source: &MemSource, form: Form) -> String {
        let mut out = Vec::new();
        let mut table = Table::new(form);
        table.begin(&mut out).unwrap();
        let walk = each(source, |extent| table.extent(&mut out, extent));
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
