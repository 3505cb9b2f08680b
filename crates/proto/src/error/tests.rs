use super::*;

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().expect("every status carries ErrorInfo");
    assert_eq!(info.domain, "tidegate");
    info.reason
}

#[test]
fn an_invalid_field_is_named_in_bad_request_and_in_the_message() {
    let status = Status::from(InvalidField::new("key.account", "must not be empty"));
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "key.account must not be empty");
    assert_eq!(reason(&status), "INVALID_FIELD");
    let violations = status.get_details_bad_request().expect("BadRequest").field_violations;
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].field, "key.account");
    assert_eq!(violations[0].description, "must not be empty");
}

#[test]
fn a_forged_reservation_id_names_its_field() {
    let status = invalid_reservation_id();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_RESERVATION_ID"));
    let violations = status.get_details_bad_request().expect("BadRequest").field_violations;
    assert_eq!(violations[0].field, "reservation_id");
}

#[test]
fn unavailable_says_when_to_come_back() {
    let status = unavailable(TOO_BUSY, "65536 calls are in flight", Duration::from_millis(1_500));
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "TOO_BUSY"));
    let retry = status.get_details_retry_info().expect("RetryInfo");
    assert_eq!(retry.retry_delay, Some(Duration::from_millis(1_500)));
}

#[test]
fn a_stale_revision_says_both_revisions() {
    let status = stale_revision(3, 5);
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Aborted, "STALE_REVISION"));
    let metadata = status.get_details_error_info().expect("ErrorInfo").metadata;
    assert_eq!((metadata["expected"].as_str(), metadata["actual"].as_str()), ("3", "5"));
}

#[test]
fn the_other_codes_carry_their_reasons() {
    for (status, code, expected) in [
        (not_found(Object::Tier, "gold"), Code::NotFound, "TIER_NOT_FOUND"),
        (not_found(Object::Account, "a"), Code::NotFound, "ACCOUNT_NOT_FOUND"),
        (not_found(Object::Model, "m"), Code::NotFound, "MODEL_NOT_FOUND"),
        (not_found(Object::Override, "o"), Code::NotFound, "OVERRIDE_NOT_FOUND"),
        (not_found(Object::LimitKey, "a/m"), Code::NotFound, "LIMIT_KEY_NOT_FOUND"),
        (already_exists(REQUEST_ID_REUSED, "m"), Code::AlreadyExists, "REQUEST_ID_REUSED"),
        (failed_precondition(TIER_IN_USE, "m"), Code::FailedPrecondition, "TIER_IN_USE"),
        (failed_precondition(WATCH_TOO_WIDE, "m"), Code::FailedPrecondition, "WATCH_TOO_WIDE"),
        (unimplemented("Pipeline"), Code::Unimplemented, "NOT_IMPLEMENTED"),
    ] {
        assert_eq!(status.code(), code);
        assert_eq!(reason(&status), expected);
        assert!(status.get_details_bad_request().is_none() && status.get_details_retry_info().is_none());
    }
    assert_eq!(not_found(Object::Tier, "go\nld").message(), "tier \"go\\nld\" does not exist");
}

#[test]
fn reasons_are_unique_upper_snake_and_all_stand_in_the_table() {
    let page = include_str!("../error.rs");
    let mut seen = std::collections::HashSet::new();
    for reason in REASONS {
        assert!(seen.insert(reason), "{reason} stands twice");
        assert!(reason.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{reason} is not UPPER_SNAKE");
        let row = format!("[`{reason}`]");
        assert!(
            page.lines().any(|line| line.starts_with("//! |") && line.contains(&row)),
            "{reason} is not in the table"
        );
    }
}
