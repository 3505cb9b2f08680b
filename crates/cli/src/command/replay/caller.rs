//! Makes a replay's calls and times them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidegate_proto::v1::rate_limiter_service_client::RateLimiterServiceClient;
use tidegate_proto::v1::{
    CheckAndReserveRequest, CheckAndReserveResponse, LimitKey, ReportProgressRequest, ReportProgressResponse,
    SettleRequest, SettleResponse,
};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::agenda::{Call, Step, Stream};
use crate::failure::Failure;
use crate::stopwatch::Stopwatch;
use crate::target::{Target, connect};

/// Connections to the server, and what a call needs besides its step.
pub(super) struct Caller {
    clients: Vec<RateLimiterServiceClient<Channel>>,
    turn: AtomicUsize,
    run: u64,
    stopwatch: Stopwatch,
    test_clock_base_us: Option<u64>,
}

/// What the server said.
pub(super) enum Reply {
    /// To `CheckAndReserve`.
    Reserved(Box<CheckAndReserveResponse>),
    /// To `ReportProgress`.
    Progressed(ReportProgressResponse),
    /// To `Settle`.
    Settled(SettleResponse),
}

/// A call that was answered, or could not be.
pub(super) struct Answered {
    /// The call.
    pub(super) call: Call,
    /// Its answer, or the gRPC error.
    pub(super) reply: Result<Reply, Status>,
    /// When it was sent: microseconds since the replay began; on the test clock, since 1970.
    pub(super) sent_us: u64,
    /// When the answer was there, on the same clock.
    pub(super) received_us: u64,
    /// What it took, in real time.
    pub(super) latency_us: u64,
}

impl Caller {
    /// Opens `connections` connections. With `test_clock_base_us`, every call moves the server's clock to that plus its own
    /// time in the trace.
    pub(super) async fn connect(
        target: &Target,
        call_timeout: Duration,
        connections: usize,
        test_clock_base_us: Option<u64>,
    ) -> Result<Self, Failure> {
        let mut clients = Vec::with_capacity(connections);
        for _ in 0..connections {
            clients.push(RateLimiterServiceClient::new(connect(target, call_timeout).await?));
        }
        let run = getrandom::u64().map_err(|error| Failure::Failed(format!("no random numbers: {error}")))?;
        let stopwatch = Stopwatch::start();
        Ok(Self { clients, turn: AtomicUsize::new(0), run, stopwatch, test_clock_base_us })
    }

    /// Real time since the connections were opened.
    pub(super) fn elapsed(&self) -> Duration {
        self.stopwatch.elapsed()
    }

    /// The request id of a row: unique among runs, so that a second replay does not repeat the first one's answers.
    pub(super) fn request_id(&self, row: u64) -> String {
        format!("replay-{:016x}-{row}", self.run)
    }

    /// Makes one call.
    pub(super) async fn make(&self, call: Call) -> Answered {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.clients.len();
        let mut client = self.clients[turn].clone();
        let virtual_us = self.test_clock_base_us.map(|base_us| base_us.saturating_add(call.due_ms * 1_000));
        let began_us = self.stopwatch.elapsed_us();
        let reply = match call.step {
            Step::Reserve => {
                let request = timed(self.check_and_reserve(&call.stream), virtual_us);
                client.check_and_reserve(request).await.map(|answer| Reply::Reserved(Box::new(answer.into_inner())))
            }
            Step::Progress { generated_tokens } => {
                let reservation_id = call.stream.reservation_id.clone();
                let request = timed(ReportProgressRequest { reservation_id, generated_tokens }, virtual_us);
                client.report_progress(request).await.map(Response::into_inner).map(Reply::Progressed)
            }
            Step::Settle { generated_tokens } => {
                let request = timed(settle(&call.stream, generated_tokens), virtual_us);
                client.settle(request).await.map(Response::into_inner).map(Reply::Settled)
            }
        };
        let ended_us = self.stopwatch.elapsed_us();
        Answered {
            call,
            reply,
            sent_us: virtual_us.unwrap_or(began_us),
            received_us: virtual_us.unwrap_or(ended_us),
            latency_us: ended_us - began_us,
        }
    }

    fn check_and_reserve(&self, stream: &Stream) -> CheckAndReserveRequest {
        CheckAndReserveRequest {
            key: Some(LimitKey {
                account: stream.request.account.clone(),
                model: stream.request.model.clone(),
                variant: String::new(),
            }),
            prompt_tokens: stream.request.prompt_tokens,
            cached_prompt_tokens: Some(stream.request.cached_tokens()),
            request_id: self.request_id(stream.row),
            ..CheckAndReserveRequest::default()
        }
    }
}

fn settle(stream: &Stream, generated_tokens: u64) -> SettleRequest {
    SettleRequest {
        reservation_id: stream.reservation_id.clone(),
        prompt_tokens: Some(stream.request.prompt_tokens),
        cached_prompt_tokens: Some(stream.request.cached_tokens()),
        generated_tokens: Some(generated_tokens),
    }
}

/// With the server's build feature `test-clock`, the server advances its clock to `virtual_us` before it handles the call.
#[cfg(feature = "test-clock")]
fn timed<Message>(message: Message, virtual_us: Option<u64>) -> Request<Message> {
    let mut request = Request::new(message);
    if let Some(virtual_us) = virtual_us {
        request.metadata_mut().insert(tidegate_server::test_time::METADATA, virtual_us.into());
    }
    request
}

/// Without it there is no `--test-clock`, and time passes by itself.
#[cfg(not(feature = "test-clock"))]
fn timed<Message>(message: Message, _: Option<u64>) -> Request<Message> {
    Request::new(message)
}
