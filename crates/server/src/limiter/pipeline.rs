//! Many calls on one stream, each answered as soon as it can be.
//!
//! A call that does not wait is answered where it is read, without a task or a queue. One that waits for the shared store holds up those
//! alone that name the same limit key or reservation: they take effect in the order in which they were sent.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::FuturesUnordered;
use tidegate_proto::error;
use tidegate_proto::v1::pipeline_request::Call;
use tidegate_proto::v1::pipeline_response::Answer;
use tidegate_proto::v1::{PipelineRequest, PipelineResponse};
use tidegate_store::Store;
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::Limiter;
use crate::calls::internal;
use crate::connection::Place;
use crate::metrics::ServerBound;

/// Most calls of a stream that are not answered; beyond, it is not read.
const MOST_IN_FLIGHT: usize = 1_024;
/// When to come back after too many calls were in flight in the process, or after the process stops: to another one.
const RETRY: Duration = Duration::from_secs(1);

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
pub(super) struct Pipeline<S> {
    limiter: Arc<Limiter<S>>,
    calls: Calls,
    names: RandomState,
    waiting: FuturesUnordered<Waiting>,
    /// Calls behind one that waits and names the same.
    behind: HashMap<Name, VecDeque<PipelineRequest>>,
    in_flight: usize,
    /// Answers that are to go out.
    answers: VecDeque<PipelineResponse>,
}

enum Calls {
    Open {
        calls: Box<Streaming<PipelineRequest>>,
        stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    },
    /// With what the answers end, if not well.
    Over(Option<Status>),
}

impl<S: Store> Pipeline<S> {
    pub(super) fn new(limiter: Limiter<S>, calls: Streaming<PipelineRequest>) -> Self {
        let stopping = Box::pin(limiter.readiness.stopping());
        Self {
            limiter: Arc::new(limiter),
            calls: Calls::Open { calls: Box::new(calls), stopping },
            names: RandomState::new(),
            waiting: FuturesUnordered::new(),
            behind: HashMap::new(),
            in_flight: 0,
            answers: VecDeque::new(),
        }
    }

    /// The next call, if one is there and may be read.
    fn read(&mut self, cx: &mut Context<'_>) -> Option<PipelineRequest> {
        let Calls::Open { calls, stopping } = &mut self.calls else { return None };
        let is_full = self.in_flight >= MOST_IN_FLIGHT;
        let read = if is_full { Poll::Pending } else { Pin::new(calls).poll_next(cx) };
        let ends = match read {
            Poll::Ready(Some(Ok(call))) => return Some(call),
            Poll::Ready(Some(Err(status))) => Some(status),
            Poll::Ready(None) => None,
            Poll::Pending if stopping.as_mut().poll(cx).is_pending() => return None,
            Poll::Pending => Some(error::unavailable(error::SHUTTING_DOWN, "the server is stopping", RETRY)),
        };
        self.calls = Calls::Over(ends);
        None
    }

    /// Makes a call; its answer, if it need not wait for it.
    fn make(&mut self, call: PipelineRequest, cx: &mut Context<'_>) -> Option<PipelineResponse> {
        let name = self.name(&call);
        if let Some(behind) = self.behind.get_mut(&name) {
            behind.push_back(call);
            self.in_flight += 1;
            return None;
        }
        self.start(name, call, cx)
    }

    fn start(&mut self, name: Name, call: PipelineRequest, cx: &mut Context<'_>) -> Option<PipelineResponse> {
        let call_id = call.call_id;
        let mut answer: Answering = Box::pin(answered(Arc::clone(&self.limiter), call));
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Some(answer);
        }
        let Some(place) = self.limiter.calls.try_take() else {
            self.limiter.metrics.on_bound_reached(ServerBound::CallsInFlight);
            let message = "too many calls are in flight (bounds.calls_in_flight); this one may have taken effect";
            let busy = error::unavailable(error::TOO_BUSY, message, RETRY);
            return Some(PipelineResponse { call_id, answer: Some(Answer::Error(error::call_error(&busy))) });
        };
        self.behind.insert(name, VecDeque::new());
        self.waiting.push(Waiting { name, answer, _place: place });
        self.in_flight += 1;
        None
    }

    /// A call that waited is answered: those behind it are made, up to one that waits in turn.
    fn go_on(&mut self, name: Name, cx: &mut Context<'_>) {
        self.in_flight -= 1;
        let mut behind = self.behind.remove(&name).unwrap_or_default();
        while let Some(call) = behind.pop_front() {
            self.in_flight -= 1;
            match self.start(name, call, cx) {
                Some(answer) => self.answers.push_back(answer),
                None => {
                    self.behind.insert(name, behind);
                    break;
                }
            }
        }
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

impl<S: Store> Stream for Pipeline<S> {
    type Item = Result<PipelineResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(answer) = this.answers.pop_front() {
                return Poll::Ready(Some(Ok(answer)));
            }
            if let Poll::Ready(Some((name, answer))) = Pin::new(&mut this.waiting).poll_next(cx) {
                this.answers.push_back(answer);
                this.go_on(name, cx);
                continue;
            }
            let Some(call) = this.read(cx) else {
                return match &mut this.calls {
                    Calls::Over(ends) if this.waiting.is_empty() => Poll::Ready(ends.take().map(Err)),
                    Calls::Over(_) | Calls::Open { .. } => Poll::Pending,
                };
            };
            if let Some(answer) = this.make(call, cx) {
                return Poll::Ready(Some(Ok(answer)));
            }
        }
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
