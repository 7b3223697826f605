//! Linux AIO: direct requests that the kernel works on while nobody waits (io_setup(2)).
//!
//! Half the CPU time of a thread per request, or less: no thread sleeps in the kernel for each, and
//! completions come in batches. Unlike io_uring it is allowed by the seccomp profile that container
//! runtimes use by default. It is asynchronous only for direct I/O, so only that comes here
//! (`docs/decisions/0004-linux-aio.md`).
//!
//! A request and its memory stay in a table from submission until the kernel reports its end, and
//! the context outlives the table's last request, whatever becomes of the future that waits.
//!
//! To take down a context is slow even if nothing is under way in it: the kernel waits for every
//! processor to have forgotten it, twice, which is 30 ms. A thread waits for that.

#![expect(
    unsafe_code,
    reason = "four system calls that no library wraps, over memory that the table keeps alive"
)]

use crate::buffer::Buffer;
use bytes::Bytes;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// Requests that one context can hold. More are refused, and then done by threads.
const DEPTH: libc::c_long = 128;

/// Completions that one call fetches.
const BATCH: usize = 32;

/// Numbers as wide as system calls want them.
const NONE: libc::c_long = 0;
const ONE: libc::c_long = 1;

/// `struct iocb` of `linux/aio_abi.h`. `key` and `rw_flags`, which trade places on big-endian
/// machines, are both zero.
#[repr(C)]
struct Control {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    length: u64,
    offset: u64,
    reserved: u64,
    flags: u32,
    event: u32,
}

const READ: u16 = 0;
const WRITE: u16 = 1;
/// `IOCB_FLAG_RESFD`: add one to the eventfd at the end.
const TELL: u32 = 1;

/// `struct io_event` of `linux/aio_abi.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    control: u64,
    result: i64,
    result2: i64,
}

/// The memory of a request.
#[derive(Debug)]
pub(super) enum Memory {
    /// Filled by the kernel.
    Read(Buffer),
    /// Read by the kernel.
    Write(Bytes),
}

/// A request that is over: its memory and the bytes that were moved.
pub(super) type Done = (Memory, io::Result<usize>);

/// A request that the kernel has.
#[derive(Debug)]
struct Pending {
    memory: Memory,
    tell: oneshot::Sender<Done>,
}

/// What the kernel holds, and the requests under way in it.
#[derive(Debug)]
struct Context {
    id: libc::c_ulong,
    pending: Mutex<HashMap<u64, Pending>>,
}

/// A context of Linux AIO and who watches it.
#[derive(Debug)]
pub(super) struct Aio {
    /// There until it is dropped.
    context: Option<Context>,
    event: OwnedFd,
    next: AtomicU64,
    reaper: Mutex<Option<AbortHandle>>,
}

impl Aio {
    /// A context, watched by a task of the runtime that this is called in.
    ///
    /// # Errors
    /// There is no runtime, or the kernel has no AIO or no room for another context.
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let watched = event.try_clone()?;
        // SAFETY: the descriptor is owned by the AsyncFd and is neither replaced nor taken out.
        let watched = unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) };
        let watched = watched.map_err(io::Error::other)?;
        let aio = Arc::new(Self {
            context: Some(Context::new()?),
            event,
            next: AtomicU64::new(0),
            reaper: Mutex::default(),
        });
        let task = runtime.spawn(reap(Arc::downgrade(&aio), watched));
        *lock(&aio.reaper) = Some(task.abort_handle());
        Ok(aio)
    }

    /// Starts a request. Gives the memory back if the kernel does not take it.
    pub(super) fn submit(
        &self,
        fd: BorrowedFd<'_>,
        offset: u64,
        mut memory: Memory,
    ) -> Result<oneshot::Receiver<Done>, Memory> {
        let Some(context) = &self.context else {
            return Err(memory);
        };
        let (opcode, address, length) = match &mut memory {
            Memory::Read(buffer) => (READ, buffer.as_mut_ptr().cast_const(), buffer.len()),
            Memory::Write(data) => (WRITE, data.as_ptr(), data.len()),
        };
        let (Ok(fd), Ok(event)) = (
            u32::try_from(fd.as_raw_fd()),
            u32::try_from(self.event.as_raw_fd()),
        ) else {
            return Err(memory);
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let control = Control {
            data: id,
            key: 0,
            rw_flags: 0,
            opcode,
            priority: 0,
            fd,
            buffer: address.expose_provenance() as u64,
            length: length as u64,
            offset,
            reserved: 0,
            flags: TELL,
            event,
        };
        let (tell, told) = oneshot::channel();
        // Before the kernel has it: the end may be reported at once.
        context.pending().insert(id, Pending { memory, tell });
        let list = [ptr::from_ref(&control)];
        // SAFETY: one pointer to one iocb, which the kernel copies. The memory that it points to is
        // owned by the table, which gives it up only when the request has ended, and does not move:
        // both kinds keep their bytes on the heap. Nobody else has the `Buffer` to be filled.
        let taken = unsafe { libc::syscall(libc::SYS_io_submit, context.id, ONE, list.as_ptr()) };
        if taken == 1 {
            return Ok(told);
        }
        match context.pending().remove(&id) {
            Some(pending) => Err(pending.memory),
            // Cannot be: what was not taken does not end. The receiver then tells of a loss.
            None => Ok(told),
        }
    }
}

impl Context {
    fn new() -> io::Result<Self> {
        let mut id: libc::c_ulong = 0;
        // SAFETY: io_setup writes one aio_context_t, which is an unsigned long, to the pointer.
        checked(unsafe { libc::syscall(libc::SYS_io_setup, DEPTH, &raw mut id) })?;
        let pending = Mutex::default();
        Ok(Self { id, pending })
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        lock(&self.pending)
    }

    /// Hands out what has ended.
    fn fetch(&self) {
        loop {
            let mut events = [Event::default(); BATCH];
            // SAFETY: room for BATCH events; with a minimum of none it does not wait, and needs no
            // timeout.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.id,
                    NONE,
                    BATCH,
                    events.as_mut_ptr(),
                    ptr::null::<libc::timespec>(),
                )
            };
            let count = usize::try_from(count).unwrap_or(0);
            let mut pending = self.pending();
            for event in events.iter().take(count) {
                if let Some(Pending { memory, tell }) = pending.remove(&event.data) {
                    // Whoever waited may have gone.
                    let _ = tell.send((memory, outcome(event.result)));
                }
            }
            drop(pending);
            if count < BATCH {
                return;
            }
        }
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        if let Some(reaper) = lock(&self.reaper).take() {
            reaper.abort();
        }
        // What is still written must end before the disk can be opened and written anew: only an
        // idle context is left to a thread.
        let idle = self.context.take_if(|it| it.pending().is_empty());
        if let (Some(context), Ok(runtime)) = (idle, Handle::try_current()) {
            runtime.spawn_blocking(move || drop(context));
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is ours. The call returns when every request has ended, so the
        // memory in the table, which is dropped after this, is no longer in use.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.id) };
    }
}

/// Fetches completions whenever the kernel tells of some.
async fn reap(aio: Weak<Aio>, event: AsyncFd<OwnedFd>) {
    while let Ok(mut ready) = event.readable().await {
        // One read takes it to zero, and what ends after that makes it readable anew: a second
        // read, to be told that there is nothing, would be a system call for each completion.
        let mut count = [0; 8];
        let taken = rustix::io::read(event.get_ref().as_fd(), &mut count);
        ready.clear_ready();
        if taken.is_err() {
            continue;
        }
        let Some(aio) = aio.upgrade() else { return };
        aio.context.iter().for_each(Context::fetch);
    }
}

/// A negative result is an errno.
fn outcome(result: i64) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| {
        let errno = i32::try_from(result.saturating_neg()).unwrap_or(libc::EIO);
        io::Error::from_raw_os_error(errno)
    })
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
