//! A server whose every answer the test gives, over connections in memory: with paused time nothing here takes any.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tidegate_proto::error::call_error;
use tidegate_proto::v1::pipeline_request::Call;
use tidegate_proto::v1::pipeline_response::Answer;
use tidegate_proto::v1::rate_limiter_service_server::{RateLimiterService, RateLimiterServiceServer};
use tidegate_proto::v1::{
    BatchCheckAndReserveRequest, BatchCheckAndReserveResponse, BatchSettleRequest, BatchSettleResponse,
    CheckAndReserveRequest, CheckAndReserveResponse, Decision, GetLimitsRequest, GetLimitsResponse, PipelineRequest,
    PipelineResponse, ReleaseRequest, ReleaseResponse, ReportPressureRequest, ReportPressureResponse,
    ReportProgressRequest, ReportProgressResponse, SettleRequest, SettleResponse,
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tower::service_fn;

use crate::client::Client;
use crate::link::Connect;
use crate::options::Options;

/// Of one connection and direction.
const BUFFER: usize = 1 << 20;

/// The server.
pub(crate) struct Fake {
    streams: UnboundedReceiver<Stream>,
    door: Arc<Door>,
}

/// Where connections come in.
pub(crate) struct Door {
    connections: UnboundedSender<io::Result<DuplexStream>>,
    is_shut: AtomicBool,
    attempts: AtomicUsize,
    writes: Arc<AtomicUsize>,
}

/// One stream of calls.
pub(crate) struct Stream {
    calls: Streaming<PipelineRequest>,
    answers: UnboundedSender<Result<PipelineResponse, Status>>,
}

impl Fake {
    /// A server, and a client of it.
    pub(crate) fn start(options: Options) -> (Self, Client) {
        let (connections, incoming) = unbounded_channel();
        let (opened, streams) = unbounded_channel();
        let serving = Server::builder().add_service(RateLimiterServiceServer::new(Service { opened }));
        tokio::spawn(serving.serve_with_incoming(UnboundedReceiverStream::new(incoming)));
        let door = Arc::new(Door {
            connections,
            is_shut: AtomicBool::new(false),
            attempts: AtomicUsize::new(0),
            writes: Arc::default(),
        });
        let client = Client::over(Arc::clone(&door).connect(), "memory".to_owned(), options).expect("randomness");
        (Self { streams, door }, client)
    }

    /// The next stream that is opened.
    pub(crate) async fn stream(&mut self) -> Stream {
        self.streams.recv().await.expect("the server goes on")
    }

    /// Whether there is none that the test does not know.
    pub(crate) fn has_no_stream(&mut self) -> bool {
        self.streams.is_empty()
    }

    /// From now on, connecting fails; or no longer.
    pub(crate) fn shut(&self, is_shut: bool) {
        self.door.is_shut.store(is_shut, Ordering::SeqCst);
    }

    /// Attempts to connect so far.
    pub(crate) fn attempts(&self) -> usize {
        self.door.attempts.load(Ordering::SeqCst)
    }

    /// Writes of the client so far.
    pub(crate) fn writes(&self) -> usize {
        self.door.writes.load(Ordering::SeqCst)
    }
}

impl Door {
    fn connect(self: Arc<Self>) -> Connect {
        Arc::new(move || {
            let door = Arc::clone(&self);
            let connector = service_fn(move |_| {
                let door = Arc::clone(&door);
                async move { door.enter().map(TokioIo::new) }
            });
            let endpoint = Endpoint::from_static("http://memory:1");
            Box::pin(async move { endpoint.connect_with_connector(connector).await })
        })
    }

    fn enter(&self) -> io::Result<Counted> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        if self.is_shut.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = duplex(BUFFER);
        self.connections.send(Ok(theirs)).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Counted { inner: ours, writes: Arc::clone(&self.writes) })
    }
}

impl Stream {
    /// The next call, and its id.
    pub(crate) async fn call(&mut self) -> (u64, Call) {
        let request = self.calls.message().await.expect("the stream goes on").expect("one more");
        (request.call_id, request.call.expect("a call"))
    }

    /// The next call, unless the client hangs up.
    pub(crate) async fn try_call(&mut self) -> Option<(u64, Call)> {
        let request = self.calls.message().await.ok().flatten()?;
        Some((request.call_id, request.call.expect("a call")))
    }

    /// Whether the client hangs up, without another call.
    pub(crate) async fn is_over(&mut self) -> bool {
        self.try_call().await.is_none()
    }

    /// The next call, which must ask for a decision.
    pub(crate) async fn check(&mut self) -> (u64, CheckAndReserveRequest) {
        match self.call().await {
            (id, Call::CheckAndReserve(check)) => (id, check),
            other => panic!("{other:?}"),
        }
    }

    /// The next call, which must settle.
    pub(crate) async fn settle(&mut self) -> (u64, SettleRequest) {
        match self.call().await {
            (id, Call::Settle(settle)) => (id, settle),
            other => panic!("{other:?}"),
        }
    }

    /// Whether no call comes while everybody has had their turn, and a millisecond.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(1), self.call()).await.is_err()
    }

    pub(crate) fn answer(&self, call_id: u64, answer: Answer) {
        drop(self.answers.send(Ok(PipelineResponse { call_id, answer: Some(answer) })));
    }

    /// An ALLOW with this reservation id.
    pub(crate) fn allow(&self, call_id: u64, reservation_id: &str) {
        let answer =
            CheckAndReserveResponse { reservation_id: reservation_id.into(), ..CheckAndReserveResponse::default() };
        self.answer(
            call_id,
            Answer::CheckAndReserve(CheckAndReserveResponse { decision: Decision::Allow.into(), ..answer }),
        );
    }

    pub(crate) fn settled(&self, call_id: u64) {
        self.answer(call_id, Answer::Settle(SettleResponse::default()));
    }

    pub(crate) fn error(&self, call_id: u64, status: &Status) {
        self.answer(call_id, Answer::Error(call_error(status)));
    }

    /// Ends it with this word; what was not answered stays so.
    pub(crate) fn end(self, status: Status) {
        drop(self.answers.send(Err(status)));
    }
}

/// Counts what is written.
struct Counted {
    inner: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

struct Service {
    opened: UnboundedSender<Stream>,
}

type Reply<T> = Result<Response<T>, Status>;

fn not_asked<T>() -> Reply<T> {
    Err(Status::unimplemented("the client uses the stream alone"))
}

#[tonic::async_trait]
impl RateLimiterService for Service {
    type PipelineStream = UnboundedReceiverStream<Result<PipelineResponse, Status>>;

    async fn pipeline(&self, calls: Request<Streaming<PipelineRequest>>) -> Reply<Self::PipelineStream> {
        let (answers, outgoing) = unbounded_channel();
        drop(self.opened.send(Stream { calls: calls.into_inner(), answers }));
        Ok(Response::new(UnboundedReceiverStream::new(outgoing)))
    }
    async fn check_and_reserve(&self, _: Request<CheckAndReserveRequest>) -> Reply<CheckAndReserveResponse> {
        not_asked()
    }
    async fn report_progress(&self, _: Request<ReportProgressRequest>) -> Reply<ReportProgressResponse> {
        not_asked()
    }
    async fn settle(&self, _: Request<SettleRequest>) -> Reply<SettleResponse> {
        not_asked()
    }
    async fn release(&self, _: Request<ReleaseRequest>) -> Reply<ReleaseResponse> {
        not_asked()
    }
    async fn get_limits(&self, _: Request<GetLimitsRequest>) -> Reply<GetLimitsResponse> {
        not_asked()
    }
    async fn batch_check_and_reserve(
        &self,
        _: Request<BatchCheckAndReserveRequest>,
    ) -> Reply<BatchCheckAndReserveResponse> {
        not_asked()
    }
    async fn batch_settle(&self, _: Request<BatchSettleRequest>) -> Reply<BatchSettleResponse> {
        not_asked()
    }
    async fn report_pressure(&self, _: Request<ReportPressureRequest>) -> Reply<ReportPressureResponse> {
        not_asked()
    }
}
