//! One accepted connection: TCP or Unix socket, and the place it takes among the connections that are allowed.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep};

/// A client speaks first, and soon: whoever connects and says nothing for this long gives up its place.
const FIRST_BYTE: Duration = Duration::from_secs(10);

/// A count with an upper bound; what is counted is given back on drop.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// One of the [`Places`], until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Places {
    /// `most` free places.
    pub(crate) fn new(most: usize) -> Self {
        Self { taken: Arc::default(), most }
    }

    /// A place, unless all are taken. Never gives more than there are, whatever runs at the same time.
    pub(crate) fn try_take(&self) -> Option<Place> {
        let free = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        Some(Place(Arc::clone(&self.taken)))
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection on its way to the thread that serves it: registered with no runtime.
#[derive(Debug)]
pub(crate) enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// The places that a connection takes: among all of its kind, and on its thread.
pub(crate) type ConnectionPlaces = (Place, Place);

/// Who is at the other end, as the system says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Its address on TCP.
    Tcp(SocketAddr),
    /// Who opened its end of a Unix socket; the pid where the system says it.
    Unix { uid: u32, pid: Option<i32> },
    /// The system did not say: the connection may be gone already.
    Unknown,
}

impl Peer {
    fn of(stream: &Stream) -> Self {
        match stream {
            Stream::Tcp(stream) => stream.peer_addr().map_or(Self::Unknown, Self::Tcp),
            Stream::Unix(stream) => {
                let peer = stream.peer_cred();
                peer.map_or(Self::Unknown, |peer| Self::Unix { uid: peer.uid(), pid: peer.pid() })
            }
        }
    }
}

/// For the audit log: `127.0.0.1:40312`, `uid 1000 pid 4711`, or nothing.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix { uid, pid: Some(pid) } => write!(f, "uid {uid} pid {pid}"),
            Self::Unix { uid, pid: None } => write!(f, "uid {uid}"),
            Self::Unknown => Ok(()),
        }
    }
}

/// A connection being served.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    peer: Peer,
    silence: Option<Pin<Box<Sleep>>>,
    _places: ConnectionPlaces,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    /// Registers `accepted` with the runtime of this thread.
    ///
    /// # Errors
    /// The system's, such as too many open files; the connection is closed.
    pub(crate) fn register(accepted: Accepted, places: ConnectionPlaces) -> io::Result<Self> {
        let stream = match accepted {
            Accepted::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream)?),
            Accepted::Unix(stream) => Stream::Unix(UnixStream::from_std(stream)?),
        };
        let peer = Peer::of(&stream);
        Ok(Self { stream, peer, silence: Some(Box::pin(sleep(FIRST_BYTE))), _places: places })
    }

    /// Who is at the other end.
    pub(crate) const fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if read.is_ready() {
            self.silence = None;
        } else if let Some(silence) = &mut self.silence
            && silence.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

/// Not vectored, and it says so: h2 gives a vectored writer each message of 256 bytes or more as a write of its own, and copies
/// those below 1 KiB together for any other. With their headers, 32 answers leave in one write.
impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
