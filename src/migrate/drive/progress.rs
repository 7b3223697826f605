//! How far all disks are together, twice a second.

use super::scene::Scene;
use crate::migrate::board::together;
use crate::report::{Event, Meter};
use std::time::{Duration, Instant};
use tokio::time::{Interval, MissedTickBehavior, interval};

const EVERY: Duration = Duration::from_millis(500);

/// Tells progress for as long as it is ticked.
pub(super) struct Progress<'a> {
    scene: &'a Scene,
    began: Instant,
    meter: Meter,
    size: u64,
    interval: Interval,
}

impl<'a> Progress<'a> {
    pub(super) fn new(scene: &'a Scene) -> Self {
        scene.follow_clock();
        let sizes = scene.book.look(|record| {
            let sizes = record.disks.iter().map(|disk| disk.size);
            sizes.fold(0, u64::saturating_add)
        });
        let mut interval = interval(EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut meter = Meter::default();
        meter.observe(Duration::ZERO, &together(&scene.board.live()), sizes);
        Self {
            scene,
            began: Instant::now(),
            meter,
            size: sizes,
            interval,
        }
    }

    /// Waits for the next beat, and tells.
    pub(super) async fn tick(&mut self) {
        self.interval.tick().await;
        self.scene.follow_clock();
        self.tell();
    }

    /// Tells a last time.
    pub(super) fn end(mut self) {
        self.tell();
    }

    fn tell(&mut self) {
        let totals = together(&self.scene.board.live());
        let elapsed = self.began.elapsed();
        let pace = self.meter.observe(elapsed, &totals, self.size);
        self.scene.tell(&Event::Progress {
            totals,
            size: self.size,
            elapsed: elapsed.as_secs_f64(),
            throughput: pace.throughput,
            eta: pace.left.map(|left| left.as_secs_f64()),
        });
    }
}
