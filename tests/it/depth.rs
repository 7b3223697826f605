//! How much a pass asks its source for at once: what the way there holds, and no more.

use super::engine::{block_on, setup};
use async_trait::async_trait;
use diskferry::buffer::{Budget, Buffer};
use diskferry::endpoint::{Identity, Limits};
use diskferry::error::Result;
use diskferry::extent::ByteRange;
use diskferry::pipeline::{Planned, RequestSize, Setup, Stop, run};
use diskferry::plan::{Done, Step};
use diskferry::source::Source;
use diskferry::target::null::NullTarget;
use futures_util::stream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const MIB: u64 = 1 << 20;
pub(super) const SIZE: u64 = 256 * MIB;

/// A disk of zeroes that answers after a while, and knows how much it was asked for at once.
#[derive(Debug, Default)]
pub(super) struct Far {
    answers_after: Duration,
    asked: AtomicU64,
    most: AtomicU64,
}

impl Far {
    pub(super) fn new(answers_after: Duration) -> Self {
        Self {
            answers_after,
            ..Self::default()
        }
    }
}

#[async_trait]
impl Source for Far {
    fn size(&self) -> u64 {
        SIZE
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn identity(&self) -> Identity {
        Identity {
            id: "far".to_owned(),
            size: SIZE,
            name: "far".to_owned(),
        }
    }

    async fn read(&self, _: u64, buffer: Buffer) -> Result<Buffer> {
        let length = buffer.len() as u64;
        let asked = self.asked.fetch_add(length, Ordering::Relaxed) + length;
        self.most.fetch_max(asked, Ordering::Relaxed);
        tokio::time::sleep(self.answers_after).await;
        self.asked.fetch_sub(length, Ordering::Relaxed);
        Ok(buffer)
    }
}

/// The most bytes that a pass asks for at once.
fn most_asked(answers_after: Duration, request_size: u32, requests: usize) -> u64 {
    let source = Arc::new(Far::new(answers_after));
    let setup = Setup {
        budget: Budget::new(64 << 20, 4096),
        requests,
        request_size: RequestSize::Fixed(request_size),
        sparse: 0,
        size: SIZE,
        ..setup(source.clone(), Arc::new(NullTarget), Done::default())
    };
    let disk = ByteRange::new(0, SIZE);
    let planned = Planned {
        window: disk,
        steps: vec![Step::Copy(disk)],
        skipped: 0,
    };
    let feed = stream::iter([Ok(planned)]);
    block_on(run(setup, feed, None, Stop::never())).unwrap();
    source.most.load(Ordering::Relaxed)
}

#[test]
fn a_source_that_is_far_away_is_asked_for_more_at_once() {
    let most = most_asked(Duration::from_millis(3), 1 << 20, 64);
    assert_eq!(most, 16 * MIB);
}

#[test]
fn so_is_one_that_is_asked_for_little_but_never_more_often_than_it_may_be() {
    let most = most_asked(Duration::from_millis(3), 64 << 10, 64);
    assert_eq!(most, 4 * MIB, "64 requests");
}

#[test]
fn three_requests_are_out_however_long_they_are() {
    let most = most_asked(Duration::from_millis(3), 8 << 20, 64);
    assert_eq!(most, 24 * MIB);
}
