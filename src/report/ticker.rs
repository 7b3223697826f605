//! Tells how far a pass is, twice a second, whether or not anything moves.
//!
//! A thread rather than a task: the heartbeat must also beat when the runtime is busy or stuck,
//! for that is when somebody looks at it.

use super::{Event, Meter, Reporter};
use crate::pipeline::counters::{Counters, Totals};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Time between two progress events. The promise in `docs/events.md` is once a second.
const INTERVAL: Duration = Duration::from_millis(500);

/// Polls the counters of a pass until it is dropped, which emits a last progress event.
#[derive(Debug)]
pub struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts to tell `reporter` about `counters` of a pass over a disk of `size` bytes.
    ///
    /// Where no thread can be had, the job goes on without a heartbeat and a warning says so.
    #[must_use]
    pub fn start(reporter: &Arc<dyn Reporter>, counters: Arc<Counters>, size: u64) -> Self {
        let (stop, stopped) = channel();
        let voice = Arc::clone(reporter);
        let spawned = Builder::new()
            .name("progress".to_owned())
            .spawn(move || tick(voice.as_ref(), &counters, size, &stopped));
        let thread = spawned
            .inspect_err(|error| {
                reporter.event(&Event::Warning {
                    message: format!("no progress is shown: start a thread: {error}"),
                });
            })
            .ok();
        Self {
            stop: Some(stop),
            thread,
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panics only if a reporter does, and then there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// Emits a progress event at every interval, and one when `stopped` is closed.
fn tick(reporter: &dyn Reporter, counters: &Counters, size: u64, stopped: &Receiver<()>) {
    let started = Instant::now();
    let mut meter = Meter::default();
    let mut furthest = counters.snapshot();
    meter.observe(Duration::ZERO, &furthest, size);
    loop {
        let waited = stopped.recv_timeout(INTERVAL);
        let elapsed = started.elapsed();
        furthest = later(furthest, counters.snapshot());
        let pace = meter.observe(elapsed, &furthest, size);
        reporter.event(&Event::Progress {
            totals: furthest,
            size,
            elapsed: elapsed.as_secs_f64(),
            throughput: pace.throughput,
            eta: pace.left.map(|left| left.as_secs_f64()),
        });
        if waited != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// `now`, with no number smaller than it was `before`: what was told is never taken back.
fn later(before: Totals, now: Totals) -> Totals {
    Totals {
        read: now.read.max(before.read),
        written: now.written.max(before.written),
        zeroed: now.zeroed.max(before.zeroed),
        skipped: now.skipped.max(before.skipped),
        verified: now.verified.max(before.verified),
        position: now.position.max(before.position),
        goal: now.goal,
        dealt: now.dealt.max(before.dealt),
        retries: now.retries.max(before.retries),
        bottleneck: now.bottleneck,
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, INTERVAL, Reporter, Ticker};
    use crate::pipeline::counters::Counters;
    use std::sync::atomic::Ordering;
    use std::sync::{Arc, Mutex};
    use std::thread::sleep;
    use std::time::Duration;

    #[derive(Default)]
    struct Heard(Mutex<Vec<Event>>);

    impl Reporter for Heard {
        fn event(&self, event: &Event) {
            self.0.lock().unwrap().push(event.clone());
        }
    }

    #[test]
    fn the_heart_beats_while_nothing_moves_and_the_last_beat_tells_the_end() {
        assert!(
            INTERVAL <= Duration::from_secs(1),
            "the promise of docs/events.md"
        );
        let heard = Arc::new(Heard::default());
        let counters = Arc::new(Counters::default());
        let ticker = Ticker::start(&(heard.clone() as Arc<dyn Reporter>), counters.clone(), 100);
        sleep(INTERVAL * 3);
        counters.position.store(100, Ordering::Relaxed);
        drop(ticker);
        let events = heard.0.lock().unwrap();
        let positions: Vec<u64> = events
            .iter()
            .map(|event| match event {
                Event::Progress { totals, .. } => totals.position,
                other => panic!("not progress: {other:?}"),
            })
            .collect();
        assert!(positions.len() >= 2, "{positions:?}");
        assert_eq!(positions.last(), Some(&100));
        assert!(positions.is_sorted());
    }
}
