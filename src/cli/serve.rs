//! `diskferry serve`: a disk as a read-only NBD export.

use super::open::ImageOptions;
use super::output::{self, Output};
use super::speed::Speed;
use super::{Command, open, stop, words};
use crate::address::Address;
use crate::error::Result;
use crate::job::serve::{ServeOptions, serve};
use crate::nbd::server::{Listen, Settings};
use clap::Args;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Serve a disk as a read-only NBD export, on this machine only
///
/// Prints the address once clients can connect, and serves until it is told to stop.
#[derive(Args, Clone, Debug)]
pub(super) struct Serve {
    /// The disk: a path, an NBD URI or [ CMD ARGS ]
    #[arg(value_parser = words::address)]
    source: Address,

    /// Listen on a Unix socket, which is made here
    #[arg(short = 'k', long, value_name = "PATH", conflicts_with = "port")]
    socket: Option<PathBuf>,

    /// Listen on this port of the loopback device; 0 takes any that is free
    #[arg(long, value_name = "N", default_value_t = 10809)]
    port: u16,

    /// Name of the export; clients that name none get it as well
    #[arg(short = 'x', long, value_name = "NAME", default_value = "")]
    export_name: String,

    /// End when the last client has left
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    image: ImageOptions,

    #[command(flatten)]
    speed: Speed,
}

impl Command for Serve {
    const NAME: &'static str = "serve";

    async fn run(self, output: Output) -> Result<()> {
        let (tuning, throttle) = (self.speed.tuning(), self.speed.throttle());
        let reading = self.image.reading();
        let source = open::source(&self.source, &reading, &tuning, &throttle).await?;
        let options = ServeOptions {
            listen: match self.socket {
                Some(path) => Listen::Unix(path),
                None => Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))),
            },
            name: self.export_name,
            once: self.once,
            settings: Settings::default(),
        };
        let ready = |uri: &str| {
            output::print(&match output.json() {
                true => format!("{}\n", json!({ "uri": uri })),
                false => format!("{uri}\n"),
            })
        };
        let mut stop = stop::on_signals()?;
        serve(source, &options, ready, stop.requested()).await
    }
}
