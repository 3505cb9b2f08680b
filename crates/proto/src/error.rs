//! What a call that could not be decided answers: a gRPC status with `google.rpc.ErrorInfo`.
//!
//! The domain is always [`DOMAIN`]; a reason never changes its meaning, code or spelling. A denial is not an error.
//!
//! | reason | code | when | what the caller may do |
//! |---|---|---|---|
//! | [`INVALID_FIELD`] | INVALID_ARGUMENT | a field is missing, malformed or out of range; `BadRequest` has its path | send another value |
//! | [`INVALID_RESERVATION_ID`] | INVALID_ARGUMENT | the id is malformed or its checksum fails | send the id of an ALLOW |
//! | [`TIER_NOT_FOUND`], [`ACCOUNT_NOT_FOUND`], [`MODEL_NOT_FOUND`], [`OVERRIDE_NOT_FOUND`], [`LIMIT_KEY_NOT_FOUND`] | NOT_FOUND | there is none of this name | create it, or name another |
//! | [`TIER_EXISTS`], [`ACCOUNT_EXISTS`], [`MODEL_EXISTS`], [`OVERRIDE_EXISTS`] | ALREADY_EXISTS | the name is taken | update it, or take another |
//! | [`OVERRIDE_SCOPE_TAKEN`] | ALREADY_EXISTS | another override has this scope | update or delete that one |
//! | [`REQUEST_ID_REUSED`] | ALREADY_EXISTS | the request id belongs to another ask, or to one ended or too old | take a new id |
//! | [`STALE_REVISION`] | ABORTED | the object has another revision than expected; metadata `expected`, `actual` | read it and decide again |
//! | [`TIER_IN_USE`] | FAILED_PRECONDITION | accounts name the tier, or unknown accounts get it | move them first |
//! | [`RESERVATION_ENDED`] | FAILED_PRECONDITION | progress on a reservation that ended or is not known here | settle it |
//! | [`SETTLEMENT_TOO_LATE`] | FAILED_PRECONDITION | the reservation ended longer ago than it is remembered | nothing: it is not charged |
//! | [`POLICY_FULL`] | FAILED_PRECONDITION | a bound on the number of policy objects is reached | delete some |
//! | [`PRESSURE_FULL`] | FAILED_PRECONDITION | a bound on deployments that are reported on, or on their reporters, is reached | report fewer, or wait until others fall silent |
//! | [`WATCH_TOO_WIDE`] | FAILED_PRECONDITION | more limit keys match than one watch may have | narrow its filters |
//! | [`SHUTTING_DOWN`], [`TOO_BUSY`], [`REQUEST_ID_PENDING`], [`STORE_UNAVAILABLE`] | UNAVAILABLE | the call was not decided; `RetryInfo` has a wait | wait, then repeat it |
//! | [`DEADLINE_PASSED`] | DEADLINE_EXCEEDED | the deadline that the caller set has passed | repeat it: it may have taken effect |
//! | [`NOT_IMPLEMENTED`] | UNIMPLEMENTED | an RPC, view or option of a later version | upgrade the server |
//!
//! None of these calls changed anything, but for what the table says.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::convert::InvalidField;
use crate::convert::time::wire_duration;
use crate::v1;

/// The domain of every reason.
pub const DOMAIN: &str = "tidegate";

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])* pub const $name: &str = stringify!($name);)*

        /// Every reason.
        pub const REASONS: &[&str] = &[$($name),*];
    };
}

reasons! {
    /// A field is missing, malformed or out of range.
    INVALID_FIELD;
    /// A reservation id is malformed or its checksum fails.
    INVALID_RESERVATION_ID;
    /// There is no such tier.
    TIER_NOT_FOUND;
    /// There is no such account.
    ACCOUNT_NOT_FOUND;
    /// There is no such (model, variant).
    MODEL_NOT_FOUND;
    /// There is no such override.
    OVERRIDE_NOT_FOUND;
    /// The server holds no such limit key.
    LIMIT_KEY_NOT_FOUND;
    /// The tier's name is taken.
    TIER_EXISTS;
    /// The account's name is taken.
    ACCOUNT_EXISTS;
    /// The (model, variant) is taken.
    MODEL_EXISTS;
    /// The override's id is taken.
    OVERRIDE_EXISTS;
    /// Another override has this scope.
    OVERRIDE_SCOPE_TAKEN;
    /// The request id belongs to another ask, or to one that ended or is too old.
    REQUEST_ID_REUSED;
    /// The object has another revision than the write expected.
    STALE_REVISION;
    /// Accounts name the tier, or unknown accounts get it.
    TIER_IN_USE;
    /// Progress on a reservation that ended or is not known here.
    RESERVATION_ENDED;
    /// The reservation ended longer ago than it is remembered.
    SETTLEMENT_TOO_LATE;
    /// A bound on the number of policy objects is reached.
    POLICY_FULL;
    /// A bound on deployments that are reported on, or on their reporters, is reached.
    PRESSURE_FULL;
    /// More limit keys match than one watch may have.
    WATCH_TOO_WIDE;
    /// The server is stopping; another replica answers.
    SHUTTING_DOWN;
    /// Too many calls are in flight, or too many watches.
    TOO_BUSY;
    /// An earlier call with this request id is not known to be decided yet.
    REQUEST_ID_PENDING;
    /// The store could not be asked, or its disk takes no writes.
    STORE_UNAVAILABLE;
    /// The deadline that the caller set has passed.
    DEADLINE_PASSED;
    /// An RPC, view or option of a later version.
    NOT_IMPLEMENTED;
}

/// A kind of object that operators name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// A tier.
    Tier,
    /// An account.
    Account,
    /// The policy of a (model, variant).
    Model,
    /// An override.
    Override,
    /// A limit key that the server holds.
    LimitKey,
}

impl Object {
    /// Its name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tier => "tier",
            Self::Account => "account",
            Self::Model => "model",
            Self::Override => "override",
            Self::LimitKey => "limit key",
        }
    }

    const fn not_found(self) -> &'static str {
        match self {
            Self::Tier => TIER_NOT_FOUND,
            Self::Account => ACCOUNT_NOT_FOUND,
            Self::Model => MODEL_NOT_FOUND,
            Self::Override => OVERRIDE_NOT_FOUND,
            Self::LimitKey => LIMIT_KEY_NOT_FOUND,
        }
    }
}

/// INVALID_ARGUMENT [`INVALID_FIELD`]: `message` says what `field`, a path such as `key.account`, must be.
#[must_use]
pub fn invalid_field(field: &str, message: &str) -> Status {
    invalid(INVALID_FIELD, field, message)
}

/// INVALID_ARGUMENT [`INVALID_RESERVATION_ID`]: malformed, forged, or of a server with another key.
#[must_use]
pub fn invalid_reservation_id() -> Status {
    invalid(INVALID_RESERVATION_ID, "reservation_id", "is not a reservation id of this service")
}

/// NOT_FOUND: there is no `object` called `name`.
#[must_use]
pub fn not_found(object: Object, name: &str) -> Status {
    let message = format!("{} {name:?} does not exist", object.name());
    Reason::of(object.not_found()).status(Code::NotFound, message)
}

/// ALREADY_EXISTS with `reason`, such as [`TIER_EXISTS`] or [`REQUEST_ID_REUSED`].
#[must_use]
pub fn already_exists(reason: &'static str, message: impl Into<String>) -> Status {
    Reason::of(reason).status(Code::AlreadyExists, message)
}

/// ABORTED [`STALE_REVISION`]: the write expected another revision than the object has.
#[must_use]
pub fn stale_revision(expected: u64, actual: u64) -> Status {
    Reason::of(STALE_REVISION)
        .with("expected", expected.to_string())
        .with("actual", actual.to_string())
        .status(Code::Aborted, format!("expected_revision is {expected}, but the object has revision {actual}"))
}

/// FAILED_PRECONDITION with `reason`, such as [`TIER_IN_USE`] or [`SETTLEMENT_TOO_LATE`].
#[must_use]
pub fn failed_precondition(reason: &'static str, message: impl Into<String>) -> Status {
    Reason::of(reason).status(Code::FailedPrecondition, message)
}

/// UNAVAILABLE with `reason`, such as [`TOO_BUSY`]; the caller should wait for `retry_after`.
#[must_use]
pub fn unavailable(reason: &'static str, message: impl Into<String>, retry_after: Duration) -> Status {
    let mut reason = Reason::of(reason);
    reason.details.set_retry_info(Some(retry_after));
    reason.status(Code::Unavailable, message)
}

/// DEADLINE_EXCEEDED [`DEADLINE_PASSED`]: the caller waits no longer.
#[must_use]
pub fn deadline_passed() -> Status {
    Reason::of(DEADLINE_PASSED)
        .status(Code::DeadlineExceeded, "the deadline of the call has passed; it may have taken effect")
}

/// UNIMPLEMENTED [`NOT_IMPLEMENTED`]: `what` (an RPC, a view, an option) comes with a later version.
#[must_use]
pub fn unimplemented(what: &str) -> Status {
    Reason::of(NOT_IMPLEMENTED).status(Code::Unimplemented, format!("{what} is not implemented in this version"))
}

/// `status` as the error of one call among others.
#[must_use]
pub fn call_error(status: &Status) -> v1::CallError {
    let details = status.get_error_details();
    let field = details.bad_request().and_then(|bad| bad.field_violations.first()).map(|bad| bad.field.clone());
    let retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
    v1::CallError {
        code: i32::from(status.code()).unsigned_abs(),
        reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
        message: status.message().to_owned(),
        field: field.unwrap_or_default(),
        retry_after: retry_after.map(wire_duration),
    }
}

impl From<InvalidField> for Status {
    fn from(invalid: InvalidField) -> Self {
        invalid_field(&invalid.field, &invalid.message)
    }
}

fn invalid(reason: &'static str, field: &str, message: &str) -> Status {
    let mut reason = Reason::of(reason);
    reason.details.add_bad_request_violation(field, message);
    reason.status(Code::InvalidArgument, format!("{field} {message}"))
}

/// A reason on its way into a status.
struct Reason {
    reason: &'static str,
    metadata: HashMap<String, String>,
    details: ErrorDetails,
}

impl Reason {
    fn of(reason: &'static str) -> Self {
        Self { reason, metadata: HashMap::new(), details: ErrorDetails::new() }
    }

    fn with(mut self, key: &str, value: String) -> Self {
        self.metadata.insert(key.to_owned(), value);
        self
    }

    fn status(mut self, code: Code, message: impl Into<String>) -> Status {
        self.details.set_error_info(self.reason, DOMAIN, self.metadata);
        Status::with_error_details(code, message, self.details)
    }
}

#[cfg(test)]
mod tests;
