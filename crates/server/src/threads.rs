//! The serving threads: each has a runtime of its own and shares nothing with the others but the store.
//!
//! Rejected: one multi-threaded runtime, which was measured at 0.55 to 0.72 of this throughput under tonic.

use std::io;
use std::num::NonZeroUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::calls::Guarded;
use crate::connection::{Accepted, Connection, ConnectionPlaces, Place, Places};
use crate::readiness::Readiness;

/// A peer is asked for a sign of life after this long without one...
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// ... and its connection is closed, and its place free, when none came for this long.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a call's headers.
const MAX_HEADER_LIST_BYTES: u32 = 16 * 1_024;
/// Bytes that a client may have under way on one stream that is not read: a pipeline with as many calls in flight as it may have. h2 bounds
/// small frames as well as bytes, and closes a connection with more of them unread than half its window pays for, at 256 bytes
/// each: messages of 30 bytes that fill a stream's window come to 500 kB.
const STREAM_WINDOW_BYTES: u32 = 64 * 1_024;
/// See [`STREAM_WINDOW_BYTES`].
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1_024 * 1_024;

/// gRPC over accepted connections: what is served, and until when.
#[derive(Clone, Debug)]
pub(crate) struct Grpc {
    pub(crate) routes: Guarded<Routes>,
    pub(crate) streams_per_connection: u32,
    pub(crate) readiness: Readiness,
    /// Time that calls in flight get once the process is stopping.
    pub(crate) drain: Duration,
}

/// Connections on their way to a thread. Not bounded itself: each has its place among the connections that are.
pub(crate) type Queue = UnboundedReceiver<(Accepted, ConnectionPlaces)>;

impl Grpc {
    /// Serves what comes out of `queue`; once the process is stopping, answers what is in flight and returns, at the latest
    /// when the drain is over.
    pub(crate) async fn serve(self, queue: Queue) {
        let connections =
            UnboundedReceiverStream::new(queue).map(|(accepted, places)| Connection::register(accepted, places));
        let served = Server::builder()
            .max_concurrent_streams(self.streams_per_connection)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keepalive_interval(Some(PING_INTERVAL))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
            .serve_with_incoming_shutdown(self.routes, connections, self.readiness.stopping());
        let (stopping, drain) = (self.readiness.stopping(), self.drain);
        tokio::select! {
            served = served => if let Err(error) = served {
                tracing::error!(%error, "a listener ended");
            },
            () = async { stopping.await; sleep(drain).await } => {
                tracing::warn!(?drain, "connections were still open when the drain was over");
            }
        }
    }
}

/// All serving threads.
#[derive(Debug)]
pub(crate) struct Threads(Vec<ServingThread>);

#[derive(Debug)]
struct ServingThread {
    queue: UnboundedSender<(Accepted, ConnectionPlaces)>,
    connections: Places,
    thread: JoinHandle<()>,
}

impl Threads {
    /// Starts `count` threads that serve `grpc`.
    ///
    /// # Errors
    /// The system's: no threads or no file descriptors are left.
    pub(crate) fn spawn(count: NonZeroUsize, grpc: &Grpc) -> io::Result<Self> {
        let spawn = |number: usize| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (sender, queue) = unbounded_channel();
            let grpc = grpc.clone();
            let thread = std::thread::Builder::new()
                .name(format!("serve-{number}"))
                .spawn(move || runtime.block_on(grpc.serve(queue)))?;
            Ok(ServingThread { queue: sender, connections: Places::new(usize::MAX), thread })
        };
        (0..count.get()).map(spawn).collect::<io::Result<_>>().map(Self)
    }

    /// Gives a connection to the thread with the fewest.
    pub(crate) fn deal(&self, accepted: Accepted, place: Place) {
        let Some(thread) = self.0.iter().min_by_key(|thread| thread.connections.taken()) else { return };
        let Some(there) = thread.connections.try_take() else { return };
        if thread.queue.send((accepted, (place, there))).is_err() {
            tracing::debug!("a connection came too late: its thread has stopped");
        }
    }

    /// Waits until every thread has ended. Blocks.
    pub(crate) fn join(self) {
        for ServingThread { queue, thread, .. } in self.0 {
            drop(queue);
            if thread.join().is_err() {
                tracing::error!("a serving thread panicked");
            }
        }
    }
}
