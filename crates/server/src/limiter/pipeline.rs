//! Many calls on one stream, each answered as soon as it can be.
//!
//! A call that does not wait is answered where it is read, without a task or a queue, and the answers to what came together leave
//! together. One that waits for the shared store holds up those alone that name the same limit key or reservation: they take effect in
//! the order in which they were sent.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream};
use hyper::body::{Body, Frame, Incoming};
use prost::Message as _;
use tidegate_proto::error;
use tidegate_proto::v1::pipeline_request::Call;
use tidegate_proto::v1::pipeline_response::Answer;
use tidegate_proto::v1::{PipelineRequest, PipelineResponse};
use tidegate_proto::wire::PipelineCall;
use tidegate_proto::wire::write::{nested, number};
use tidegate_store::Store;
use tonic::Status;

use super::Limiter;
use crate::calls::internal;
use crate::connection::Place;
use crate::metrics::ServerBound;
use crate::reply::{self, Frames, PREFIX_BYTES, Prefix, framed};

/// The method.
pub(crate) const PATH: &str = "/tidegate.v1.RateLimiterService/Pipeline";
/// Most calls of a stream that are not answered; beyond, it is not read.
const MOST_IN_FLIGHT: usize = 1_024;
/// When to come back after too many calls were in flight in the process, or after the process stops: to another one.
const RETRY: Duration = Duration::from_secs(1);
/// Answers leave when they are this many bytes, or when nothing more is there to be answered.
const FRAME_BYTES: usize = 32 * 1_024;

/// What calls name, hashed: two that name different things and share it wait for each other, and that is all.
type Name = u64;

type Answering = Pin<Box<dyn Future<Output = PipelineResponse> + Send>>;

/// A call that waits.
struct Waiting {
    name: Name,
    answer: Answering,
    /// Given back on drop.
    _place: Place,
}

impl Future for Waiting {
    type Output = (Name, PipelineResponse);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let name = self.name;
        self.answer.as_mut().poll(cx).map(|answer| (name, answer))
    }
}

/// The answers to the calls of one stream. It ends when its calls have and are answered, with their error if they ended with one; or with
/// UNAVAILABLE when the process stops, once those that were read are answered.
pub(crate) struct Pipeline<S> {
    limiter: Arc<Limiter<S>>,
    calls: Calls,
    /// Bytes that a call may have.
    most: usize,
    names: RandomState,
    waiting: FuturesUnordered<Waiting>,
    /// Calls behind one that waits and names the same.
    behind: HashMap<Name, VecDeque<PipelineRequest>>,
    in_flight: usize,
    /// Answers that are to go out.
    out: BytesMut,
}

enum Calls {
    Open {
        body: Incoming,
        /// What came and was not looked at.
        read: BytesMut,
        stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    },
    /// With what the answers end; `None` when they have.
    Over(Option<Result<(), Status>>),
}

/// What is there to be read.
enum Next {
    /// A call of so many bytes, behind its prefix.
    Call(usize),
    Nothing,
}

impl<S: Store> Pipeline<S> {
    /// Answers the calls in `body`, each of which may have `most` bytes.
    pub(crate) fn new(limiter: Limiter<S>, body: Incoming, most: usize) -> Self {
        let stopping = Box::pin(limiter.readiness.stopping());
        Self {
            limiter: Arc::new(limiter),
            calls: Calls::Open { body, read: BytesMut::new(), stopping },
            most,
            names: RandomState::new(),
            waiting: FuturesUnordered::new(),
            behind: HashMap::new(),
            in_flight: 0,
            out: BytesMut::new(),
        }
    }

    /// Reads until a call is there, as far as one may be read.
    fn next(&mut self, cx: &mut Context<'_>) -> Next {
        if self.in_flight >= MOST_IN_FLIGHT {
            return Next::Nothing;
        }
        let Calls::Open { body, read, stopping } = &mut self.calls else { return Next::Nothing };
        let ends = loop {
            match reply::prefix(read, self.most) {
                Prefix::Message(length) => return Next::Call(length),
                Prefix::TooLong(length) => {
                    self.limiter.metrics.on_bound_reached(ServerBound::LimiterMessage);
                    break Err(too_long(length, self.most));
                }
                Prefix::Compressed => break Err(error::unimplemented("a compressed message")),
                Prefix::Part => {}
            }
            match Pin::new(&mut *body).poll_frame(cx).map_ok(Frame::into_data) {
                Poll::Ready(Some(Ok(Ok(data)))) => read.extend_from_slice(&data),
                // Trailers say nothing.
                Poll::Ready(Some(Ok(Err(_)))) => {}
                Poll::Ready(Some(Err(_))) => break Err(Status::cancelled("the stream of calls broke off")),
                Poll::Ready(None) if read.is_empty() => break Ok(()),
                Poll::Ready(None) => break Err(error::invalid_field("request", "ends within a message")),
                Poll::Pending if stopping.as_mut().poll(cx).is_pending() => return Next::Nothing,
                Poll::Pending => {
                    break Err(error::unavailable(error::SHUTTING_DOWN, "the server is stopping", RETRY));
                }
            }
        };
        self.calls = Calls::Over(Some(ends));
        Next::Nothing
    }

    /// Makes the call of `length` bytes that is there; its answer is in `out`, if it need not wait for it.
    fn make(&mut self, length: usize, cx: &mut Context<'_>) {
        let Calls::Open { read, .. } = &mut self.calls else { return };
        read.advance(PREFIX_BYTES);
        if self.behind.is_empty()
            && let Some((call_id, call)) = PipelineCall::read(&read[..length])
        {
            let (limiter, out, method) = (&self.limiter, &mut self.out, method_of(&call));
            let before = out.len();
            let made = catch_unwind(AssertUnwindSafe(|| answered_now(limiter, call_id, &call, out)));
            let failed = match made {
                Ok(None) => None,
                Ok(Some(made)) => Some(made.err()),
                // It may have taken effect: it is not made again.
                Err(panic) => {
                    self.out.truncate(before);
                    Some(Some(internal(panic.as_ref())))
                }
            };
            if let Some(failed) = failed {
                read.advance(length);
                if let Some(status) = failed {
                    self.fail(call_id, method, &status);
                }
                return;
            }
        }
        let call = PipelineRequest::decode(&read[..length]);
        read.advance(length);
        match call {
            Ok(call) => self.make_in_order(call, cx),
            Err(malformed) => {
                let status = error::invalid_field("request", &format!("is malformed: {malformed}"));
                self.calls = Calls::Over(Some(Err(status)));
            }
        }
    }

    /// Makes a call after those that name the same.
    fn make_in_order(&mut self, call: PipelineRequest, cx: &mut Context<'_>) {
        let name = self.name(&call);
        if let Some(behind) = self.behind.get_mut(&name) {
            behind.push_back(call);
            self.in_flight += 1;
        } else if !self.start(name, call, cx) {
            self.behind.insert(name, VecDeque::new());
        }
    }

    /// Starts a call; whether it is answered.
    fn start(&mut self, name: Name, call: PipelineRequest, cx: &mut Context<'_>) -> bool {
        let call_id = call.call_id;
        let mut answer: Answering = Box::pin(answered(Arc::clone(&self.limiter), call));
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            self.say(&answer);
            return true;
        }
        let Some(place) = self.limiter.calls.try_take() else {
            self.limiter.metrics.on_bound_reached(ServerBound::CallsInFlight);
            let message = "too many calls are in flight (bounds.calls_in_flight); this one may have taken effect";
            let busy = error::unavailable(error::TOO_BUSY, message, RETRY);
            self.say(&PipelineResponse { call_id, answer: Some(Answer::Error(error::call_error(&busy))) });
            return true;
        };
        self.waiting.push(Waiting { name, answer, _place: place });
        self.in_flight += 1;
        false
    }

    /// A call that waited is answered: those behind it are made, up to one that waits in turn.
    fn go_on(&mut self, name: Name, cx: &mut Context<'_>) {
        self.in_flight -= 1;
        let mut behind = self.behind.remove(&name).unwrap_or_default();
        while let Some(call) = behind.pop_front() {
            self.in_flight -= 1;
            if !self.start(name, call, cx) {
                self.behind.insert(name, behind);
                break;
            }
        }
    }

    fn fail(&mut self, call_id: u64, method: &str, status: &Status) {
        let error = self.limiter.failed(method, status);
        self.say(&PipelineResponse { call_id, answer: Some(Answer::Error(error)) });
    }

    fn say(&mut self, answer: &PipelineResponse) {
        framed(&mut self.out, |out| answer.encode(out)).expect("a buffer that grows has room");
    }

    fn name(&self, call: &PipelineRequest) -> Name {
        let of_key = |key| self.names.hash_one((0, key));
        let of_reservation = |id: &String| self.names.hash_one((1, id));
        match &call.call {
            Some(Call::CheckAndReserve(call)) => of_key(&call.key),
            Some(Call::GetLimits(call)) => of_key(&call.key),
            Some(Call::ReportProgress(call)) => of_reservation(&call.reservation_id),
            Some(Call::Settle(call)) => of_reservation(&call.reservation_id),
            Some(Call::Release(call)) => of_reservation(&call.reservation_id),
            None => 0,
        }
    }
}

impl<S: Store> Frames for Pipeline<S> {
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let this = &mut *self;
        loop {
            if this.out.len() >= FRAME_BYTES {
                break;
            }
            if let Poll::Ready(Some((name, answer))) = Pin::new(&mut this.waiting).poll_next(cx) {
                this.say(&answer);
                this.go_on(name, cx);
                continue;
            }
            match this.next(cx) {
                Next::Call(length) => this.make(length, cx),
                Next::Nothing => break,
            }
        }
        if !this.out.is_empty() {
            return Poll::Ready(Some(Frame::data(this.out.split().freeze())));
        }
        match &mut this.calls {
            Calls::Over(ends) if this.waiting.is_empty() => {
                Poll::Ready(ends.take().map(|ends| Frame::trailers(reply::trailers(ends))))
            }
            Calls::Over(_) | Calls::Open { .. } => Poll::Pending,
        }
    }
}

fn too_long(length: usize, most: usize) -> Status {
    error::invalid_field("request", &format!("has {length} bytes, more than the {most} of bounds.limiter_message"))
}

const fn method_of(call: &PipelineCall<'_>) -> &'static str {
    match call {
        PipelineCall::CheckAndReserve(_) => "CheckAndReserve",
        PipelineCall::Settle(_) => "Settle",
    }
}

/// Appends the answer to a call that need not wait, or says why there is none; `None` where it has to wait.
fn answered_now<S: Store>(
    limiter: &Limiter<S>,
    call_id: u64,
    call: &PipelineCall<'_>,
    out: &mut BytesMut,
) -> Option<Result<(), Status>> {
    let mut made = None;
    let written = framed(out, |out| {
        number(out, 1, call_id);
        match call {
            PipelineCall::CheckAndReserve(call) => nested(out, 2, |out| made = limiter.check_now(call, out)),
            PipelineCall::Settle(call) => nested(out, 4, |out| made = limiter.settle_now(call, out)),
        }
        match made.take() {
            Some(made) => made.map_err(Some),
            None => Err(None),
        }
    });
    match written {
        Ok(()) => Some(Ok(())),
        Err(failure) => failure.map(Err),
    }
}

async fn answered<S: Store>(limiter: Arc<Limiter<S>>, call: PipelineRequest) -> PipelineResponse {
    let PipelineRequest { call_id, call } = call;
    let (method, answer) = made(&limiter, call).await;
    let answer = answer.unwrap_or_else(|status| Answer::Error(limiter.failed(method, &status)));
    PipelineResponse { call_id, answer: Some(answer) }
}

/// What came of a call, and its method. A panic ends that call alone.
async fn made<S: Store>(limiter: &Limiter<S>, call: Option<Call>) -> (&'static str, Result<Answer, Status>) {
    let method = match &call {
        Some(Call::CheckAndReserve(_)) => "CheckAndReserve",
        Some(Call::ReportProgress(_)) => "ReportProgress",
        Some(Call::Settle(_)) => "Settle",
        Some(Call::Release(_)) => "Release",
        Some(Call::GetLimits(_)) => "GetLimits",
        None => "Pipeline",
    };
    let answer = async {
        match call {
            Some(Call::CheckAndReserve(call)) => limiter.check(&call).await.map(Answer::CheckAndReserve),
            Some(Call::ReportProgress(call)) => limiter.progress(&call).await.map(Answer::ReportProgress),
            Some(Call::Settle(call)) => limiter.settled(&call).await.map(Answer::Settle),
            Some(Call::Release(call)) => limiter.released(&call).await.map(Answer::Release),
            Some(Call::GetLimits(call)) => limiter.limits(&call).await.map(Answer::GetLimits),
            None => Err(error::invalid_field("call", "must be set")),
        }
    };
    let answer = AssertUnwindSafe(answer).catch_unwind().await;
    (method, answer.unwrap_or_else(|panic| Err(internal(panic.as_ref()))))
}
