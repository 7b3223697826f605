//! A session: logged in, kept alive, logged in again once when it has ended, logged out always.
//!
//! vCenter ends a session that says nothing for half an hour, and a pass over a disk asks it
//! nothing for longer than that. So the clock is asked for now and then; and when the session ended
//! all the same, whoever notices logs in again, once for all who notice, and repeats its call.

use super::farewell;
use super::http::Http;
use super::limits::{TimeLimits, Wait};
use super::locator::Server;
use super::soap::Moref;
use super::soap::answer::{self, Answer};
use super::soap::calls;
use super::soap::fault::Fault;
use super::soap::request::Request;
use super::soap::xml::Node;
use crate::error::{Error, Kind, Result};
use crate::http::trust::Thumbprint;
use crate::secret::Secret;
use hyper::StatusCode;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{sleep, timeout};

/// How often a session without calls is used: well below the half hour after which it ends.
const KEEP_ALIVE: Duration = Duration::from_secs(5 * 60);

/// Times that a call is sent which may be sent again.
const SENDS: u32 = 5;

/// Time before the second of them; doubled each time.
const FIRST_DELAY: Duration = Duration::from_millis(250);

/// What a server is, and where its managers are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// `VMware vCenter Server 8.0.2 build-22617221`.
    pub full_name: String,
    /// `8.0.2`.
    pub version: String,
    /// A vCenter, not a single host.
    pub is_vcenter: bool,
    /// What tells the properties of objects.
    pub property_collector: Moref,
    /// What sessions begin and end at.
    pub session_manager: Moref,
    /// What finds VMs.
    pub search_index: Moref,
}

impl Service {
    fn of(values: &[Node]) -> Option<Self> {
        let content = values.first()?;
        let about = content.child("about")?;
        let text = |name| about.text_of(name).map(str::to_owned);
        let manager = |name| answer::reference(content.child(name)?).ok();
        Some(Self {
            full_name: text("fullName")?,
            version: text("version")?,
            is_vcenter: about.text_of("apiType") == Some("VirtualCenter"),
            property_collector: manager("propertyCollector")?,
            session_manager: manager("sessionManager")?,
            search_index: manager("searchIndex")?,
        })
    }
}

/// What shows a server who is calling.
#[derive(Clone, Debug, Default)]
struct Ticket {
    cookie: Option<Secret>,
    /// How often somebody logged in: a caller whose ticket is of an earlier login is late, not out.
    login: u64,
}

/// A session at a server. Dropped, it ends; [`close`](Self::close) ends it without blocking.
pub struct Session {
    shared: Arc<Shared>,
}

struct Shared {
    http: Http,
    limits: TimeLimits,
    user: String,
    password: Secret,
    service: Service,
    ticket: Mutex<Ticket>,
    /// Held while somebody logs in or out.
    entrance: AsyncMutex<()>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { http, user, .. } = &*self.shared;
        write!(f, "Session({user} at {})", http.authority())
    }
}

impl Session {
    /// Reads the password, connects and logs in.
    ///
    /// # Errors
    /// The server cannot be reached, is not trusted, is no vSphere, or does not let us in.
    pub async fn open(server: &Server) -> Result<Self> {
        let password = server.password.read()?;
        Self::open_with(server, password).await
    }

    /// Connects and logs in with `password`.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn open_with(server: &Server, password: Secret) -> Result<Self> {
        Self::open_used(server, password, KEEP_ALIVE).await
    }

    /// The same, with another time after which a session without calls is used.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn open_used(server: &Server, password: Secret, every: Duration) -> Result<Self> {
        let http = Http::new(server)?;
        let request = calls::retrieve_service_content();
        let answer = in_time(&http, server.limits, &request, send(&http, &request, None));
        let values = match answer.await?.0 {
            Answer::Done(values) => values,
            Answer::Fault(fault) => return Err(fault.into_error(doing(&http, &request))),
        };
        let service = Service::of(&values).ok_or_else(|| {
            let what = format!("{} does not say what it is", http.authority());
            Error::new(Kind::Corrupt, what)
        })?;
        tracing::debug!(server = http.authority(), service = service.full_name);
        let shared = Arc::new(Shared {
            http,
            limits: server.limits,
            user: server.user.clone(),
            password,
            service,
            ticket: Mutex::default(),
            entrance: AsyncMutex::default(),
        });
        shared.log_in(0).await?;
        tokio::spawn(keep_alive(Arc::downgrade(&shared), every));
        Ok(Self { shared })
    }

    /// What the server is.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.shared.service
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.shared.http.authority()
    }

    /// SHA-1 of the server's certificate, which was believed when it was connected to.
    #[must_use]
    pub fn thumbprint(&self) -> Option<Thumbprint> {
        self.shared.http.thumbprint()
    }

    /// Makes a call, and gives what it answers with.
    ///
    /// # Errors
    /// The server cannot be asked, or answers with a fault: see [`fault::of`](super::soap::fault::of).
    pub async fn call(&self, request: &Request) -> Result<Vec<Node>> {
        self.shared.call(request).await
    }

    /// Logs out. After it no call succeeds.
    pub async fn close(&self) {
        self.shared.log_out().await;
    }
}

impl Drop for Session {
    /// The last resort, for a task that was given up: it blocks.
    fn drop(&mut self) {
        if let Some(cookie) = self.shared.take_cookie() {
            let request = calls::logout(&self.shared.service.session_manager);
            let limit = self.shared.limits.of(Wait::Logout);
            farewell::say(self.shared.http.detached(), request, cookie, limit);
        }
    }
}

impl Shared {
    fn ticket(&self) -> Ticket {
        self.ticket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn take_cookie(&self) -> Option<Secret> {
        let mut ticket = self.ticket.lock().unwrap_or_else(PoisonError::into_inner);
        ticket.cookie.take()
    }

    async fn call(&self, request: &Request) -> Result<Vec<Node>> {
        let ticket = self.ticket();
        let answer = self.send(request, &ticket).await?;
        let answer = match answer {
            Answer::Fault(fault) if fault.not_authenticated() => {
                tracing::debug!("the session has ended; logging in again for {request:?}");
                self.log_in(ticket.login).await?;
                // What was not authenticated was not done either, whatever it was.
                self.send(request, &self.ticket()).await?
            }
            answer => answer,
        };
        match answer {
            Answer::Done(values) => Ok(values),
            Answer::Fault(fault) => Err(fault.into_error(doing(&self.http, request))),
        }
    }

    /// Sends a call; again after a moment if it got lost and may be sent again. All of that takes no
    /// longer than the call may.
    async fn send(&self, request: &Request, ticket: &Ticket) -> Result<Answer> {
        let sends = self.tries(request, ticket);
        in_time(&self.http, self.limits, request, sends).await
    }

    async fn tries(&self, request: &Request, ticket: &Ticket) -> Result<Answer> {
        let mut delay = FIRST_DELAY;
        let mut sends = 1u32;
        loop {
            let error = match send(&self.http, request, ticket.cookie.as_ref()).await {
                Ok((answer, _)) => return Ok(answer),
                Err(error) => error,
            };
            let again = error.kind() == Kind::Transient && request.is_repeatable();
            if !again || sends >= SENDS {
                return Err(error);
            }
            tracing::debug!("{}; asking again", error.line());
            sleep(delay).await;
            (delay, sends) = (delay.saturating_mul(2), sends.saturating_add(1));
        }
    }

    /// Logs in, unless somebody has since the login that is known to the caller.
    async fn log_in(&self, known: u64) -> Result<()> {
        let _entrance = self.entrance.lock().await;
        let login = self.ticket().login;
        if login != known {
            return Ok(());
        }
        if known > 0 && self.ticket().cookie.is_none() {
            let what = format!("the session at {} is closed", self.http.authority());
            return Err(Error::new(Kind::Interrupted, what));
        }
        let request = calls::login(&self.service.session_manager, &self.user, &self.password);
        let failed = |fault: Fault| {
            let what = format!("log in to {} as {}", self.http.authority(), self.user);
            fault.into_error(what)
        };
        // Without the old cookie: who has a session is refused another.
        let answer = send(&self.http, &request, None);
        let cookie = match in_time(&self.http, self.limits, &request, answer).await? {
            (Answer::Done(_), cookie) => cookie,
            (Answer::Fault(fault), _) => return Err(failed(fault)),
        };
        if cookie.is_none() {
            let what = format!("{} let us in and gave no session", self.http.authority());
            return Err(Error::new(Kind::Corrupt, what));
        }
        let mut ticket = self.ticket.lock().unwrap_or_else(PoisonError::into_inner);
        *ticket = Ticket {
            cookie,
            login: login.saturating_add(1),
        };
        Ok(())
    }

    async fn log_out(&self) {
        let request = calls::logout(&self.service.session_manager);
        let logout = async {
            // Also for this there is no more time: somebody may wait in here for a login.
            let _entrance = self.entrance.lock().await;
            let Some(cookie) = self.ticket().cookie else {
                return Ok(());
            };
            let answer = send(&self.http, &request, Some(&cookie)).await;
            // Only now: whoever is given up in between still has what it takes to log out.
            self.take_cookie();
            answer.map(drop)
        };
        match in_time(&self.http, self.limits, &request, logout).await {
            Ok(()) => tracing::debug!("logged out of {}", self.http.authority()),
            Err(error) => {
                self.take_cookie();
                tracing::debug!("log out: {}", error.line());
            }
        }
    }
}

/// Asks for the clock for as long as the session is there.
async fn keep_alive(session: Weak<Shared>, every: Duration) {
    loop {
        sleep(every).await;
        let Some(session) = session.upgrade() else {
            return;
        };
        if session.ticket().cookie.is_none() {
            return;
        }
        if let Err(error) = session.call(&calls::current_time()).await {
            tracing::debug!("keep the session alive: {}", error.line());
        }
    }
}

/// `doing`, unless it takes longer than the call may.
async fn in_time<T>(
    http: &Http,
    limits: TimeLimits,
    request: &Request,
    doing: impl Future<Output = Result<T>>,
) -> Result<T> {
    let limit = limits.of(request.wait());
    timeout(limit, doing).await.unwrap_or_else(|_| {
        let (authority, seconds) = (http.authority(), limit.as_secs());
        let why = format!("{authority} did not answer within {seconds} s");
        Err(Error::new(Kind::Transient, format!("{request:?}")).because(why))
    })
}

/// One exchange: an answer or a fault, and the cookie that came with it.
async fn send(
    http: &Http,
    request: &Request,
    cookie: Option<&Secret>,
) -> Result<(Answer, Option<Secret>)> {
    let reply = http.post(request, cookie).await;
    let reply = reply.map_err(|error| error.context(format!("{request:?}")))?;
    let kind = match reply.status {
        StatusCode::OK | StatusCode::INTERNAL_SERVER_ERROR => {
            let parsed = answer::parse(request.method(), &reply.body);
            let parsed = parsed
                .map_err(|error| Error::new(Kind::Corrupt, doing(http, request)).because(error))?;
            tracing::trace!("{request:?}: {}", reply.status);
            return Ok((parsed, reply.cookie));
        }
        StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT
        | StatusCode::TOO_MANY_REQUESTS => Kind::Transient,
        _ => Kind::Refused,
    };
    let error = Error::new(kind, doing(http, request)).because(reply.status.to_string());
    Err(match kind {
        Kind::Transient => error,
        _ => error.hint("is this the address of a vCenter or an ESXi host?"),
    })
}

fn doing(http: &Http, request: &Request) -> String {
    format!("{request:?} at {}", http.authority())
}

/// An answer that is not what the API promises.
#[must_use]
pub(super) fn nonsense(request: &Request, error: answer::BadAnswer) -> Error {
    Error::new(Kind::Corrupt, format!("read the answer to {request:?}")).because(error)
}
