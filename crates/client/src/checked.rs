//! What a gateway is told about a request, also where tidegate was not there to decide.

use tidegate_proto::v1::{CheckAndReserveResponse, Decision};

use crate::failure::CallFailed;

/// What a decision is where tidegate does not answer in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnavailable {
    /// The error; the caller knows what to do.
    #[default]
    Fail,
    /// [`Checked::Open`]: forward the request, uncounted.
    Open,
    /// [`Checked::Closed`]: refuse it, best with 503.
    Closed,
}

/// Whether a request may be forwarded, and who says so.
#[derive(Clone, Debug)]
#[must_use]
pub enum Checked {
    /// tidegate decided: an ALLOW with a reservation, or a denial with what to answer.
    Decided(Box<CheckAndReserveResponse>),
    /// tidegate did not answer in time, and [`OnUnavailable::Open`] lets the request pass. There is no reservation: nothing to report or
    /// to settle, and what the request uses is not counted.
    Open(CallFailed),
    /// tidegate did not answer in time, and [`OnUnavailable::Closed`] refuses the request.
    Closed(CallFailed),
}

impl Checked {
    /// Whether the request may be forwarded: an ALLOW, or [`Checked::Open`].
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Decided(answer) => answer.decision() == Decision::Allow,
            Self::Open(_) => true,
            Self::Closed(_) => false,
        }
    }

    /// The reservation to report on and to settle, if there is one.
    #[must_use]
    pub fn reservation_id(&self) -> Option<&str> {
        match self {
            Self::Decided(answer) => Some(answer.reservation_id.as_str()).filter(|id| !id.is_empty()),
            Self::Open(_) | Self::Closed(_) => None,
        }
    }
}
