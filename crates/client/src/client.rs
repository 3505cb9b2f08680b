//! What gateways call.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prost::Message as _;
use tidegate_proto::v1::pipeline_request::Call;
use tidegate_proto::v1::pipeline_response::Answer;
use tidegate_proto::v1::{
    CheckAndReserveRequest, GetLimitsRequest, GetLimitsResponse, PipelineRequest, ReleaseRequest, ReleaseResponse,
    ReportProgressRequest, ReportProgressResponse, SettleRequest, SettleResponse,
};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::backoff::at_least;
use crate::calls::{Calls, Closed};
use crate::checked::{Checked, OnUnavailable};
use crate::failure::{CallFailed, NotQueued, Undelivered};
use crate::link::{self, Connect};
use crate::options::Options;
use crate::outbox::{End, Outbox, OutboxCounts};
use crate::request_id::RequestIds;
use crate::target::Target;
use crate::ticket::Ticket;

/// Longer than any valid call: names, ids and numbers at their bounds take less than 1.3 KiB. A longer one could be longer than the
/// server reads, which would end the stream for all.
const MOST_CALL_BYTES: usize = 4_096;
/// Longest reservation id.
const MOST_ID_BYTES: usize = 1_200;
/// How long connecting may take before the next attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// After this long without a word, the server is asked whether it is still there, and has the connect timeout to say so.
const SILENCE: Duration = Duration::from_secs(5);

/// Why a client could not be made. Whether the server is there plays no part.
#[derive(Debug, thiserror::Error)]
pub enum NotMade {
    /// The host's name cannot stand in a URL, or the roots for TLS cannot be used.
    #[error("{target}: {}", crate::with_sources(.source))]
    Target {
        /// Where to.
        target: Target,
        /// What is wrong.
        source: tonic::transport::Error,
    },
    /// No randomness for request ids.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
}

/// A client of one tidegate, cheap to clone; all clones share one stream.
///
/// It connects at the first call, on the runtime of that call, and from then on stays connected: after a break it tries again after
/// 20 ms, 40 ms and so on up to 1 s. Where that runtime ends, the next call starts anew on its own.
///
/// A call takes at most its time ([`Options::decision_timeout`], [`Options::call_timeout`]). Within it, a call that was cut off is
/// repeated, and one that the server could not decide is repeated as it says. A caller who leaves early (drops the future) leaves no
/// reservation behind, unless it gave the request id: then it may ask again. A call that was cut off when its caller had left may
/// leave one, which expires.
///
/// When the last clone is dropped inside a runtime, the outbox is delivered in the background, and what could not be is logged;
/// [`Client::close`] waits for it and says what became of it.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    calls: Arc<Calls>,
    connect: Connect,
    target: String,
    request_ids: RequestIds,
    options: Options,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("target", &self.shared.target).field("options", &self.shared.options).finish()
    }
}

impl Client {
    /// A client with default [`Options`].
    ///
    /// # Errors
    /// [`NotMade`].
    pub fn new(target: &Target) -> Result<Self, NotMade> {
        Self::with_options(target, Options::default())
    }

    /// A client that behaves as told.
    ///
    /// # Errors
    /// [`NotMade`].
    pub fn with_options(target: &Target, options: Options) -> Result<Self, NotMade> {
        let endpoint = target.endpoint();
        let endpoint = endpoint.map_err(|source| NotMade::Target { target: target.clone(), source })?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
        let endpoint = endpoint.http2_keep_alive_interval(SILENCE).keep_alive_timeout(CONNECT_TIMEOUT);
        let connect: Connect = Arc::new(move || {
            let endpoint = endpoint.clone();
            Box::pin(async move { endpoint.connect().await })
        });
        Self::over(connect, target.to_string(), options)
    }

    /// Over connections of any kind.
    pub(crate) fn over(connect: Connect, target: String, options: Options) -> Result<Self, NotMade> {
        let calls = Arc::new(Calls::new(&options));
        Ok(Self { shared: Arc::new(Shared { calls, connect, target, request_ids: RequestIds::new()?, options }) })
    }

    /// Asks whether a request may be forwarded, and reserves its tokens where it may. Without a `request_id` the client makes one.
    ///
    /// # Errors
    /// [`CallFailed::Refused`] where the request is not valid, and so on; where tidegate does not answer in time, as
    /// [`Options::on_unavailable`] says.
    pub async fn check_and_reserve(&self, mut request: CheckAndReserveRequest) -> Result<Checked, CallFailed> {
        let is_ours = request.request_id.is_empty();
        if is_ours {
            request.request_id = self.shared.request_ids.next();
        }
        let within = self.shared.options.decision_timeout;
        match self.call(Call::CheckAndReserve(request), within, is_ours).await {
            Ok(Answer::CheckAndReserve(answer)) => Ok(Checked::Decided(Box::new(answer))),
            Ok(_) => Err(CallFailed::Malformed),
            Err(failed) if failed.is_unavailable() => match self.shared.options.on_unavailable {
                OnUnavailable::Fail => Err(failed),
                OnUnavailable::Open => Ok(Checked::Open(failed)),
                OnUnavailable::Closed => Ok(Checked::Closed(failed)),
            },
            Err(failed) => Err(failed),
        }
    }

    /// Reports how much a running request has generated so far, and waits for the answer.
    ///
    /// # Errors
    /// [`CallFailed`], such as RESERVATION_ENDED.
    pub async fn report_progress(&self, request: ReportProgressRequest) -> Result<ReportProgressResponse, CallFailed> {
        match self.call_of_any(Call::ReportProgress(request)).await? {
            Answer::ReportProgress(answer) => Ok(answer),
            _ => Err(CallFailed::Malformed),
        }
    }

    /// Ends a reservation with the actual counts, and waits for the answer. Takes the place of its progress in the outbox, and takes
    /// its total over where it states no generated tokens itself.
    ///
    /// # Errors
    /// [`CallFailed`]. After [`CallFailed::NoAnswer`], repeat it or give it to [`Client::settle_later`]: it counts once.
    pub async fn settle(&self, request: SettleRequest) -> Result<SettleResponse, CallFailed> {
        match self.call_of_any(Call::Settle(request)).await? {
            Answer::Settle(answer) => Ok(answer),
            _ => Err(CallFailed::Malformed),
        }
    }

    /// Ends a reservation of which nothing was used, and waits for the answer.
    ///
    /// # Errors
    /// [`CallFailed`].
    pub async fn release(&self, request: ReleaseRequest) -> Result<ReleaseResponse, CallFailed> {
        match self.call_of_any(Call::Release(request)).await? {
            Answer::Release(answer) => Ok(answer),
            _ => Err(CallFailed::Malformed),
        }
    }

    /// Reads the windows of one limit key.
    ///
    /// # Errors
    /// [`CallFailed`].
    pub async fn get_limits(&self, request: GetLimitsRequest) -> Result<GetLimitsResponse, CallFailed> {
        match self.call_of_any(Call::GetLimits(request)).await? {
            Answer::GetLimits(answer) => Ok(answer),
            _ => Err(CallFailed::Malformed),
        }
    }

    /// Reports a total of generated tokens in the background: the newest one of a reservation is sent, as often as the connection
    /// takes it. A total never shrinks.
    ///
    /// # Errors
    /// [`NotQueued`]: it has no effect.
    pub fn report_progress_later(&self, reservation_id: &str, generated_tokens: u64) -> Result<(), NotQueued> {
        self.later(reservation_id, |outbox| outbox.progress(reservation_id, generated_tokens))
    }

    /// Ends a reservation in the background, as often as it takes until the server has it. Of several settlements of a reservation in
    /// the outbox, the first counts.
    ///
    /// # Errors
    /// [`NotQueued`]: it has no effect. Await [`Client::settle`] instead where the outbox is full.
    pub fn settle_later(&self, request: SettleRequest) -> Result<(), NotQueued> {
        let reservation_id = request.reservation_id.clone();
        self.later(&reservation_id, |outbox| outbox.end(&reservation_id, End::Settle(request)))
    }

    /// Ends a reservation of which nothing was used, in the background.
    ///
    /// # Errors
    /// [`NotQueued`]: it has no effect, and the reservation expires in its time.
    pub fn release_later(&self, reservation_id: &str) -> Result<(), NotQueued> {
        self.later(reservation_id, |outbox| outbox.end(reservation_id, End::Release))
    }

    /// What the outbox has done, and has to do.
    #[must_use]
    pub fn outbox(&self) -> OutboxCounts {
        self.shared.calls.outbox_counts()
    }

    /// Streams that were opened so far: all but the first because the one before broke.
    #[must_use]
    pub fn streams(&self) -> u64 {
        self.shared.calls.opened()
    }

    /// Takes no more calls, waits for those under way and until the outbox is delivered, for at most [`Options::close_timeout`].
    /// Dropped early, the work goes on in the background.
    ///
    /// # Errors
    /// [`Undelivered`]: what is not known to have arrived.
    pub async fn close(&self) -> Result<(), Undelivered> {
        let Shared { calls, .. } = &*self.shared;
        calls.close();
        if !calls.is_done() {
            self.shared.start();
        }
        link::until(calls, |calls| !calls.is_kept.load(Ordering::Acquire)).await;
        let left = calls.undelivered();
        if left == Undelivered::default() { Ok(()) } else { Err(left) }
    }

    fn later(
        &self,
        reservation_id: &str,
        put: impl FnOnce(&mut Outbox) -> Result<(), NotQueued>,
    ) -> Result<(), NotQueued> {
        if reservation_id.len() > MOST_ID_BYTES {
            return Err(NotQueued::TooLong(reservation_id.len()));
        }
        self.shared.calls.queue(put)?;
        self.shared.start();
        Ok(())
    }

    async fn call_of_any(&self, call: Call) -> Result<Answer, CallFailed> {
        self.call(call, self.shared.options.call_timeout, false).await
    }

    /// One call with its repeats, all `within` a time.
    async fn call(&self, call: Call, within: Duration, releases: bool) -> Result<Answer, CallFailed> {
        let call = PipelineRequest { call_id: u64::MAX, call: Some(call) };
        let bytes = call.encoded_len();
        let Some(call) = call.call.filter(|_| bytes <= MOST_CALL_BYTES) else {
            return Err(CallFailed::too_long(bytes));
        };
        let deadline = Instant::now() + within;
        let answered = timeout_at(deadline, self.answered(call, deadline, releases)).await;
        answered.unwrap_or_else(|_| {
            let trouble = self.shared.calls.trouble();
            Err(CallFailed::NoAnswer { within, trouble })
        })
    }

    async fn answered(&self, call: Call, deadline: Instant, releases: bool) -> Result<Answer, CallFailed> {
        let calls = &self.shared.calls;
        loop {
            let place = Arc::clone(&calls.places).acquire_owned().await.map_err(|_| CallFailed::Closed)?;
            let ticket = Ticket::of(calls, call.clone(), place, releases).map_err(|Closed| CallFailed::Closed)?;
            self.shared.start();
            let failed = match ticket.await {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(error)) => CallFailed::from(error),
                // The stream broke: once more, on the next one.
                None => continue,
            };
            let CallFailed::Unavailable(refusal) = &failed else { return Err(failed) };
            let Some(told) = refusal.retry_after else { return Err(failed) };
            let wait = at_least(told);
            if Instant::now() + wait >= deadline {
                return Err(failed);
            }
            sleep(wait).await;
        }
    }
}

impl Shared {
    /// Sees that a task keeps a stream open. Outside a runtime, the next call inside one does.
    fn start(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.calls.try_keep() {
            let calls = Arc::clone(&self.calls);
            let close_timeout = self.options.close_timeout;
            runtime.spawn(link::keep(calls, Arc::clone(&self.connect), self.target.clone(), close_timeout));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.calls.close();
        if self.calls.is_done() {
            return;
        }
        self.start();
        if !self.calls.is_kept.load(Ordering::Acquire) {
            link::say_what_is_left(&self.calls, &self.target);
        }
    }
}

#[cfg(test)]
mod tests;
