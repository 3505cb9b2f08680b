//! What tidegate answers: the decision, its reason, and what each window looks like.

use core::time::Duration;

use crate::reservation::Number;
use crate::time::Timestamp;
use crate::window::{PerWindow, Tokens};

/// Of a request: `standard` is shed before `priority`. It matters to squeeze and shed alone; both share the windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServiceTier {
    /// Shed first.
    #[default]
    Standard,
    /// Shed last, exempt from the squeeze.
    Priority,
}

impl ServiceTier {
    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Priority => "priority",
        }
    }
}

/// Why a request was refused, in the classes of contract C10 and C11.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// 429: the binding windows are too full for this ask; it fits later.
    WindowFull,
    /// 429: a stated ask is above today's limit, within the ceiling. Waiting does not help.
    ExceedsCurrentLimit,
    /// 429: a stated ask is above the ceiling.
    NeverFits,
    /// 503: it fits the limit, but not what the busy deployment leaves of it.
    Squeezed,
    /// 503: it fits, and the deployment is so busy that it is refused all the same.
    Shed,
    /// 503: a bound of tidegate itself is reached.
    Capacity(Bound),
    /// 503: limits are shared, and what the others have cannot be asked.
    StoreUnavailable,
    /// 403: nobody configured the account, and unknown accounts are refused.
    UnknownAccount,
    /// 403: an operator refuses the account.
    AccountBlocked,
}

/// A bound of tidegate (contract C14) that a request can run into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// Limit keys in the table.
    Keys,
    /// Limit keys of accounts that nobody configured: half of the table.
    UnknownAccountKeys,
    /// Live reservations in the process.
    Reservations,
    /// Live reservations of one key.
    ReservationsPerKey,
}

impl Bound {
    /// Every bound.
    pub const ALL: [Self; 4] = [Self::Keys, Self::UnknownAccountKeys, Self::Reservations, Self::ReservationsPerKey];

    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::UnknownAccountKeys => "unknown_account_keys",
            Self::Reservations => "reservations",
            Self::ReservationsPerKey => "reservations_per_key",
        }
    }
}

impl Denial {
    /// Its name in metrics and logs, the wire's reason in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WindowFull => "window_full",
            Self::ExceedsCurrentLimit => "exceeds_current_limit",
            Self::NeverFits => "never_fits",
            Self::Squeezed => "squeezed",
            Self::Shed => "shed",
            Self::Capacity(_) => "capacity",
            Self::StoreUnavailable => "store_unavailable",
            Self::UnknownAccount => "unknown_account",
            Self::AccountBlocked => "account_blocked",
        }
    }

    /// The decision's name in metrics and logs: `rate_limited`, `overloaded` or `forbidden`.
    #[must_use]
    pub const fn decision_name(self) -> &'static str {
        match self {
            Self::WindowFull | Self::ExceedsCurrentLimit | Self::NeverFits => "rate_limited",
            Self::Squeezed | Self::Shed | Self::Capacity(_) | Self::StoreUnavailable => "overloaded",
            Self::UnknownAccount | Self::AccountBlocked => "forbidden",
        }
    }

    /// The HTTP status the gateway sends: 429, 503 or 403.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::WindowFull | Self::ExceedsCurrentLimit | Self::NeverFits => 429,
            Self::Squeezed | Self::Shed | Self::Capacity(_) | Self::StoreUnavailable => 503,
            Self::UnknownAccount | Self::AccountBlocked => 403,
        }
    }

    /// Whether a limit or the pressure of a deployment is why, so that shadow lets the request through. A refused account stays
    /// refused, and a bound of tidegate itself holds.
    #[must_use]
    pub const fn is_by_limit(self) -> bool {
        match self {
            Self::WindowFull | Self::ExceedsCurrentLimit | Self::NeverFits | Self::Squeezed | Self::Shed => true,
            Self::Capacity(_) | Self::StoreUnavailable | Self::UnknownAccount | Self::AccountBlocked => false,
        }
    }

    /// Whether a client that repeats the request, after the wait if there is one, may hope for another answer.
    #[must_use]
    pub const fn should_retry(self) -> bool {
        matches!(self, Self::WindowFull | Self::Squeezed | Self::Shed | Self::Capacity(_) | Self::StoreUnavailable)
    }
}

/// One window as a decision saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowStatus {
    /// The published limit, TPM; within `floor_tpm..=ceiling_tpm`.
    pub limit_tpm: u64,
    /// What is enforced now, TPM, at the service tier of the request (Standard where there is none); at most `limit_tpm`, at
    /// least `floor_tpm`.
    pub effective_limit_tpm: u64,
    /// The lower bound that applies, TPM.
    pub floor_tpm: u64,
    /// The upper bound that applies, TPM.
    pub ceiling_tpm: u64,
    /// Tokens charged in the trailing 60 s, this request's included when it was admitted.
    pub used_tokens: u64,
    /// Tokens held for output that is expected but not reported yet.
    pub held_tokens: u64,
    /// The largest ask that would be admitted now; 0 where the window is above its limit.
    pub remaining_tokens: u64,
    /// Time until `used_tokens` would be 0 if nothing came; at most 60 s.
    pub reset_after: Duration,
    /// Whether this window was (one of those) in the way.
    pub binding: bool,
}

/// A request admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Which reservation.
    pub number: Number,
    /// What was charged (prompt windows) and held (generated).
    pub reserved: Tokens,
    /// When it was admitted.
    pub admitted_at: Timestamp,
    /// How long it lives without progress.
    pub ttl: Duration,
    /// Whether this repeats the answer to an earlier call with the same request id.
    pub replayed: bool,
}

/// A request refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Why.
    pub denial: Denial,
    /// How long to wait; `None` where waiting does not help.
    pub retry_after: Option<Duration>,
    /// What the request asked for.
    pub ask: Tokens,
}

/// The answer to one request: what was decided, and the windows after the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Allowed or denied. A denial is an answer, not an error.
    pub outcome: Result<Allowed, Denied>,
    /// The windows after the decision took effect.
    pub windows: PerWindow<WindowStatus>,
}

/// What became of a settlement, a release or a progress report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleOutcome {
    /// It took effect.
    Applied,
    /// It was charged once although the reservation had ended, or was not known here.
    Late,
    /// It had ended or was known already; nothing changed.
    Duplicate,
}
