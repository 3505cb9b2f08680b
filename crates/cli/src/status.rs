//! The one place where a gRPC status becomes a message for people.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::failure::Failure;
use crate::target::Target;

/// Says what call failed where, why, and which fields are to blame.
///
/// INVALID_ARGUMENT is the caller's (exit code 2), everything else a failure (exit code 1).
pub(crate) fn explain(call: &str, target: &Target, status: &Status) -> Failure {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| format!(" ({})", info.reason)).unwrap_or_default();
    let mut text = format!("{call} at {target}: {}{reason}: {}", code_name(status.code()), status.message());
    for violation in details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default() {
        // tidegate's message names a single field itself.
        if status.message() != format!("{} {}", violation.field, violation.description) {
            text.push_str(&format!("\n  {}: {}", violation.field, violation.description));
        }
    }
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        text.push_str(&format!("\n  try again after {} ms", delay.as_millis()));
    }
    if status.code() == Code::InvalidArgument { Failure::Usage(text) } else { Failure::Failed(text) }
}

/// The code as the gRPC documentation writes it, such as `NOT_FOUND`.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn the_field_to_blame_is_named() {
        let mut details = ErrorDetails::new();
        details.set_error_info("INVALID_FIELD", "tidegate", std::collections::HashMap::new());
        details.add_bad_request_violation("key.account", "must not be empty");
        let status = Status::with_error_details(Code::InvalidArgument, "1 field is invalid", details);
        let target = "unix:/run/t.sock".parse().expect("a target");
        let text = "CheckAndReserve at unix:/run/t.sock: INVALID_ARGUMENT (INVALID_FIELD): 1 field is invalid\n  \
                    key.account: must not be empty";
        assert_eq!(explain("CheckAndReserve", &target, &status), Failure::Usage(text.to_owned()));
        let once = Status::with_error_details(Code::InvalidArgument, "key.account must not be empty", {
            let mut details = ErrorDetails::new();
            details.add_bad_request_violation("key.account", "must not be empty");
            details
        });
        let text = "CheckAndReserve at unix:/run/t.sock: INVALID_ARGUMENT: key.account must not be empty";
        assert_eq!(explain("CheckAndReserve", &target, &once), Failure::Usage(text.to_owned()));
        let plain = explain("Settle", &target, &Status::unavailable("gone"));
        assert_eq!(plain, Failure::Failed("Settle at unix:/run/t.sock: UNAVAILABLE: gone".to_owned()));
    }
}
