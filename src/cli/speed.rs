//! The options of speed and memory that commands share.

use super::words;
use crate::job::Throttle;
use crate::job::options::Tuning;
use clap::Args;
use std::time::Duration;

/// Speed and memory.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Speed and memory")]
pub(super) struct Speed {
    /// Connections to each server that allows several [default: NBD 1 by unix socket, 4 by TCP; HTTP 8]
    #[arg(short = 'C', long, value_name = "N", value_parser = words::count)]
    connections: Option<usize>,

    /// Requests in flight
    #[arg(short = 'R', long, value_name = "N", default_value = "64", value_parser = words::count)]
    requests: usize,

    /// Bytes of one request: a power of two from 4k to 32M; adapted if not given
    #[arg(long, value_name = "SIZE", value_parser = words::request_size)]
    request_size: Option<u32>,

    /// Bytes of buffers
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = words::size)]
    memory: u64,

    /// Bytes per second at most, of all disks of this command together; 0 is as fast as it goes
    #[arg(long, value_name = "SIZE", value_parser = words::size)]
    rate: Option<u64>,

    /// How long a server or disk that fails for a moment is tried again
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    retry: u64,

    /// Use several connections although the server does not advertise it: only right if nobody
    /// writes to the disk
    #[arg(long)]
    multi_conn: bool,
}

impl Speed {
    /// As the engine takes it.
    pub(super) fn tuning(&self) -> Tuning {
        Tuning {
            memory: self.memory,
            connections_at_most: None,
            connections: self.connections,
            force_connections: self.multi_conn,
            requests: self.requests,
            request_size: self.request_size,
            rate: self.rate.filter(|rate| *rate > 0),
            retry: Duration::from_secs(self.retry),
        }
    }

    /// The limit on what all disks of one command are read by.
    pub(super) fn throttle(&self) -> Throttle {
        Throttle::of(&self.tuning())
    }
}
