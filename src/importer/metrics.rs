//! What a scrape gets. Pure, over numbers that others count.
//!
//! Two controllers look for one line each with a regular expression: CDI for
//! `kubevirt_cdi_import_progress_total`, whose single label is the owner, and a volume populator for
//! any metric that ends in `progress` with that label. Numbers are plain decimals, never `1e2`.

use crate::pipeline::counters::Counters;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Progress is counted in hundredths of a percent.
const WHOLE: u64 = 10_000;

/// How far an import is. Shared by whoever counts and whoever is asked.
#[derive(Debug)]
pub(super) struct Gauge {
    owner: String,
    /// What the engine counts.
    pub(super) counters: Arc<Counters>,
    size: AtomicU64,
    /// The image is unpacked before it is copied.
    unpacks: AtomicBool,
    /// It is copied as it comes.
    forward: AtomicBool,
    /// In hundredths of a percent; never falls.
    reached: AtomicU64,
}

impl Gauge {
    pub(super) fn new(owner: &str) -> Self {
        Self {
            owner: owner.to_owned(),
            counters: Arc::default(),
            size: AtomicU64::new(0),
            unpacks: AtomicBool::new(false),
            forward: AtomicBool::new(false),
            reached: AtomicU64::new(0),
        }
    }

    /// The disk has so many bytes.
    pub(super) fn size(&self, bytes: u64) {
        self.size.store(bytes, Ordering::Relaxed);
    }

    /// The image is unpacked first: half of the work.
    pub(super) fn unpack(&self) {
        self.unpacks.store(true, Ordering::Relaxed);
    }

    /// Whether an image was begun to be unpacked.
    pub(super) fn unpacks(&self) -> bool {
        self.unpacks.load(Ordering::Relaxed)
    }

    /// What is imported has no size before it has come: what the server sends is all that counts.
    pub(super) fn forward(&self) {
        self.forward.store(true, Ordering::Relaxed);
    }

    /// All is done and durable.
    pub(super) fn complete(&self) {
        self.reached.store(WHOLE, Ordering::Relaxed);
    }

    /// Hundredths of a percent. All of them only when it is said so: what is copied may still not
    /// be durable. Of what nobody knows the size of, nothing.
    fn progress(&self) -> u64 {
        let counters = &self.counters;
        let (came, coming) = (counters.tally.came(), counters.tally.coming());
        let size = self.size.load(Ordering::Relaxed);
        let copied = share(counters.position.load(Ordering::Relaxed), size);
        let now = match (self.unpacks(), self.forward.load(Ordering::Relaxed)) {
            (true, _) if coming > 0 => share(came, coming).midpoint(copied),
            (_, true) => share(came, coming),
            _ => copied,
        };
        let now = now.min(WHOLE.saturating_sub(1));
        self.reached.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// The page, in Prometheus' text format.
    pub(super) fn page(&self) -> String {
        let reached = self.progress();
        let (whole, part) = (reached / 100, reached % 100);
        let percent = format!("{{ownerUID=\"{}\"}} {whole}.{part:02}", self.owner);
        let mut page = format!(
            "# HELP kubevirt_cdi_import_progress_total The import progress in percentage\n\
             # TYPE kubevirt_cdi_import_progress_total counter\n\
             kubevirt_cdi_import_progress_total{percent}\n\
             # HELP diskferry_populator_progress The same, for volume populators\n\
             # TYPE diskferry_populator_progress gauge\n\
             diskferry_populator_progress{percent}\n\
             # HELP diskferry_bytes_total Bytes of this pass by what was done with them\n\
             # TYPE diskferry_bytes_total counter\n",
        );
        let totals = self.counters.snapshot();
        for (kind, bytes) in [
            ("read", totals.read),
            ("written", totals.written),
            ("zeroed", totals.zeroed),
            ("skipped", totals.skipped),
            ("verified", totals.verified),
        ] {
            // Writing to a string does not fail.
            let _ = writeln!(page, "diskferry_bytes_total{{kind=\"{kind}\"}} {bytes}");
        }
        let size = self.size.load(Ordering::Relaxed);
        let _ = write!(
            page,
            "# HELP diskferry_retries_total Requests that were repeated\n\
             # TYPE diskferry_retries_total counter\n\
             diskferry_retries_total {}\n\
             # HELP diskferry_disk_size_bytes Size of the disk\n\
             # TYPE diskferry_disk_size_bytes gauge\n\
             diskferry_disk_size_bytes {size}\n",
            totals.retries
        );
        page
    }
}

/// Hundredths of a percent that `part` is of `all`, which may not be known yet.
fn share(part: u64, all: u64) -> u64 {
    let share = u128::from(part).saturating_mul(WHOLE.into());
    let share = share.checked_div(all.into()).unwrap_or(0);
    u64::try_from(share).unwrap_or(WHOLE).min(WHOLE)
}

#[cfg(test)]
mod tests {
    use super::Gauge;
    use crate::buffer::Buffer;
    use crate::source::stream::{ByteStream, Counted};
    use crate::testkit::MemStream;
    use futures_util::FutureExt;
    use std::sync::atomic::Ordering;

    /// What CDI's own expression, `(kubevirt_cdi_import_progress_total|…)\{ownerUID\="uid"\}
    /// (\d{1,3}\.?\d*)`, would capture. Integration tests use the expression itself.
    fn captured(page: &str) -> String {
        let start = "kubevirt_cdi_import_progress_total{ownerUID=\"uid-1\"} ";
        let rest = page.split_once(start).unwrap().1;
        rest.chars()
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect()
    }

    #[test]
    fn progress_never_falls_and_is_whole_only_when_all_is_durable() {
        let gauge = Gauge::new("uid-1");
        assert_eq!(captured(&gauge.page()), "0.00", "nothing is known yet");
        gauge.size(3 << 30);
        gauge.counters.position.store(1 << 30, Ordering::Relaxed);
        assert_eq!(captured(&gauge.page()), "33.33");
        gauge.counters.position.store(0, Ordering::Relaxed);
        assert_eq!(captured(&gauge.page()), "33.33", "another attempt began");
        gauge.counters.position.store(3 << 30, Ordering::Relaxed);
        assert_eq!(captured(&gauge.page()), "99.99");
        gauge.complete();
        assert_eq!(captured(&gauge.page()), "100.00");
    }

    fn sent(gauge: &Gauge, came: usize, coming: u64) {
        let stream = Box::new(MemStream::new(&vec![1; came]));
        let mut stream = Counted::new(stream, Some(coming), &gauge.counters.tally, 0);
        let next = stream.next(Buffer::unbudgeted(came));
        assert_eq!(next.now_or_never().unwrap().unwrap().unwrap().len(), came);
    }

    #[test]
    fn unpacking_is_the_first_half_of_what_is_unpacked_and_nothing_of_what_is_not() {
        let gauge = Gauge::new("uid-1");
        sent(&gauge, 500, 1000);
        assert_eq!(captured(&gauge.page()), "0.00", "it may be looked at only");
        gauge.unpack();
        assert_eq!(captured(&gauge.page()), "25.00");
        sent(&gauge, 100, 1000);
        assert_eq!(captured(&gauge.page()), "25.00", "it began anew");
        sent(&gauge, 1000, 1000);
        assert_eq!(captured(&gauge.page()), "50.00");
        gauge.size(400);
        gauge.counters.position.store(100, Ordering::Relaxed);
        assert_eq!(captured(&gauge.page()), "62.50");
        gauge.counters.position.store(400, Ordering::Relaxed);
        assert_eq!(captured(&gauge.page()), "99.99");
    }

    #[test]
    fn what_is_copied_as_it_comes_is_as_far_as_what_came() {
        let gauge = Gauge::new("uid-1");
        gauge.forward();
        assert_eq!(
            captured(&gauge.page()),
            "0.00",
            "nobody says how long it is"
        );
        sent(&gauge, 500, 1000);
        assert_eq!(captured(&gauge.page()), "50.00");
    }

    #[test]
    fn the_page_is_one_metric_a_line() {
        let page = Gauge::new("u").page();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, number) = line.rsplit_once(' ').unwrap();
            assert!(
                !name.contains(' ') && number.parse::<f64>().is_ok(),
                "{line}"
            );
        }
    }
}
