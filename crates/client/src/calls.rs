//! Calls on their way: in line for the stream, and on it until they are answered. One lock, held for a few map operations.
//!
//! Whoever submits a call wakes the stream, which takes the next one from here; nothing else stands between a caller and the
//! connection. The outbox takes turns with callers, so that neither keeps the other from the stream.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_proto::v1::pipeline_request::Call;
use tidegate_proto::v1::pipeline_response::Answer;
use tidegate_proto::v1::{CallError, PipelineRequest, PipelineResponse};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use tonic::Code;

use crate::backoff::at_least;
use crate::failure::{NotQueued, Undelivered};
use crate::options::Options;
use crate::outbox::{End, Id, Outbox, OutboxCounts, Sent};

/// Before a report is repeated, where the server says that it cannot take it now and not for how long.
const UNTOLD: Duration = Duration::from_secs(1);
/// Longest that a report rests before it is repeated, whatever the server says.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// What a caller is told.
pub(crate) type Told = Result<Answer, CallError>;

/// A call in line, and who waits for it.
struct InLine {
    call: Call,
    caller: Caller,
}

struct Caller {
    tell: oneshot::Sender<Told>,
    /// Whether an ALLOW that comes when the caller has left is to be released: nobody else knows its request id.
    releases: bool,
    /// Given back on drop.
    _place: OwnedSemaphorePermit,
}

enum InFlight {
    Caller(Caller),
    Outbox(Id),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Takes no more, and delivers what it has.
    Closing,
    Over,
}

struct State {
    phase: Phase,
    /// Counts begins and ends of streams: those of another number are over.
    stream: u64,
    opened: u64,
    calls: u64,
    in_line: VecDeque<InLine>,
    in_flight: HashMap<u64, InFlight>,
    outbox: Outbox,
    is_turn_of_outbox: bool,
    /// Of the stream, which waits for something to send.
    waker: Option<Waker>,
    trouble: Option<Arc<str>>,
}

/// What a stream finds to send.
pub(crate) enum Next {
    Call(PipelineRequest),
    /// Nothing, before that instant if there is one. The stream is woken when that changes.
    Nothing(Option<Instant>),
    /// The stream is over.
    Over,
}

/// The client was closed.
#[derive(Debug)]
pub(crate) struct Closed;

pub(crate) struct Calls {
    state: Mutex<State>,
    most_in_flight: usize,
    /// For calls that are in line or in flight for callers.
    pub(crate) places: Arc<Semaphore>,
    /// Whether a task keeps a stream open.
    pub(crate) is_kept: AtomicBool,
    /// Phase, outbox or `is_kept` may have changed for one who waits for the end.
    pub(crate) changed: Notify,
}

impl Calls {
    pub(crate) fn new(options: &Options) -> Self {
        let state = State {
            phase: Phase::Open,
            stream: 0,
            opened: 0,
            calls: 0,
            in_line: VecDeque::new(),
            in_flight: HashMap::new(),
            outbox: Outbox::new(options.outbox),
            is_turn_of_outbox: false,
            waker: None,
            trouble: None,
        };
        Self {
            state: Mutex::new(state),
            most_in_flight: options.in_flight,
            places: Arc::new(Semaphore::new(options.in_flight)),
            is_kept: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    /// Puts a call in line. What is told is the answer; that nobody tells any more means that the stream broke, or that the client was
    /// closed.
    pub(crate) fn submit(
        &self,
        mut call: Call,
        place: OwnedSemaphorePermit,
        releases: bool,
    ) -> Result<oneshot::Receiver<Told>, Closed> {
        let (tell, told) = oneshot::channel();
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Err(Closed);
        }
        if let Call::Settle(settle) = &mut call
            && let Some(total) = state.outbox.take_progress(&settle.reservation_id)
        {
            settle.generated_tokens.get_or_insert(total);
        }
        state.in_line.push_back(InLine { call, caller: Caller { tell, releases, _place: place } });
        let waker = state.waker.take();
        drop(state);
        wake(waker);
        Ok(told)
    }

    /// Puts a report into the outbox.
    pub(crate) fn queue(&self, put: impl FnOnce(&mut Outbox) -> Result<(), NotQueued>) -> Result<(), NotQueued> {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Err(NotQueued::Closed);
        }
        put(&mut state.outbox)?;
        let waker = state.waker.take();
        drop(state);
        wake(waker);
        Ok(())
    }

    /// Releases a reservation that nobody waited for. Where the outbox is full, it expires instead, and the outbox counts it.
    pub(crate) fn release(&self, answer: &Answer) {
        let Answer::CheckAndReserve(decision) = answer else { return };
        if decision.reservation_id.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        if state.phase != Phase::Over && state.outbox.end(&decision.reservation_id, End::Release).is_ok() {
            let waker = state.waker.take();
            drop(state);
            wake(waker);
        }
    }

    /// Begins a new stream; its number.
    pub(crate) fn on_stream(&self) -> u64 {
        let mut state = self.state.lock();
        state.stream += 1;
        state.opened += 1;
        state.stream
    }

    /// Streams begun so far.
    pub(crate) fn opened(&self) -> u64 {
        self.state.lock().opened
    }

    /// The next call of that stream, now in flight.
    pub(crate) fn next(&self, stream: u64, now: Instant, waker: &Waker) -> Next {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.stream != stream || state.phase == Phase::Over {
            return Next::Over;
        }
        let is_full = state.in_flight.len() >= self.most_in_flight;
        let Some((call, in_flight)) = (!is_full).then(|| state.take(now)).flatten() else {
            state.waker = Some(waker.clone());
            return Next::Nothing(state.outbox.rested_at().filter(|_| !is_full));
        };
        let call_id = state.calls;
        state.calls += 1;
        state.in_flight.insert(call_id, in_flight);
        Next::Call(PipelineRequest { call_id, call: Some(call) })
    }

    /// An answer of the stream that is open. One that nobody asked for is passed over.
    pub(crate) fn on_answer(&self, response: PipelineResponse, now: Instant) {
        let PipelineResponse { call_id, answer } = response;
        let mut state = self.state.lock();
        state.trouble = None;
        let was_full = state.in_flight.len() >= self.most_in_flight;
        let Some(in_flight) = state.in_flight.remove(&call_id) else { return };
        let caller = match in_flight {
            InFlight::Caller(caller) => Some(caller),
            InFlight::Outbox(id) => {
                state.outbox.on_sent(id, sent(answer.as_ref(), now));
                None
            }
        };
        let waker = if was_full || state.outbox.has_due() || state.outbox.rested_at().is_some() {
            state.waker.take()
        } else {
            None
        };
        let ends = state.phase == Phase::Closing;
        drop(state);
        wake(waker);
        if let Some(caller) = caller {
            self.tell(caller, answer);
        }
        if ends {
            self.changed.notify_waiters();
        }
    }

    fn tell(&self, caller: Caller, answer: Option<Answer>) {
        let told = match answer {
            Some(Answer::Error(error)) => Err(error),
            Some(answer) => Ok(answer),
            // Of a kind that this client does not know: as an error of none.
            None => Err(CallError { code: Code::Unknown as u32, ..CallError::default() }),
        };
        let Caller { tell, releases, _place } = caller;
        if let Err(Ok(answer)) = tell.send(told)
            && releases
        {
            self.release(&answer);
        }
    }

    /// The stream is over: what is in flight may or may not have taken effect. Callers hear that nobody tells them any more, and the
    /// outbox sends again.
    pub(crate) fn on_broken(&self, trouble: &str) {
        let mut state = self.state.lock();
        state.stream += 1;
        state.trouble = Some(trouble.into());
        let unanswered: Vec<_> = state.in_flight.drain().collect();
        let mut callers = Vec::new();
        for (_, in_flight) in unanswered {
            match in_flight {
                InFlight::Caller(caller) => callers.push(caller),
                InFlight::Outbox(id) => state.outbox.on_broken(id),
            }
        }
        let waker = state.waker.take();
        drop(state);
        // The old stream may still be there to hear that it is over.
        wake(waker);
        drop(callers);
    }

    /// What is wrong with the connection, as far as is known.
    pub(crate) fn trouble(&self) -> Option<Arc<str>> {
        self.state.lock().trouble.clone()
    }

    pub(crate) fn outbox_counts(&self) -> OutboxCounts {
        self.state.lock().outbox.counts()
    }

    pub(crate) fn undelivered(&self) -> Undelivered {
        self.state.lock().outbox.undelivered()
    }

    /// Takes no more calls and reports from now on.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.state.lock().phase != Phase::Open
    }

    /// Whether nothing is to be done any more: no call of a caller who waits, and nothing in the outbox; or all is over.
    pub(crate) fn is_done(&self) -> bool {
        let state = self.state.lock();
        let nobody_waits = state.in_flight.is_empty() && state.in_line.iter().all(|call| call.caller.has_left());
        state.phase == Phase::Over || (nobody_waits && state.outbox.is_empty())
    }

    /// The end: nothing is sent any more, and callers who still wait hear so.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Over;
        let in_line = std::mem::take(&mut state.in_line);
        drop(state);
        self.places.close();
        drop(in_line);
        self.on_broken("the client is closed");
    }

    /// Whether nobody kept a stream open so far; from now on, the caller does.
    pub(crate) fn try_keep(&self) -> bool {
        !self.is_kept.swap(true, Ordering::AcqRel)
    }
}

impl State {
    fn take(&mut self, now: Instant) -> Option<(Call, InFlight)> {
        self.is_turn_of_outbox = !self.is_turn_of_outbox;
        if self.is_turn_of_outbox {
            return self.take_report(now).or_else(|| self.take_call());
        }
        self.take_call().or_else(|| self.take_report(now))
    }

    /// The next call whose caller still waits.
    fn take_call(&mut self) -> Option<(Call, InFlight)> {
        loop {
            let InLine { call, caller } = self.in_line.pop_front()?;
            if !caller.has_left() {
                return Some((call, InFlight::Caller(caller)));
            }
        }
    }

    fn take_report(&mut self, now: Instant) -> Option<(Call, InFlight)> {
        let (id, call) = self.outbox.take(now)?;
        Some((call, InFlight::Outbox(id)))
    }
}

impl Caller {
    fn has_left(&self) -> bool {
        self.tell.is_closed()
    }
}

/// What an answer says about a report of the outbox.
fn sent(answer: Option<&Answer>, now: Instant) -> Sent {
    let Some(Answer::Error(error)) = answer else {
        return if answer.is_some() { Sent::Delivered } else { Sent::Failed };
    };
    if error.code == Code::Unavailable as u32 {
        let told = error.retry_after.and_then(|wait| Duration::try_from(wait).ok());
        return Sent::Again(now + at_least(told.unwrap_or(UNTOLD)).min(LONGEST_REST));
    }
    tracing::warn!(code = error.code, reason = error.reason, "tidegate refused a report of a reservation for good");
    Sent::Failed
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
