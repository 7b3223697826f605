//! How long a request should be. Pure: it is told what happened and answers with a length.
//!
//! Small requests pay the round trip and the per-request cost more often; large ones fall out of
//! the cache and make the pipeline lumpy. Which wins depends on the peer, so it is tried: double
//! the length, keep it if throughput rose by a tenth, else go back and hold for a while.

use std::time::Duration;

/// How the length of requests is chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestSize {
    /// Always this many bytes.
    Fixed(u32),
    /// Whatever is fastest, in bytes.
    Adaptive {
        /// What to begin with.
        start: u32,
        /// Longest.
        max: u32,
    },
}

/// Bytes that one trial lasts at least: enough to see past noise.
const TRIAL_BYTES: u64 = 96 << 20;

/// A trial also lasts this long, however fast.
const TRIAL_TIME: Duration = Duration::from_millis(150);

/// Trials for which a length that was found best is left alone.
const HOLD: u32 = 64;

/// Trials for which the first length is left alone: connections, caches and buffers are still cold,
/// and a copy that is over by then has no time to gain what a trial may cost.
const WARM_UP: u32 = 8;

/// Chooses the length of requests as a pass goes on.
#[derive(Debug)]
pub(super) struct Sizer {
    size: u32,
    max: u32,
    /// Throughput at half the size, while the double is on trial.
    before: Option<f64>,
    /// Trials that are not judged.
    hold: u32,
    bytes: u64,
    began: Duration,
}

impl Sizer {
    pub(super) fn new(choice: RequestSize) -> Self {
        let (size, max) = match choice {
            RequestSize::Fixed(size) => (size, size),
            RequestSize::Adaptive { start, max } => (start.min(max), max),
        };
        Self {
            size: size.max(1),
            max,
            before: None,
            hold: WARM_UP,
            bytes: 0,
            began: Duration::ZERO,
        }
    }

    /// Bytes of the next request.
    pub(super) fn size(&self) -> u64 {
        u64::from(self.size)
    }

    /// `bytes` were copied; `now` is the time since the pass began.
    pub(super) fn completed(&mut self, bytes: u64, now: Duration) {
        self.bytes = self.bytes.saturating_add(bytes);
        let time = now.saturating_sub(self.began);
        if self.bytes < TRIAL_BYTES || time < TRIAL_TIME {
            return;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "throughput is compared to a tenth"
        )]
        let speed = self.bytes as f64 / time.as_secs_f64();
        (self.bytes, self.began) = (0, now);
        self.judge(speed);
    }

    fn judge(&mut self, speed: f64) {
        match self.before.take() {
            Some(before) if speed < before * 1.1 => {
                self.size = (self.size / 2).max(1);
                self.hold = HOLD;
            }
            _ if self.hold > 0 => self.hold = self.hold.saturating_sub(1),
            _ => {
                let double = self.size.saturating_mul(2);
                if double <= self.max {
                    self.before = Some(speed);
                    self.size = double;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{RequestSize, Sizer};
    use std::time::Duration;

    const ADAPTIVE: RequestSize = RequestSize::Adaptive {
        start: 256 << 10,
        max: 2 << 20,
    };

    /// Copies for a while against a peer whose speed, in MiB/s, depends on the request length.
    fn settle(choice: RequestSize, speed: impl Fn(u64) -> f64) -> u64 {
        let mut sizer = Sizer::new(choice);
        let mut now = Duration::ZERO;
        for _ in 0..40 {
            now += Duration::from_secs_f64(128.0 / speed(sizer.size()));
            sizer.completed(128 << 20, now);
        }
        sizer.size()
    }

    #[test]
    fn latency_makes_requests_grow_to_the_limit() {
        assert_eq!(settle(ADAPTIVE, |size| size as f64 / 2048.0), 2 << 20);
    }

    #[test]
    fn a_peer_that_does_not_care_keeps_short_requests() {
        assert_eq!(settle(ADAPTIVE, |_| 500.0), 256 << 10);
    }

    #[test]
    fn a_peer_that_dislikes_long_requests_gets_the_best_length() {
        assert_eq!(
            settle(ADAPTIVE, |size| if size <= 512 << 10 {
                size as f64 / 1024.0
            } else {
                50.0
            }),
            512 << 10
        );
    }

    #[test]
    fn a_slow_beginning_does_not_look_like_a_gain() {
        let mut began = false;
        let slow_first = std::cell::RefCell::new(&mut began);
        let settled = settle(ADAPTIVE, |_| {
            let first = !std::mem::replace(&mut **slow_first.borrow_mut(), true);
            if first { 50.0 } else { 500.0 }
        });
        assert_eq!(settled, 256 << 10);
    }

    #[test]
    fn a_fixed_length_stays() {
        assert_eq!(settle(RequestSize::Fixed(65536), |size| size as f64), 65536);
    }
}
