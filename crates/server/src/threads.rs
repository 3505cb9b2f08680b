//! The serving threads: each has a runtime of its own and shares nothing with the others but the store.
//!
//! Rejected: one multi-threaded runtime, which was measured at 0.55 to 0.72 of this throughput under tonic.

use std::convert::Infallible;
use std::io;
use std::num::NonZeroUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::connection::{Accepted, Connection, ConnectionPlaces, Peer, Place, Places};
use crate::http2;
use crate::readiness::Readiness;
use crate::reply::Reply;

/// gRPC over accepted connections: what is served, and until when.
#[derive(Clone, Debug)]
pub(crate) struct Grpc<F> {
    /// The service of a connection, by who is at its other end.
    pub(crate) service: F,
    pub(crate) streams_per_connection: u32,
    pub(crate) readiness: Readiness,
    /// Time that calls in flight get once the process is stopping.
    pub(crate) drain: Duration,
}

/// Connections on their way to a thread. Not bounded itself: each has its place among the connections that are.
pub(crate) type Queue = UnboundedReceiver<(Accepted, ConnectionPlaces)>;

impl<F, S> Grpc<F>
where
    F: Fn(&Peer) -> S + Clone + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<Reply>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    /// Serves what comes out of `queue`; once the process is stopping, answers what is in flight and returns, at the latest
    /// when the drain is over.
    pub(crate) async fn serve(self, mut queue: Queue) {
        let mut connections = JoinSet::new();
        let mut stopping = std::pin::pin!(self.readiness.stopping());
        loop {
            tokio::select! {
                () = &mut stopping => break,
                Some((accepted, places)) = queue.recv() => {
                    connections.spawn(self.clone().serve_one(accepted, places));
                }
                Some(_) = connections.join_next() => {}
            }
        }
        let drained = async { while connections.join_next().await.is_some() {} };
        if timeout(self.drain, drained).await.is_err() {
            tracing::warn!(drain = ?self.drain, "connections were still open when the drain was over");
        }
    }

    async fn serve_one(self, accepted: Accepted, places: ConnectionPlaces) {
        let connection = match Connection::register(accepted, places) {
            Ok(connection) => connection,
            Err(error) => return tracing::warn!(%error, "cannot serve a connection"),
        };
        let service = (self.service)(connection.peer());
        let served = http2::serve(connection, service, self.streams_per_connection, self.readiness.stopping()).await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended");
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
    pub(crate) fn spawn<F, S>(count: NonZeroUsize, grpc: &Grpc<F>) -> io::Result<Self>
    where
        F: Fn(&Peer) -> S + Clone + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<Reply>, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
    {
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
