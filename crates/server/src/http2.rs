//! One connection of gRPC: hyper's HTTP/2, told how much a peer may ask of it.
//!
//! tonic's own server stands on the same hyper. It lays a router, layers and a boxed body between, and makes a task of each call; here
//! all calls that came in one packet are made one after the other, and their answers leave in one.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::connection::Connection;

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

/// Answers the calls of `connection` by `service` until the client leaves, or until `stopping`: then those that came before are
/// answered, and no others.
pub(crate) async fn serve<S, B>(
    connection: Connection,
    service: S,
    streams: u32,
    stopping: impl Future<Output = ()>,
) -> Result<(), hyper::Error>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let calls = Calls::default();
    let mut http2 = Builder::new(calls.clone());
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        // gRPC knows no date, and nobody caches its answers.
        .auto_date_header(false);
    let mut served = pin!(http2.serve_connection(TokioIo::new(connection), service));
    let mut stopping = pin!(stopping);
    let mut is_stopping = false;
    poll_fn(move |cx| {
        loop {
            if let Poll::Ready(ended) = served.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            if !is_stopping && stopping.as_mut().poll(cx).is_ready() {
                is_stopping = true;
                served.as_mut().graceful_shutdown();
            } else if !calls.make() {
                return Poll::Pending;
            }
            // What was answered leaves now.
        }
    })
    .await
}

/// Calls that were read together. One at a time where it is read, each answer would be a packet of its own; as a task of its own,
/// each would cost a task.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>);

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Calls {
    fn execute(&self, call: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(call));
    }
}

impl Calls {
    /// Makes those that were read; a task is made of one that waits for something. Whether there were any.
    fn make(&self) -> bool {
        let calls = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let were_any = !calls.is_empty();
        for mut call in calls {
            // Whoever wakes it wakes nobody: as a task it is polled again at once, and says again what it waits for.
            if call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                tokio::spawn(call);
            }
        }
        were_any
    }
}
