//! How calls fail, one type for each way to make them.

use std::sync::Arc;
use std::time::Duration;

use tidegate_proto::error::INVALID_FIELD;
use tidegate_proto::v1::CallError;
use tonic::Code;

/// Why a call that was waited for has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallFailed {
    /// The caller's fault, such as INVALID_ARGUMENT or ALREADY_EXISTS, or a bug of the server. Nothing changed, and to repeat the same
    /// call does not help.
    #[error("{0}")]
    Refused(Refusal),
    /// The server was too busy to decide, is stopping, or does not know yet (UNAVAILABLE), and the call had less time left than it is to
    /// wait, or is not told how long that is. Repeat it after [`Refusal::retry_after`].
    #[error("{0}")]
    Unavailable(Refusal),
    /// No answer in time. The call may or may not have taken effect: repeat it under the same request id or reservation id.
    #[error("no answer within {within:?}{}", because(.trouble.as_deref()))]
    NoAnswer {
        /// The time that the call had.
        within: Duration,
        /// What is wrong with the connection, if anything is known to be.
        trouble: Option<Arc<str>>,
    },
    /// The client was closed. The call may have taken effect if it was made before.
    #[error("the client is closed")]
    Closed,
    /// The server answered with something else than what was asked for: it is of a version that this client does not know.
    #[error("the answer does not belong to the call")]
    Malformed,
}

/// An error that tidegate answered to one call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code:?} ({reason}): {message}")]
pub struct Refusal {
    /// The gRPC status code.
    pub code: Code,
    /// The UPPER_SNAKE reason of its `google.rpc.ErrorInfo`; "" where the server gave none.
    pub reason: String,
    /// What is wrong, for people.
    pub message: String,
    /// The path of the bad field, such as "key.account"; "" where no field is bad.
    pub field: String,
    /// On UNAVAILABLE, when to try again.
    pub retry_after: Option<Duration>,
}

impl CallFailed {
    /// The reason of the server's `google.rpc.ErrorInfo`, where it answered with one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) | Self::Unavailable(refusal) => Some(&refusal.reason),
            Self::NoAnswer { .. } | Self::Closed | Self::Malformed => None,
        }
    }

    /// Whether tidegate could not be asked in time, which [`OnUnavailable`](crate::OnUnavailable) decides on.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::NoAnswer { .. })
    }

    /// Of a call that is longer than any valid one, and was therefore not sent.
    pub(crate) fn too_long(bytes: usize) -> Self {
        Self::Refused(Refusal {
            code: Code::InvalidArgument,
            reason: INVALID_FIELD.to_owned(),
            message: format!("the call takes {bytes} bytes, more than any that is valid, and was not sent"),
            field: String::new(),
            retry_after: None,
        })
    }
}

impl From<CallError> for CallFailed {
    fn from(error: CallError) -> Self {
        let code = i32::try_from(error.code).map_or(Code::Unknown, Code::from_i32);
        let CallError { reason, message, field, retry_after, .. } = error;
        let retry_after = retry_after.and_then(|wait| Duration::try_from(wait).ok());
        let refusal = Refusal { code, reason, message, field, retry_after };
        if code == Code::Unavailable { Self::Unavailable(refusal) } else { Self::Refused(refusal) }
    }
}

fn because(trouble: Option<&str>) -> String {
    trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default()
}

/// Why a report did not go into the outbox. It has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotQueued {
    /// As many reservations as may be have something in the outbox. Wait for the call instead, or drop the report.
    #[error("the outbox is full")]
    Full,
    /// The reservation id is longer than any that tidegate gives.
    #[error("the reservation id takes {0} bytes, more than any that is valid")]
    TooLong(usize),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

/// What the outbox still had when its client was closed. All of it may or may not have taken effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error(
    "not known to be delivered: {settlements} settlements, {releases} releases, {progress_reports} progress reports"
)]
pub struct Undelivered {
    /// Settlements: their tokens are not counted, beyond what was reported.
    pub settlements: usize,
    /// Releases: their reservations live on until they expire.
    pub releases: usize,
    /// Progress reports.
    pub progress_reports: usize,
}
