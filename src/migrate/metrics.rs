//! The numbers of a migration for Prometheus. Names and units are documented in `docs/metrics.md`.

use super::board::Live;
use super::book;
use super::drive::Scene;
use super::record::Record;
use super::status::name;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

/// The page as it is now.
pub(super) fn page(scene: &Arc<Scene>) -> String {
    let numbers = Numbers {
        record: scene.book.record(),
        live: scene.board.live(),
        now: book::now(),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(numbers));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => text,
        // A page that is cut short would look whole.
        Err(fmt::Error) => String::new(),
    }
}

/// All numbers of one moment.
#[derive(Debug)]
struct Numbers {
    record: Record,
    live: Live,
    now: u64,
}

/// One line of a metric: its labels, and the number.
type Line<'a> = (Vec<(&'a str, &'a str)>, f64);

impl Numbers {
    fn counters(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut moved: Vec<Line<'_>> = Vec::new();
        let mut retries: Vec<Line<'_>> = Vec::new();
        let mut waits: Vec<Line<'_>> = Vec::new();
        for (i, disk) in self.record.disks.iter().enumerate() {
            let (disk, all) = (disk.name.as_str(), self.live.totals(i));
            let kinds = [
                ("read", all.read),
                ("written", all.written),
                ("zeroed", all.zeroed),
                ("skipped", all.skipped),
                ("verified", all.verified),
            ];
            moved.extend(kinds.map(|(kind, n)| (vec![("disk", disk), ("kind", kind)], float(n))));
            retries.push((vec![("of", disk)], float(all.retries)));
            let causes = ["source", "target", "cpu", "limit"].into_iter();
            let spent = causes.zip(self.live.waits(i));
            waits.extend(spent.map(|(cause, nanos)| {
                (vec![("disk", disk), ("cause", cause)], float(nanos) / 1e9)
            }));
        }
        retries.push((vec![("of", "guest")], float(self.live.retries)));
        counter(
            to,
            "diskferry_moved_bytes",
            "Bytes by what was done with them",
            &moved,
        )?;
        counter(
            to,
            "diskferry_retries",
            "Requests and calls that were repeated",
            &retries,
        )?;
        counter(
            to,
            "diskferry_stalled_seconds",
            "Time of requests by what it was spent on",
            &waits,
        )
    }

    fn tracking(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let disks = || self.record.disks.iter().enumerate();
        let lost: Vec<Line<'_>> = disks()
            .map(|(i, disk)| {
                let times = self.live.lost.get(i).copied().unwrap_or(0);
                (vec![("disk", disk.name.as_str())], float(times))
            })
            .collect();
        counter(
            to,
            "diskferry_tracking_lost",
            "Times that what tells changes could not be relied on",
            &lost,
        )?;
        let believed: Vec<Line<'_>> = disks()
            .map(|(_, disk)| {
                let believed = u64::from(disk.untracked.is_none());
                (vec![("disk", disk.name.as_str())], float(believed))
            })
            .collect();
        gauge(
            to,
            "diskferry_tracking_believed",
            "0 while all of a disk is compared because its changes cannot be told",
            &believed,
        )
    }

    fn place(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let state = &self.record.state;
        let phase = name(state.phase());
        gauge(
            to,
            "diskferry_phase",
            "1 for where it is",
            &[(vec![("phase", &phase)], 1.0)],
        )?;
        let one = |n: u64| [(Vec::new(), float(n))];
        gauge(
            to,
            "diskferry_point",
            "The point that is worked on",
            &one(state.point.into()),
        )?;
        gauge(
            to,
            "diskferry_durable_point",
            "The newest point that is durable on every disk",
            &one(state.durable.into()),
        )?;
        let lag = self.record.frozen_at(state.durable);
        let lag = lag.map(|frozen| float(self.now.saturating_sub(frozen)) / 1e3);
        some(
            to,
            "diskferry_lag_seconds",
            "Age of what the targets hold",
            lag,
        )?;
        let last = self.record.passes.last();
        let took = last.map(|pass| float(pass.copying) / 1e3);
        some(
            to,
            "diskferry_last_pass_seconds",
            "Time that the last pass copied",
            took,
        )?;
        let moved = last.map(|pass| float(pass.moved()));
        some(
            to,
            "diskferry_last_pass_bytes",
            "Bytes that the last pass dealt with",
            moved,
        )
    }

    fn changed(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let disks = self.record.disks.iter().enumerate();
        let changed = disks.filter_map(|(i, disk)| {
            let changed = self.live.changed(i)?;
            Some((vec![("disk", disk.name.as_str())], float(changed)))
        });
        gauge(
            to,
            "diskferry_dirty_bytes",
            "Bytes that changed since the last point",
            &changed.collect::<Vec<Line<'_>>>(),
        )
    }

    fn forecast(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let forecast = &self.live.forecast;
        let rates = forecast
            .disks
            .iter()
            .filter_map(|disk| Some((vec![("disk", disk.name.as_str())], float(disk.dirty_rate?))));
        let rates: Vec<Line<'_>> = rates.collect();
        gauge(
            to,
            "diskferry_dirty_bytes_per_second",
            "How fast each disk changes",
            &rates,
        )?;
        some(
            to,
            "diskferry_throughput_bytes_per_second",
            "What passes get through",
            forecast.throughput.map(float),
        )?;
        let next = forecast.next;
        some(
            to,
            "diskferry_forecast_next_pass_bytes",
            "Bytes of a pass that begins now",
            next.map(|next| float(next.bytes)),
        )?;
        some(
            to,
            "diskferry_forecast_next_pass_seconds",
            "Time that a pass copies that begins now",
            next.map(|next| float(next.millis) / 1e3),
        )?;
        some(
            to,
            "diskferry_forecast_outage_seconds",
            "Time from a quiet source to the certificate, if it were cut over now",
            forecast.outage.map(|outage| float(outage.millis) / 1e3),
        )?;
        some(
            to,
            "diskferry_forecast_margin_ratio",
            "By how much that may be wrong",
            forecast.outage.map(|outage| float(outage.margin) / 1e2),
        )?;
        let outage = self
            .record
            .outage
            .and_then(|outage| outage.quiet.zip(outage.ended));
        let outage = outage.map(|(quiet, ended)| float(ended.saturating_sub(quiet)) / 1e3);
        some(
            to,
            "diskferry_outage_seconds",
            "Time from a quiet source to the certificate",
            outage,
        )
    }
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.counters(&mut encoder)?;
        self.tracking(&mut encoder)?;
        self.place(&mut encoder)?;
        self.changed(&mut encoder)?;
        self.forecast(&mut encoder)
    }
}

fn counter(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    lines: &[Line<'_>],
) -> fmt::Result {
    let mut metric = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, number) in lines {
        metric
            .encode_family(&labels.as_slice())?
            .encode_counter::<NoLabelSet, f64, f64>(number, None)?;
    }
    Ok(())
}

fn gauge(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    lines: &[Line<'_>],
) -> fmt::Result {
    let mut metric = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, number) in lines {
        metric
            .encode_family(&labels.as_slice())?
            .encode_gauge(number)?;
    }
    Ok(())
}

/// A gauge without labels, if its number is known.
fn some(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    number: Option<f64>,
) -> fmt::Result {
    let lines: Vec<Line<'_>> = number
        .map(|number| (Vec::new(), number))
        .into_iter()
        .collect();
    gauge(to, name, help, &lines)
}

/// As Prometheus has all numbers.
#[allow(
    clippy::cast_precision_loss,
    reason = "beyond 2^53 bytes nobody misses the last one"
)]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::{Numbers, Registry, encode};
    use crate::migrate::board::Board;
    use crate::migrate::plan::Plan;
    use crate::migrate::record::Record;

    #[test]
    fn the_page_has_every_documented_name_and_no_other() {
        let text = "{vm: v, guest: {nbd: {command: [x]}}, \
                    disks: [{name: a, source: s, target: /dev/a}]}";
        let record = Record::new(&Plan::parse(text).unwrap(), "id".to_owned(), 1);
        let live = Board::new(&record).live();
        let numbers = Numbers {
            record,
            live,
            now: 5,
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(numbers));
        let mut page = String::new();
        encode(&mut page, &registry).unwrap();
        assert!(
            page.contains("diskferry_moved_bytes_total{disk=\"a\",kind=\"read\"} 0"),
            "{page}"
        );
        assert!(
            page.contains("diskferry_phase{phase=\"preflight\"} 1"),
            "{page}"
        );
        let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let mut names: Vec<&str> = types.filter_map(|line| line.split(' ').next()).collect();
        let documented = include_str!("../../docs/metrics.md");
        let rows = documented
            .lines()
            .filter_map(|line| line.strip_prefix("| `"));
        let mut rows: Vec<&str> = rows
            .filter_map(|row| row.split(['`', '{']).next())
            .collect();
        rows.iter_mut()
            .for_each(|row| *row = row.trim_end_matches("_total"));
        names.sort_unstable();
        rows.sort_unstable();
        assert_eq!(names, rows);
    }
}
