//! `RateLimiterService`: parse, ask the store, answer.
//!
//! Each call is one pass: wire message → [`tidegate_proto::convert`] → [`Store`] → count → wire message. Nothing is
//! decided here. How calls come in and go out is in `quick` for those that come by the million, in `service` for all of them one by one,
//! in `batch` for many in a message that have to wait, and in `pipeline` for many on a stream.

use std::sync::Arc;
use std::time::Duration;

use tidegate_core::ask::Request as Ask;
use tidegate_core::decision::{Answer, Denied};
use tidegate_core::headers::HeaderUnit;
use tidegate_core::policy::UnknownAccounts;
use tidegate_core::state::SettleCounts;
use tidegate_core::window::Window;
use tidegate_proto::convert::{self, TtlRange};
use tidegate_proto::error;
use tidegate_proto::v1::{
    CheckAndReserveRequest, CheckAndReserveResponse, GetLimitsRequest, GetLimitsResponse, ReleaseRequest,
    ReleaseResponse, ReportPressureRequest, ReportPressureResponse, ReportProgressRequest, ReportProgressResponse,
    ResponseView, SettleOutcome, SettleRequest, SettleResponse,
};
use tidegate_proto::wire::CheckAndReserve;
use tidegate_store::{Booked, EndError, ReserveError, Reserved, Store};
use tonic::Status;

use crate::clock::{Clock, Reading};
use crate::connection::Places;
use crate::metrics::Metrics;
use crate::readiness::Readiness;

mod batch;
pub(crate) mod pipeline;
pub(crate) mod quick;
mod service;

/// When a call whose request id is being decided elsewhere is to be made again: by then a sidecar that does not answer counts as gone.
const REQUEST_ID_RETRY: Duration = Duration::from_millis(400);

/// The service over a store. Clones share everything.
#[derive(Debug)]
pub struct Limiter<S> {
    store: Arc<S>,
    clock: Clock,
    metrics: Arc<Metrics>,
    ttl: TtlRange,
    unit: HeaderUnit,
    /// Places for calls in flight, of which those that wait on a stream take one each.
    calls: Places,
    readiness: Readiness,
}

impl<S> Limiter<S> {
    /// Answers from `store` at the time of `clock`; counts in `metrics`. `ttl` are the TTLs that requests may name; streams end when
    /// `readiness` says that the process stops.
    #[must_use]
    pub(crate) const fn new(
        store: Arc<S>,
        clock: Clock,
        metrics: Arc<Metrics>,
        (ttl, unit): (TtlRange, HeaderUnit),
        calls: Places,
        readiness: Readiness,
    ) -> Self {
        Self { store, clock, metrics, ttl, unit, calls, readiness }
    }
}

impl<S> Clone for Limiter<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics),
            calls: self.calls.clone(),
            readiness: self.readiness.clone(),
            ..*self
        }
    }
}

impl<S: Store> Limiter<S> {
    /// Advances a test clock to the time that a call names.
    #[cfg(feature = "test-clock")]
    pub(crate) fn advance(&self, headers: &http::HeaderMap) -> Result<(), Status> {
        crate::test_time::advance_by(headers, self.store.as_ref(), &self.clock)
    }

    async fn check(&self, wire: &CheckAndReserveRequest) -> Result<CheckAndReserveResponse, Status> {
        let read = self.clock.read();
        let (view, ask) = self.parsed(&wire.into())?;
        let reserved = self.store.check_and_reserve(read.now, &ask).await.map_err(undecided)?;
        let answer = &reserved.answer;
        let id = reserved.id_text(ask.key).unwrap_or_default();
        let headers = match view {
            // None in a view without headers: to render them costs as much as to decide.
            ResponseView::Windows | ResponseView::Decision => Vec::new(),
            ResponseView::Unspecified | ResponseView::Full | ResponseView::Headers => {
                convert::http_headers(answer, self.unit, reserved.shadow)
            }
        };
        let response = if reserved.shadow {
            convert::shadow_response(answer, id, headers, view)
        } else {
            convert::check_and_reserve_response(answer, id, headers, view)
        };
        self.on_decided(&read, &ask, &reserved);
        Ok(response)
    }

    fn parsed<'a>(&self, call: &CheckAndReserve<'a>) -> Result<(ResponseView, Ask<'a>), Status> {
        Ok((convert::view(call.view)?, convert::check_and_reserve(*call, self.ttl)?))
    }

    /// A call that came at `read` was answered.
    fn on_decided(&self, read: &Reading, ask: &Ask<'_>, reserved: &Reserved) {
        if let Err(denied) = &reserved.answer.outcome {
            log_denial(ask, &reserved.answer, denied, reserved.shadow);
        }
        let seconds = self.clock.seconds_since(read);
        self.metrics.on_decision(ask.service_tier, &reserved.answer, reserved.shadow, seconds);
    }

    async fn progress(&self, wire: &ReportProgressRequest) -> Result<ReportProgressResponse, Status> {
        let now = self.clock.now();
        let progress = convert::progress(wire)?;
        let booked = self.store.report_progress(now, progress.reservation_id, progress.generated_tokens).await;
        let Some(booked) = of_reservation(booked)? else {
            return Ok(ReportProgressResponse { outcome: SettleOutcome::Applied.into() });
        };
        self.metrics.on_progress(&booked);
        Ok(ReportProgressResponse { outcome: convert::settle_outcome(booked.outcome).into() })
    }

    async fn settled(&self, wire: &SettleRequest) -> Result<SettleResponse, Status> {
        let now = self.clock.now();
        let settlement = convert::settle(wire)?;
        let counts = SettleCounts {
            prompt_tokens: settlement.prompt_tokens,
            cached_prompt_tokens: settlement.cached_prompt_tokens,
            generated_tokens: settlement.generated_tokens,
        };
        let booked = self.store.settle(now, settlement.reservation_id, counts).await;
        let (outcome, clamped) = self.on_booked(of_reservation(booked)?);
        Ok(SettleResponse { outcome: outcome.into(), clamped })
    }

    /// A settlement was booked; what is told of it.
    fn on_booked(&self, booked: Option<Booked>) -> (SettleOutcome, bool) {
        let Some(booked) = booked else { return (SettleOutcome::Applied, false) };
        self.metrics.on_settled(&booked);
        (convert::settle_outcome(booked.outcome), booked.clamped)
    }

    async fn released(&self, wire: &ReleaseRequest) -> Result<ReleaseResponse, Status> {
        let now = self.clock.now();
        let reservation_id = convert::release(wire)?;
        let Some(outcome) = of_reservation(self.store.release(now, reservation_id).await)? else {
            return Ok(ReleaseResponse { outcome: SettleOutcome::Applied.into() });
        };
        self.metrics.on_released(outcome);
        Ok(ReleaseResponse { outcome: convert::settle_outcome(outcome).into() })
    }

    async fn limits(&self, wire: &GetLimitsRequest) -> Result<GetLimitsResponse, Status> {
        let now = self.clock.now();
        let key = convert::limit_key(wire.key.as_ref())?;
        let policy = self.store.policy();
        if !policy.accounts().contains_key(key.account()) && policy.unknown_accounts() == UnknownAccounts::Forbidden {
            return Err(error::not_found(error::Object::Account, key.account()));
        }
        let windows = self.store.limits(now, key).await;
        Ok(GetLimitsResponse { windows: convert::window_statuses(&windows) })
    }

    async fn pressure(&self, wire: &ReportPressureRequest) -> Result<ReportPressureResponse, Status> {
        let now = self.clock.now();
        let report = convert::report_pressure(wire)?;
        let taken = self.store.report_pressure(now, &report).await;
        taken.map_err(|full| error::failed_precondition(error::PRESSURE_FULL, full.to_string()))?;
        Ok(ReportPressureResponse {})
    }
}

/// The status of a request that was not decided.
fn undecided(failure: ReserveError) -> Status {
    match failure {
        ReserveError::RequestIdTaken => error::already_exists(error::REQUEST_ID_REUSED, failure.to_string()),
        ReserveError::Undecided => error::unavailable(error::REQUEST_ID_PENDING, failure.to_string(), REQUEST_ID_RETRY),
    }
}

/// What was booked of a reservation; `None` where shadow let the request through and reserved nothing: whoever calls is told
/// the usual, and nothing counts.
fn of_reservation<T>(booked: Result<T, EndError>) -> Result<Option<T>, Status> {
    match booked {
        Ok(booked) => Ok(Some(booked)),
        Err(EndError::NothingReserved) => Ok(None),
        Err(EndError::Forged) => Err(error::invalid_reservation_id()),
        Err(EndError::Ended) => Err(error::failed_precondition(error::RESERVATION_ENDED, EndError::Ended.to_string())),
        Err(EndError::TooLate) => {
            Err(error::failed_precondition(error::SETTLEMENT_TOO_LATE, EndError::TooLate.to_string()))
        }
    }
}

/// One line for each denial, at DEBUG: who, why, and the numbers of the first binding window (of none where none binds).
fn log_denial(ask: &Ask<'_>, answer: &Answer, denied: &Denied, shadow: bool) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let binding = answer.windows.iter().find(|(_, status)| status.binding);
    let (window, status) = binding.map_or((None, None), |(window, status)| (Some(window), Some(status)));
    tracing::debug!(
        account = ask.key.account(),
        model = ask.key.model(),
        variant = ask.key.variant(),
        reason = denied.denial.name(),
        window = window.map_or("none", Window::name),
        limit_tpm = status.map(|status| status.limit_tpm),
        used_tokens = status.map(|status| status.used_tokens),
        held_tokens = status.map(|status| status.held_tokens),
        ask_tokens = window.map(|window| denied.ask[window]),
        request_id = ask.request_id,
        shadow,
        "denied"
    );
}
