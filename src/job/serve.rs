//! Serving a source over NBD, until its clients are gone or a stop is asked for.

use crate::error::Result;
use crate::nbd::server::{Listen, Server, Settings};
use crate::source::Source;
use crate::source::export::SourceExport;
use std::sync::Arc;

/// How a source is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where: a Unix socket or a loopback port.
    pub listen: Listen,
    /// Name of the export. It is the default export, too.
    pub name: String,
    /// End when the last client has left, once there was one.
    pub once: bool,
    /// Limits, and TLS.
    pub settings: Settings,
}

/// Serves `source` read-only. `ready` gets the URI once clients can connect.
///
/// Returns when `stop` does, after the requests under way are finished; or, with
/// [`ServeOptions::once`], when the last client has left.
///
/// # Errors
/// The address cannot be listened on, or `ready` fails.
pub async fn serve(
    source: Arc<dyn Source>,
    options: &ServeOptions,
    ready: impl FnOnce(&str) -> Result<()>,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let server = Server::start(&options.listen, options.settings.clone()).await?;
    server.add(&options.name, Arc::new(SourceExport::new(source)))?;
    let tls = options.settings.tls.as_ref();
    let tls = tls.is_some_and(|tls| tls.required);
    ready(&server.place().uri(&options.name, tls))?;
    tokio::select! {
        () = stop => {}
        () = server.deserted(), if options.once => {}
    }
    server.stop().await;
    Ok(())
}
