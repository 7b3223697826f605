//! The socket of a connection: plain or under TLS, polled by one task.
//!
//! A plain socket is read and written by the bare system calls, many parts at once. A read that
//! ends between replies and filled less than its room has emptied the socket: the next one waits
//! for the kernel's word instead of asking in vain. Under TLS, rustls copies; that cannot be helped.

use rustix::io::readv;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// A connected socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection that is ready for transmission.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    /// Receives into `first`, and what is left over into `second`. Zero is the end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        first: &mut [u8],
        second: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_readv(cx, first, second),
            Self::Tls(stream) => {
                let part = if first.is_empty() { second } else { first };
                let mut buffer = ReadBuf::new(part);
                ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
        }
    }

    /// Sends a prefix of `parts`.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_sendmsg(cx, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    /// Pushes out what TLS holds back.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Says that nothing more will be sent.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Socket {
    fn poll_readv(
        &self,
        cx: &mut Context<'_>,
        first: &mut [u8],
        second: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let (wanted, room) = (first.len(), first.len().saturating_add(second.len()));
        let mut parts = [IoSliceMut::new(first), IoSliceMut::new(second)];
        loop {
            match self {
                Self::Tcp(stream) => ready!(stream.poll_read_ready(cx))?,
                Self::Unix(stream) => ready!(stream.poll_read_ready(cx))?,
            }
            let mut count = None;
            let read = || {
                let got = readv(self, &mut parts)?;
                count = Some(got);
                if got >= wanted && got < room {
                    // All that was wanted came, and the socket is empty now: makes tokio wait
                    // for the kernel's word. In the middle of a payload the rest is nearly always
                    // there by the next read, and asking first would double the system calls.
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(())
            };
            let done = self.try_io(Interest::READABLE, read);
            match (count, done) {
                (Some(count), _) => return Poll::Ready(Ok(count)),
                (None, Err(error)) if may_pass(&error) => {}
                (None, done) => return Poll::Ready(done.map(|()| 0)),
            }
        }
    }

    fn poll_sendmsg(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            match self {
                Self::Tcp(stream) => ready!(stream.poll_write_ready(cx))?,
                Self::Unix(stream) => ready!(stream.poll_write_ready(cx))?,
            }
            let send = || {
                let mut nothing = SendAncillaryBuffer::default();
                let sent = sendmsg(self, parts, &mut nothing, SendFlags::NOSIGNAL)?;
                Ok(sent)
            };
            match self.try_io(Interest::WRITABLE, send) {
                Err(error) if may_pass(&error) => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn try_io<T>(&self, interest: Interest, io: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, io),
            Self::Unix(stream) => stream.try_io(interest, io),
        }
    }
}

/// Whether the socket was merely not ready.
fn may_pass(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
