//! The core's answers into wire messages. Nothing here can fail.

use tidegate_core::decision::{Answer, Denial, SettleOutcome, WindowStatus};
use tidegate_core::headers::{self, HeaderUnit};
use tidegate_core::window::{PerWindow, Tokens};

use super::{time, window};
use crate::v1;

/// The answer to `CheckAndReserve`. `reservation_id` and `headers` are those made for `answer`, the id "" on a denial;
/// `view` leaves out windows, headers or both.
#[must_use]
pub fn check_and_reserve_response(
    answer: &Answer,
    reservation_id: String,
    headers: Vec<v1::HttpHeader>,
    view: v1::ResponseView,
) -> v1::CheckAndReserveResponse {
    use v1::ResponseView as View;
    let (with_windows, with_headers) = match view {
        View::Unspecified | View::Full => (true, true),
        View::Windows => (true, false),
        View::Headers => (false, true),
        View::Decision => (false, false),
    };
    let mut response = v1::CheckAndReserveResponse {
        reservation_id,
        windows: if with_windows { window_statuses(&answer.windows) } else { Vec::new() },
        headers: if with_headers { headers } else { Vec::new() },
        ..Default::default()
    };
    match answer.outcome {
        Ok(allowed) => {
            response.set_decision(v1::Decision::Allow);
            response.http_status = 200;
            response.replayed = allowed.replayed;
            response.reserved = Some(tokens(allowed.reserved));
        }
        Err(denied) => {
            response.set_decision(decision(denied.denial));
            response.set_reason(reason(denied.denial));
            response.http_status = denied.denial.http_status().into();
            response.retry_after = denied.retry_after.map(time::wire_duration);
        }
    }
    response
}

/// The statuses of all windows, in the order of headers.
#[must_use]
pub fn window_statuses(windows: &PerWindow<WindowStatus>) -> Vec<v1::WindowStatus> {
    windows
        .iter()
        .map(|(name, status)| v1::WindowStatus {
            window: window(name).into(),
            limit_tpm: status.limit_tpm,
            used_tokens: status.used_tokens,
            held_tokens: status.held_tokens,
            remaining_tokens: status.remaining_tokens,
            reset_after: Some(time::wire_duration(status.reset_after)),
            binding: status.binding,
            floor_tpm: status.floor_tpm,
            ceiling_tpm: status.ceiling_tpm,
            effective_limit_tpm: status.effective_limit_tpm,
        })
        .collect()
}

/// The headers of `answer`, of a denial that is not enforced where it is in `shadow`, in their order.
#[must_use]
pub fn http_headers(answer: &Answer, unit: HeaderUnit, shadow: bool) -> Vec<v1::HttpHeader> {
    let mut headers = Vec::with_capacity(12);
    let say = |name: &str, value: &str| headers.push(v1::HttpHeader { name: name.into(), value: value.into() });
    if shadow {
        headers::render_shadow(answer, unit, say)
    } else {
        headers::render(answer, unit, say)
    }
    headers
}

/// Tokens per window.
#[must_use]
pub const fn tokens(tokens: Tokens) -> v1::Tokens {
    v1::Tokens { prompt: tokens.prompt, uncached_prompt: tokens.uncached_prompt, generated: tokens.generated }
}

/// What became of a settlement, a release or a progress report.
#[must_use]
pub const fn settle_outcome(outcome: SettleOutcome) -> v1::SettleOutcome {
    match outcome {
        SettleOutcome::Applied => v1::SettleOutcome::Applied,
        SettleOutcome::Late => v1::SettleOutcome::Late,
        SettleOutcome::Duplicate => v1::SettleOutcome::Duplicate,
    }
}

pub(crate) const fn decision(denial: Denial) -> v1::Decision {
    match denial {
        Denial::WindowFull | Denial::ExceedsCurrentLimit | Denial::NeverFits => v1::Decision::RateLimited,
        Denial::Squeezed | Denial::Shed | Denial::Capacity(_) | Denial::StoreUnavailable => v1::Decision::Overloaded,
        Denial::UnknownAccount | Denial::AccountBlocked => v1::Decision::Forbidden,
    }
}

pub(crate) const fn reason(denial: Denial) -> v1::DenyReason {
    match denial {
        Denial::WindowFull => v1::DenyReason::WindowFull,
        Denial::ExceedsCurrentLimit => v1::DenyReason::ExceedsCurrentLimit,
        Denial::NeverFits => v1::DenyReason::NeverFits,
        Denial::Squeezed => v1::DenyReason::Squeezed,
        Denial::Shed => v1::DenyReason::Shed,
        Denial::Capacity(_) => v1::DenyReason::Capacity,
        Denial::StoreUnavailable => v1::DenyReason::StoreUnavailable,
        Denial::UnknownAccount => v1::DenyReason::UnknownAccount,
        Denial::AccountBlocked => v1::DenyReason::AccountBlocked,
    }
}
