//! Reads a whole NBD export to nowhere and tells what it cost: the floor under every copy.
//!
//! ```text
//! cargo bench --bench nbd_read -- URI [connections=N] [requests=N] [size=BYTES] [threads=N]
//! ```
//!
//! `requests` are those in flight together, `threads=0` runs on one thread. Compare with
//! `nbdcopy URI null:` and `qemu-img bench` against the same server, in turns.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark speaks to a person, and ends at the first surprise"
)]

use diskferry::buffer::Budget;
use diskferry::nbd::client::{Client, Endpoint, Options};
use futures_util::StreamExt;
use futures_util::stream;
use std::env;
use std::fs;
use std::time::Instant;
use tokio::runtime::{Builder, Runtime};

/// What is measured.
struct Plan {
    uri: String,
    connections: usize,
    requests: usize,
    size: usize,
    threads: usize,
}

impl Plan {
    fn from_words(words: impl Iterator<Item = String>) -> Option<Self> {
        let mut plan = Self {
            uri: String::new(),
            connections: 2,
            requests: 16,
            size: 256 << 10,
            threads: 0,
        };
        for word in words.filter(|word| !word.starts_with("--")) {
            match word.split_once('=') {
                Some(("connections", value)) => plan.connections = value.parse().ok()?,
                Some(("requests", value)) => plan.requests = value.parse().ok()?,
                Some(("size", value)) => plan.size = value.parse().ok()?,
                Some(("threads", value)) => plan.threads = value.parse().ok()?,
                _ => plan.uri = word,
            }
        }
        (!plan.uri.is_empty()).then_some(plan)
    }

    fn runtime(&self) -> Runtime {
        let mut builder = match self.threads {
            0 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        if self.threads > 0 {
            builder.worker_threads(self.threads);
        }
        builder.enable_all().build().expect("a runtime")
    }
}

/// Seconds of processor time of this process, from `/proc/self/stat`.
fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("read /proc/self/stat");
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: f64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

async fn read_all(plan: &Plan) -> u64 {
    let options = Options {
        connections: plan.connections,
        ..Options::default()
    };
    let uri = plan.uri.parse().expect("a URI");
    let client = Client::connect(Endpoint::Uri(uri), options)
        .await
        .expect("a connection");
    let size = client.export().size;
    let budget = Budget::new(plan.size * plan.requests, plan.requests);
    stream::iter((0..size).step_by(plan.size))
        .map(|offset| {
            let (client, budget) = (&client, &budget);
            let left = usize::try_from(size - offset).unwrap_or(usize::MAX);
            async move {
                let buffer = budget.take(plan.size.min(left)).await;
                client.read(offset, buffer).await.expect("a read");
            }
        })
        .buffer_unordered(plan.requests)
        .for_each(|()| async {})
        .await;
    client.close().await;
    size
}

fn main() {
    let Some(plan) = Plan::from_words(env::args().skip(1)) else {
        println!("nbd_read: give the URI of an export to read");
        return;
    };
    let runtime = plan.runtime();
    let (start, processor) = (Instant::now(), processor_seconds());
    let size = runtime.block_on(read_all(&plan));
    let (seconds, processor) = (
        start.elapsed().as_secs_f64(),
        processor_seconds() - processor,
    );
    #[allow(clippy::cast_precision_loss, reason = "a size to print")]
    let gib = size as f64 / f64::from(1 << 30);
    println!(
        "{:.0} MB/s, {:.3} s of processor for each GiB",
        gib * 1_073.741_824 / seconds,
        processor / gib
    );
}
