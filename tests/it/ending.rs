//! Those who have something to take down are told when the end is near.

use super::depth::{Far, SIZE};
use super::engine::{block_on, setup};
use diskferry::buffer::Budget;
use diskferry::extent::ByteRange;
use diskferry::pipeline::{Planned, RequestSize, Setup, Stop, run};
use diskferry::plan::{Done, Step};
use diskferry::testkit::MemTarget;
use futures_util::stream;
use std::sync::Arc;
use std::time::Duration;

const REQUEST: u32 = 2 << 20;

/// How many calls came before the target was told, and how many came in all.
fn told(last: bool) -> (Option<usize>, usize) {
    let source = Far::new(Duration::from_millis(2));
    let target = MemTarget::new(SIZE);
    let setup = Setup {
        last,
        requests: 1,
        request_size: RequestSize::Fixed(REQUEST),
        budget: Budget::new(8 << 20, 4),
        size: SIZE,
        ..setup(Arc::new(source), Arc::new(target.clone()), Done::default())
    };
    let planned = Planned {
        window: ByteRange::new(0, SIZE),
        steps: vec![Step::Copy(ByteRange::new(0, SIZE))],
        skipped: 0,
    };
    block_on(run(setup, stream::iter([Ok(planned)]), None, Stop::never())).unwrap();
    (target.ending_after(), target.calls().len())
}

#[test]
fn a_target_is_told_before_the_last_request_and_not_at_the_first() {
    let (told, calls) = told(true);
    let told = told.expect("it was never told");
    assert!(calls / 2 < told && told < calls, "{told} of {calls}");
}

#[test]
fn a_target_that_will_be_read_back_is_not_told() {
    assert_eq!(told(false).0, None);
}
