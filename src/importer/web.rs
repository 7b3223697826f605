//! An image on a web server or in an object store, straight onto the volume; by way of scratch space
//! only if it must be read in any order and the server, or how it is packed, does not let us.

use super::image::{Image, SECRET, Store};
use super::message::{Message, failure};
use super::metrics::Gauge;
use super::patience::patiently;
use super::place::Place;
use super::pulled;
use super::settings::Settings;
use super::teller::Teller;
use super::wishes::options;
use super::{End, archive, log};
use crate::address::Address;
use crate::digest::checksum::Unlike;
use crate::error::{Error, Kind, Result};
use crate::http::trust::Trust;
use crate::job::options::{CopyOptions, JournalPlace, Reading};
use crate::job::{self, Context, TooLong};
use crate::pipeline::Stop;
use crate::secret::{Place as SecretPlace, Secret};
use crate::source::http::{Access, Gcs, Login, S3, Sign};
use crate::source::registry::ContainerImage;
use crate::source::scratch::{NeedsScratch, Scratch};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Where authorities of the cluster's proxy are, if there are any.
const PROXY_CERTIFICATES: &str = "proxycerts";

/// Where headers are that are secret.
const SECRET_HEADERS: &str = "extraheaders";

/// Where scratch space is mounted.
const SCRATCH: &str = "scratch";

/// How long a server may say nothing, and how long its container may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

const COPYING: &str = "Unable to process data";

/// The words that the controller takes for an image that cannot be had.
const PULLING: &str = "Unable to process data: failed to pull image";

/// Copies the image.
pub(super) async fn import(
    settings: &Settings,
    image: &Image,
    root: &Path,
    gauge: &Arc<Gauge>,
    stop: Stop,
) -> End {
    let import = Import {
        settings,
        image,
        root,
        gauge,
    };
    match import.all(stop).await {
        Ok(message) => End::Done(Some(message)),
        // Another try would get the same bytes: the controller is told so, and not by a failure,
        // after which it would start another pod.
        Err((doing, error))
            if image.store == Store::Http && error.caused_by::<Unlike>().is_some() =>
        {
            import.remove();
            let line = failure(&doing, &error);
            log(&line);
            End::Done(Some(Message {
                message: Some(line),
                ..Message::default()
            }))
        }
        Err((doing, error)) => End::Failed(failure(&doing, &error)),
    }
}

/// What the controller recognises, if only the end of a stream shows that it does not fit.
fn too_long(error: Error, place: &Place) -> Error {
    if error.caused_by::<TooLong>().is_none() {
        return error;
    }
    let room = place.room;
    let what = format!("virtual image size is larger than the reported available storage {room}");
    error.context(what)
}

/// What the controller starts another pod for, which has scratch space.
fn wants_scratch(error: &Error) -> Message {
    log(&error.line());
    Message {
        scratch_space_required: Some(true),
        ..Message::complete(false)
    }
}

struct Import<'a> {
    settings: &'a Settings,
    image: &'a Image,
    root: &'a Path,
    gauge: &'a Arc<Gauge>,
}

impl Import<'_> {
    async fn all(&self, stop: Stop) -> Result<Message, (String, Error)> {
        let doing = format!(
            "Unable to connect to {} data source",
            self.image.store.name()
        );
        let connecting = |error| (doing.clone(), error);
        let copying = |error| (COPYING.to_owned(), error);
        if self.settings.is_archive {
            return self.archive(stop).await;
        }
        let place = Place::find(self.settings, self.root).map_err(connecting)?;
        let endpoint = stop.clone().interrupts(self.endpoint()).await;
        let endpoint = endpoint.map_err(|error| (doing.clone(), error))?;
        let pulled = self.pulled(stop.clone()).await;
        let pulled = pulled.map_err(|error| (PULLING.to_owned(), error))?;
        let options = self.options(&endpoint, &place, pulled.as_ref());
        let options = options.map_err(connecting)?;
        let teller = Arc::new(Teller::new(self.gauge));
        let context = Context {
            counters: self.gauge.counters.clone(),
            ..Context::new(teller.clone(), stop.clone())
        };
        // What is read forward has none.
        let without = CopyOptions {
            journal: JournalPlace::None,
            ..options.clone()
        };
        let look = || job::size(&without, &context);
        let size = patiently(self.settings.retry, stop.clone(), look);
        let options = match stop.clone().interrupts(size).await {
            Ok(Some(size)) => {
                self.fits(size, &place).map_err(copying)?;
                options
            }
            // It has no size before it has come.
            Ok(None) => {
                log(&format!("{} is read forward", options.source));
                self.gauge.forward();
                without
            }
            Err(error) if error.caused_by::<NeedsScratch>().is_some() => {
                return Ok(wants_scratch(&error));
            }
            Err(error) if self.gauge.unpacks() => return Err(copying(error)),
            Err(error) => return Err(connecting(error)),
        };
        let copy = || job::copy(&options, context.clone());
        let copied = patiently(self.settings.retry, stop, copy).await;
        let copied = copied.map_err(|error| copying(too_long(error, &place)))?;
        self.grow(copied.size, &place).map_err(copying)?;
        self.gauge.complete();
        self.touch_done();
        Ok(Message {
            scratch_space_required: Some(false),
            labels: pulled.and_then(|image| pulled::labels(&image.environment)),
            ..Message::complete(self.settings.preallocation)
        })
    }

    /// Makes a file as large as the volume was asked to be.
    fn grow(&self, size: u64, place: &Place) -> Result<()> {
        if place.is_block {
            return Ok(());
        }
        let size = place.grown(self.settings.image_size, size);
        place.grow(size, self.settings.preallocation)
    }

    /// Whether a disk of `size` bytes fits.
    fn fits(&self, size: u64, place: &Place) -> Result<()> {
        log(&format!("Data transfer size: {size}"));
        self.gauge.size(size);
        place.check(size)
    }

    /// Unpacks an archive of files into the volume.
    async fn archive(&self, stop: Stop) -> Result<Message, (String, Error)> {
        let doing = format!(
            "Unable to connect to {} data source",
            self.image.store.name()
        );
        let connecting = |error| (doing.clone(), error);
        if self.image.store != Store::Http {
            let what = "content of type archive is imported from web servers only";
            return Err(connecting(Error::new(Kind::Unsupported, what)));
        }
        let place = Place::find(self.settings, self.root).map_err(connecting)?;
        if place.is_block {
            let what = "an archive of files needs a volume with a file system";
            return Err(connecting(Error::new(Kind::Refused, what)));
        }
        let endpoint = stop.clone().interrupts(self.endpoint()).await;
        let endpoint = endpoint.map_err(connecting)?;
        let options = self.options(&endpoint, &place, None).map_err(connecting)?;
        let counters = &self.gauge.counters;
        self.gauge.forward();
        let stream = || job::unpacked(&options, counters);
        let stream = patiently(self.settings.retry, stop.clone(), stream);
        let stream = stop.clone().interrupts(stream).await;
        let into = place.path.parent().unwrap_or(Path::new("/"));
        let unpacked = archive::unpack(stream.map_err(connecting)?, into, counters, stop);
        unpacked
            .await
            .map_err(|error| (COPYING.to_owned(), error))?;
        self.gauge.complete();
        self.touch_done();
        Ok(Message {
            scratch_space_required: Some(false),
            ..Message::complete(false)
        })
    }

    /// Where the image is: another container of the pod, if it is to serve it, tells the name.
    async fn endpoint(&self) -> Result<String> {
        let endpoint = self.image.endpoint.clone();
        let Some(ready) = &self.image.ready else {
            return Ok(endpoint);
        };
        let ready = self.root.join(ready.strip_prefix("/").unwrap_or(ready));
        let mut waited = Duration::ZERO;
        while !ready.exists() {
            if waited >= PATIENCE {
                let what = format!("Timeout waiting for file {}", ready.display());
                return Err(Error::new(Kind::Io, what));
            }
            sleep(Duration::from_secs(1)).await;
            waited = waited.saturating_add(Duration::from_secs(1));
        }
        let name = fs::read_to_string(&ready)
            .map_err(|error| Error::io(format!("read {}", ready.display()), error))?;
        match name.is_empty() {
            true => Ok(endpoint),
            false => Ok(format!("{}{name}", endpoint.trim_end_matches("disk.img"))),
        }
    }

    /// Tells the other container that it may end. A failure is its concern, as in the original.
    fn touch_done(&self) {
        if let Some(done) = &self.image.done {
            let done = self.root.join(done.strip_prefix("/").unwrap_or(done));
            if let Err(error) = File::create_new(&done) {
                log(&format!("make {}: {error}", done.display()));
            }
        }
    }

    /// The image, if it is one of containers.
    async fn pulled(&self, stop: Stop) -> Result<Option<ContainerImage>> {
        if self.image.store != Store::Registry {
            return Ok(None);
        }
        let find = || pulled::find(self.image, self.trust(), PATIENCE);
        let found = patiently(self.settings.retry, stop.clone(), find);
        stop.interrupts(found).await.map(Some)
    }

    fn options(
        &self,
        endpoint: &str,
        place: &Place,
        pulled: Option<&ContainerImage>,
    ) -> Result<CopyOptions> {
        let first = pulled.and_then(|image| image.layers.first());
        let signer = match first {
            Some(layer) => Some(Arc::clone(&layer.sign)),
            None => self.signer(endpoint)?,
        };
        let source = match &signer {
            Some(signer) => Address::Http(signer.sign()?.url.to_string()),
            None => Address::Http(endpoint.to_owned()),
        };
        let journal = match &self.settings.journal {
            Some(path) => JournalPlace::Path(path.clone()),
            None => JournalPlace::None,
        };
        let engine = options(self.settings, source, place, journal);
        Ok(CopyOptions {
            reading: Reading {
                access: self.access(signer)?,
                checksum: self.image.checksum.clone(),
                scratch: self.scratch(),
                layers: pulled.map(|image| image.layers.clone().into()),
                ..Reading::default()
            },
            ..engine
        })
    }

    /// Where images may be unpacked, if the pod has such a volume.
    fn scratch(&self) -> Option<Arc<Scratch>> {
        let dir = self.root.join(SCRATCH);
        dir.is_dir().then(|| Arc::new(Scratch::new(dir, None)))
    }

    /// Who signs requests, where that is not done by headers that stay the same.
    fn signer(&self, endpoint: &str) -> Result<Option<Arc<dyn Sign>>> {
        let login = self.image.login.as_ref();
        Ok(match self.image.store {
            Store::Http | Store::Registry => None,
            Store::S3 => {
                let login = login.map(|(user, secret)| (user.as_str(), secret));
                Some(Arc::new(S3::parse(endpoint, login)?))
            }
            Store::Gcs => {
                let key = self.image.key_file.as_deref();
                let key = key.map(|path| self.root.join(path.strip_prefix("/").unwrap_or(path)));
                Some(Arc::new(Gcs::parse(endpoint, key.as_deref())?))
            }
        })
    }

    fn access(&self, signer: Option<Arc<dyn Sign>>) -> Result<Access> {
        let is_http = self.image.store == Store::Http;
        let login = self.image.login.clone().filter(|_| is_http);
        let mut header_lines = self.image.headers.clone();
        header_lines.extend(self.secret_headers()?);
        if !is_http {
            header_lines.clear();
        }
        Ok(Access {
            trust: self.trust(),
            login: login.map(|(user, _)| Login {
                user,
                password: SecretPlace::Environment(SECRET.to_owned()),
            }),
            header_lines,
            patience: PATIENCE,
            signer,
            ..Access::default()
        })
    }

    /// Authorities of the system, of the volume with the server's, and of the cluster's proxy.
    fn trust(&self) -> Trust {
        if self.image.insecure {
            log("the certificate of the server is not checked (INSECURE_TLS)");
            return Trust::Anybody;
        }
        let proxy = Some(self.root.join(PROXY_CERTIFICATES)).filter(|path| path.is_dir());
        let certificates = self.image.certificates.as_ref();
        let certificates =
            certificates.map(|path| self.root.join(path.strip_prefix("/").unwrap_or(path)));
        let directories: Vec<PathBuf> = proxy.into_iter().chain(certificates).collect();
        match directories.is_empty() {
            true => Trust::System,
            false => Trust::Directories(directories),
        }
    }

    /// One header a file, in the folders of secrets that are mounted.
    fn secret_headers(&self) -> Result<Vec<Secret>> {
        let top = self.root.join(SECRET_HEADERS);
        let mut found = Vec::new();
        for folder in visible(&top)? {
            for file in visible(&folder)?.into_iter().filter(|path| path.is_file()) {
                let text = fs::read_to_string(&file)
                    .map_err(|error| Error::io(format!("read {}", file.display()), error))?;
                found.push(Secret::new(text.trim_end().to_owned()));
            }
        }
        Ok(found)
    }

    /// Removes what was copied and is not what was published. What is on a device stays.
    fn remove(&self) {
        let Ok(place) = Place::find(self.settings, self.root) else {
            return;
        };
        if !place.is_block
            && let Err(error) = fs::remove_file(&place.path)
            && place.path.exists()
        {
            log(&format!("remove {}: {error}", place.path.display()));
        }
    }
}

/// What is in a folder and not hidden, in order; nothing if there is none.
fn visible(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let failed = |error| Error::io(format!("read {}", folder.display()), error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
