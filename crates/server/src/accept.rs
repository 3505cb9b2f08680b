//! Accepting connections, on one thread for all listeners.

use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::time::sleep;

use crate::connection::Accepted;
use crate::listen::{Listener, UnixSocket};

/// Pause after an error that is ours (no file descriptors left, say), so that the others of this thread go on.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener registered with this thread's runtime.
#[derive(Debug)]
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Kept for its file, which goes with it.
        _file: UnixSocket,
    },
}

impl Acceptor {
    /// Registers `listener`.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn register(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Listener::Unix(socket) => {
                Self::Unix { listener: UnixListener::from_std(socket.listener.try_clone()?)?, _file: socket }
            }
        })
    }

    /// Gives every new connection to `deal`, for ever. TCP connections have `TCP_NODELAY` on: an answer is one small packet.
    pub(crate) async fn accept_all(&self, mut deal: impl FnMut(Accepted)) {
        loop {
            match self.accept().await {
                Ok(accepted) => deal(accepted),
                // The client's: it went away before we came.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let stream = stream.into_std()?;
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted::Unix(stream.into_std()?))
            }
        }
    }
}
