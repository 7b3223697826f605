//! `diskferry map`: what of a disk is data and what reads as zero.

mod walk;

use super::open::ImageOptions;
use super::output::{self, Output};
use super::sequence;
use super::speed::Speed;
use super::{Command, open, words};
use crate::address::Address;
use crate::error::Result;
use crate::extent::{ByteRange, Extent, ExtentKind, push_merged};
use crate::source::stream::{Came, Laid};
use crate::{job, report};
use clap::{Args, ValueEnum};
use futures_util::stream::StreamExt;
use std::io::{self, BufWriter, Write};
use walk::{Look, Row, walk};

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
        let form = if output.json() {
            Form::Json
        } else {
            self.output
        };
        let mut out = BufWriter::new(io::stdout());
        let mut table = Table::new(form);
        let shown = self.show(&mut table, &mut out).await;
        match shown {
            Ok(()) => table.end(&mut out)?,
            Err(_) => table.cut(&mut out)?,
        }
        output::write(&mut out, b"")?;
        shown
    }
}

impl Map {
    async fn show(&self, table: &mut Table, out: &mut dyn Write) -> Result<()> {
        let (reading, tuning) = (self.image.reading(), self.speed.tuning());
        let throttle = self.speed.throttle();
        let form = table.form;
        let mut show = |row: Row| table.row(out, &row);
        if let Some(laid) = job::in_order(&self.source, &reading, &tuning, &throttle).await? {
            in_order(laid, |extent| show(Row::of(extent))).await
        } else {
            let disk = open::disk(&self.source, &reading, &tuning, &throttle).await?;
            walk(&look(&disk, form), show).await
        }
    }
}

/// Whom to ask: for people, what is data is enough.
fn look(disk: &job::Disk, form: Form) -> Look<'_> {
    let source = disk.source.as_ref();
    match (form, &disk.image, &disk.client) {
        (Form::Json, Some(image), _) => Look::image(source, image.as_ref()),
        (Form::Json, None, Some(client)) => Look::Export(source, client),
        _ => Look::Source(source),
    }
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

/// Writes extents as they come. Nothing before there is one: what cannot be opened has no map.
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
                    row.stored,
                    row.compressed,
                    offset.unwrap_or_default(),
                )
            }
        };
        if self.lines == 0 {
            self.begin(out)?;
        }
        self.lines = self.lines.saturating_add(1);
        put(out, &text)
    }

    /// Ends where there is no more to be had: what follows has a line of its own.
    fn cut(&self, out: &mut dyn Write) -> Result<()> {
        match (self.form, self.lines) {
            (Form::Human, _) | (_, 0) => Ok(()),
            (Form::Json, _) => put(out, "\n"),
        }
    }

    fn end(&self, out: &mut dyn Write) -> Result<()> {
        if self.lines == 0 {
            self.begin(out)?;
        }
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
    use super::walk::{Look, walk};
    use super::{Form, Row, Table};
    use crate::extent::{ByteRange, Extent};
    use crate::testkit::MemSource;
    use futures_util::FutureExt;

    fn mapped(source: &MemSource, form: Form) -> String {
        let mut out = Vec::new();
        let mut table = Table::new(form);
        let look = Look::Source(source);
        let walked = walk(&look, |row| table.row(&mut out, &row));
        walked.now_or_never().unwrap().unwrap();
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
    fn what_cannot_be_opened_has_no_map_and_what_breaks_off_ends_its_line() {
        for form in [Form::Json, Form::Human] {
            let mut out = Vec::new();
            Table::new(form).cut(&mut out).unwrap();
            assert_eq!(out, b"");
        }
        let mut out = Vec::new();
        let mut table = Table::new(Form::Json);
        let extent = Extent::data(ByteRange::new(0, 512));
        table.row(&mut out, &Row::of(extent)).unwrap();
        table.cut(&mut out).unwrap();
        assert!(out.starts_with(b"[{") && out.ends_with(b"}\n"));
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
}
