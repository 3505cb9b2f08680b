use std::time::Duration;

use proptest::prelude::*;
use prost::Message as _;
use tidegate_core::decision::{Allowed, Answer, Bound, Denial, Denied, ServiceTier, SettleOutcome, WindowStatus};
use tidegate_core::headers::HeaderUnit;
use tidegate_core::reservation::Number;
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens, Window};

use super::*;

fn key() -> v1::LimitKey {
    v1::LimitKey { account: "acme".into(), model: "llama".into(), variant: String::new() }
}

fn ask() -> v1::CheckAndReserveRequest {
    v1::CheckAndReserveRequest { key: Some(key()), prompt_tokens: 1_000, ..Default::default() }
}

/// `ask()` after `change` is refused by this field.
fn refused(field: &str, change: impl FnOnce(&mut v1::CheckAndReserveRequest)) -> InvalidField {
    let mut wire = ask();
    change(&mut wire);
    let invalid = check_and_reserve(&wire, TtlRange::default()).expect_err(field);
    assert_eq!(invalid.field, field);
    invalid
}

fn key_with(change: impl FnOnce(&mut v1::LimitKey)) -> Option<v1::LimitKey> {
    let mut key = key();
    change(&mut key);
    Some(key)
}

const fn span(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

#[test]
fn a_bare_ask_gets_the_defaults() {
    let wire = ask();
    let request = check_and_reserve(&wire, TtlRange::default()).expect("well formed");
    assert_eq!((request.key.account(), request.key.model(), request.key.variant()), ("acme", "llama", ""));
    assert_eq!(request.prompt_tokens, 1_000);
    assert_eq!((request.cached_prompt_tokens, request.max_generated_tokens, request.request_id), (None, None, None));
    assert_eq!(request.service_tier, ServiceTier::Standard);
    assert_eq!(request.ttl, Duration::from_secs(600));
    assert_eq!(view(wire.view), Ok(v1::ResponseView::Full));
}

#[test]
fn every_field_of_an_ask_arrives() {
    let wire = v1::CheckAndReserveRequest {
        key: key_with(|key| key.variant = "turbo".into()),
        prompt_tokens: 1 << 40,
        cached_prompt_tokens: Some(1 << 40),
        max_generated_tokens: Some(0),
        service_tier: v1::ServiceTier::Priority.into(),
        request_id: "~".repeat(64),
        reservation_ttl: Some(span(3_600, 0)),
        view: v1::ResponseView::Decision.into(),
    };
    let request = check_and_reserve(&wire, TtlRange::default()).expect("well formed");
    assert_eq!(request.key.variant(), "turbo");
    assert_eq!(request.cached_prompt_tokens, Some(1 << 40));
    assert_eq!(request.max_generated_tokens, Some(0));
    assert_eq!(request.service_tier, ServiceTier::Priority);
    assert_eq!(request.request_id, Some("~".repeat(64).as_str()));
    assert_eq!(request.ttl, Duration::from_secs(3_600));
    assert_eq!(view(wire.view), Ok(v1::ResponseView::Decision));
}

#[test]
fn each_bad_name_is_refused_by_its_path() {
    assert_eq!(refused("key", |wire| wire.key = None).message, "is required");
    assert_eq!(refused("key.account", |wire| wire.key = key_with(|k| k.account.clear())).message, "must not be empty");
    refused("key.model", |wire| wire.key = key_with(|key| key.model.clear()));
    for bad in ["a\0b", "a\nb", "\u{7f}", "\u{85}", &"x".repeat(257), &"é".repeat(129)] {
        refused("key.account", |wire| wire.key = key_with(|key| key.account = bad.into()));
        refused("key.model", |wire| wire.key = key_with(|key| key.model = bad.into()));
        refused("key.variant", |wire| wire.key = key_with(|key| key.variant = bad.into()));
    }
    for good in ["x".repeat(256), "é".repeat(128), " ".to_owned(), "a/b:c".to_owned()] {
        let wire = v1::CheckAndReserveRequest { key: key_with(|key| key.account = good), ..ask() };
        check_and_reserve(&wire, TtlRange::default()).expect("names are opaque");
    }
}

#[test]
fn each_bad_count_is_refused_by_its_name() {
    const TOO_MANY: u64 = (1 << 40) + 1;
    refused("prompt_tokens", |wire| wire.prompt_tokens = 0);
    refused("prompt_tokens", |wire| wire.prompt_tokens = TOO_MANY);
    refused("prompt_tokens", |wire| wire.prompt_tokens = u64::MAX);
    refused("cached_prompt_tokens", |wire| wire.cached_prompt_tokens = Some(1_001));
    refused("max_generated_tokens", |wire| wire.max_generated_tokens = Some(TOO_MANY));
}

#[test]
fn unknown_enum_values_are_refused() {
    for value in [3, -1, i32::MAX, i32::MIN] {
        let invalid = refused("service_tier", |wire| wire.service_tier = value);
        assert_eq!(invalid.message, format!("has the unknown value {value}"));
    }
    for value in [5, -1, i32::MAX] {
        let wire = v1::CheckAndReserveRequest { view: value, ..ask() };
        assert_eq!(view(wire.view).expect_err("unknown").field, "view");
    }
    for value in 1..=4 {
        let wire = v1::CheckAndReserveRequest { view: value, ..ask() };
        assert_eq!(view(wire.view).map(i32::from), Ok(value));
    }
}

#[test]
fn a_request_id_is_short_printable_ascii() {
    for bad in [" ", "a b", "a\n", "\0", "\u{7f}", "é", &"x".repeat(65)] {
        refused("request_id", |wire| wire.request_id = bad.into());
    }
}

#[test]
fn hostile_ttls_are_refused_by_their_name() {
    for bad in [
        span(0, 0),
        span(0, 999_999_999),
        span(3_600, 1),
        span(-1, 0),
        span(0, -1),
        span(5, -1),
        span(-5, 1),
        span(1, 1_000_000_000),
        span(1, i32::MAX),
        span(1, i32::MIN),
        span(i64::MAX, 999_999_999),
        span(i64::MIN, 0),
        span(315_576_000_001, 0),
    ] {
        refused("reservation_ttl", |wire| wire.reservation_ttl = Some(bad));
    }
    let narrow =
        TtlRange { shortest: Duration::from_secs(2), default: Duration::from_secs(3), longest: Duration::from_secs(4) };
    let wire = v1::CheckAndReserveRequest { reservation_ttl: Some(span(5, 0)), ..ask() };
    let invalid = check_and_reserve(&wire, narrow).expect_err("above the configured range");
    assert_eq!(invalid.to_string(), "reservation_ttl must be 2s to 4s");
    assert_eq!(check_and_reserve(&ask(), narrow).expect("default").ttl, Duration::from_secs(3));
}

#[test]
fn settlement_counts_are_bounded_but_may_contradict_each_other() {
    let wire = v1::SettleRequest {
        reservation_id: "r".into(),
        prompt_tokens: Some(0),
        cached_prompt_tokens: Some(9),
        generated_tokens: None,
    };
    let expected = Settlement {
        reservation_id: "r",
        prompt_tokens: Some(0),
        cached_prompt_tokens: Some(9),
        generated_tokens: None,
    };
    assert_eq!(settle(&wire), Ok(expected));

    let too_many = Some((1 << 40) + 1);
    let refused = |wire: v1::SettleRequest| settle(&wire).expect_err("out of range").field;
    assert_eq!(refused(v1::SettleRequest { prompt_tokens: too_many, ..wire.clone() }), "prompt_tokens");
    assert_eq!(refused(v1::SettleRequest { cached_prompt_tokens: too_many, ..wire.clone() }), "cached_prompt_tokens");
    assert_eq!(refused(v1::SettleRequest { generated_tokens: too_many, ..wire.clone() }), "generated_tokens");
    assert_eq!(refused(v1::SettleRequest { reservation_id: String::new(), ..wire }), "reservation_id");
}

#[test]
fn progress_and_release_name_their_bad_fields() {
    let report = |id: &str, generated_tokens| v1::ReportProgressRequest { reservation_id: id.into(), generated_tokens };
    assert_eq!(progress(&report("r", 1 << 40)), Ok(Progress { reservation_id: "r", generated_tokens: 1 << 40 }));
    assert_eq!(progress(&report("r", 0)).map(|progress| progress.generated_tokens), Ok(0));
    assert_eq!(progress(&report("r", u64::MAX)).expect_err("count").field, "generated_tokens");
    assert_eq!(progress(&report("", 1)).expect_err("empty").field, "reservation_id");

    let of = |id: String| v1::ReleaseRequest { reservation_id: id };
    assert_eq!(release(&of("r".repeat(1_200))), Ok("r".repeat(1_200).as_str()));
    assert_eq!(release(&of("r".repeat(1_201))).expect_err("too long").field, "reservation_id");
    assert_eq!(release(&of(String::new())).expect_err("empty").message, "must not be empty");
}

fn status(seed: u64) -> WindowStatus {
    WindowStatus {
        limit_tpm: seed + 1,
        effective_limit_tpm: seed + 2,
        floor_tpm: seed + 3,
        ceiling_tpm: seed + 4,
        used_tokens: seed + 5,
        held_tokens: seed + 6,
        remaining_tokens: seed + 7,
        reset_after: Duration::from_micros(seed + 8),
        binding: seed == 200,
    }
}

fn answer(outcome: Result<Allowed, Denied>) -> Answer {
    Answer { outcome, windows: PerWindow::new(status(100), status(200), status(300)) }
}

fn allowed() -> Allowed {
    let number = Number { incarnation: 1, sequence: 7 };
    Allowed {
        number,
        admitted_at: Timestamp::ZERO,
        ttl: Duration::from_secs(600),
        reserved: Tokens::new(1, 2, 3),
        replayed: true,
    }
}

fn respond(answer: &Answer, view: v1::ResponseView) -> v1::CheckAndReserveResponse {
    let headers = http_headers(answer, HeaderUnit::TokensPerSecond, false);
    check_and_reserve_response(answer, "id".into(), headers, view)
}

#[test]
fn an_allow_says_what_it_reserved() {
    let response = respond(&answer(Ok(allowed())), v1::ResponseView::Full);
    assert_eq!((response.decision(), response.reason()), (v1::Decision::Allow, v1::DenyReason::Unspecified));
    assert_eq!((response.http_status, response.reservation_id.as_str(), response.replayed), (200, "id", true));
    assert_eq!(response.reserved, Some(v1::Tokens { prompt: 1, uncached_prompt: 2, generated: 3 }));
    assert_eq!(response.retry_after, None);
    let names: Vec<_> = response.headers.iter().map(|header| header.name.as_str()).collect();
    assert_eq!((names.len(), names[0], names[8]), (9, "x-ratelimit-limit-tokens-prompt", "ratelimit"));
}

#[test]
fn every_denial_has_its_decision_reason_and_status() {
    use v1::{Decision as D, DenyReason as R};
    for (denial, decision, reason, http_status) in [
        (Denial::WindowFull, D::RateLimited, R::WindowFull, 429),
        (Denial::ExceedsCurrentLimit, D::RateLimited, R::ExceedsCurrentLimit, 429),
        (Denial::NeverFits, D::RateLimited, R::NeverFits, 429),
        (Denial::Squeezed, D::Overloaded, R::Squeezed, 503),
        (Denial::Shed, D::Overloaded, R::Shed, 503),
        (Denial::Capacity(Bound::Keys), D::Overloaded, R::Capacity, 503),
        (Denial::StoreUnavailable, D::Overloaded, R::StoreUnavailable, 503),
        (Denial::UnknownAccount, D::Forbidden, R::UnknownAccount, 403),
        (Denial::AccountBlocked, D::Forbidden, R::AccountBlocked, 403),
    ] {
        let retry_after = Some(Duration::from_micros(59_000_001));
        let denied = answer(Err(Denied { denial, retry_after, ask: Tokens::default() }));
        let response = respond(&denied, v1::ResponseView::Full);
        assert_eq!((response.decision(), response.reason(), response.http_status), (decision, reason, http_status));
        assert_eq!(response.retry_after, Some(span(59, 1_000)));
        assert_eq!((response.reserved, response.replayed), (None, false));
        // The core's names for metrics and logs are the wire's in lower case.
        assert_eq!(format!("DENY_REASON_{}", denial.name().to_uppercase()), reason.as_str_name());
        assert_eq!(format!("DECISION_{}", denial.decision_name().to_uppercase()), decision.as_str_name());
    }
}

#[test]
fn window_statuses_keep_order_and_every_number() {
    let statuses = window_statuses(&answer(Ok(allowed())).windows);
    let order: Vec<_> = statuses.iter().map(v1::WindowStatus::window).collect();
    assert_eq!(order, [v1::Window::Prompt, v1::Window::UncachedPrompt, v1::Window::Generated]);
    assert_eq!(order, Window::ALL.map(window));
    let expected = v1::WindowStatus {
        window: v1::Window::UncachedPrompt.into(),
        limit_tpm: 201,
        effective_limit_tpm: 202,
        floor_tpm: 203,
        ceiling_tpm: 204,
        used_tokens: 205,
        held_tokens: 206,
        remaining_tokens: 207,
        reset_after: Some(span(0, 208_000)),
        binding: true,
    };
    assert_eq!(statuses[1], expected);
    assert!(!statuses[0].binding && !statuses[2].binding);
}

#[test]
fn a_view_leaves_out_windows_or_headers_and_nothing_else() {
    use v1::ResponseView as View;
    let answer = answer(Ok(allowed()));
    let full = respond(&answer, View::Full);
    assert_eq!((full.windows.len(), full.headers.len()), (3, 9));
    for (view, windows, headers) in
        [(View::Unspecified, 3, 9), (View::Headers, 0, 9), (View::Windows, 3, 0), (View::Decision, 0, 0)]
    {
        let mut response = respond(&answer, view);
        assert_eq!((response.windows.len(), response.headers.len()), (windows, headers), "{view:?}");
        response.windows.clone_from(&full.windows);
        response.headers.clone_from(&full.headers);
        assert_eq!(response, full, "{view:?}");
    }
}

#[test]
fn outcomes_keep_their_names() {
    assert_eq!(settle_outcome(SettleOutcome::Applied), v1::SettleOutcome::Applied);
    assert_eq!(settle_outcome(SettleOutcome::Late), v1::SettleOutcome::Late);
    assert_eq!(settle_outcome(SettleOutcome::Duplicate), v1::SettleOutcome::Duplicate);
}

#[test]
fn hostile_instants_are_refused() {
    let instant = |seconds, nanos| prost_types::Timestamp { seconds, nanos };
    for bad in [
        instant(-1, 0),
        instant(0, -1),
        instant(0, 1_000_000_000),
        instant(253_402_300_800, 0),
        instant(i64::MAX, 0),
        instant(i64::MIN, i32::MIN),
    ] {
        assert_eq!(time::timestamp(&bad, "override.expire_time").expect_err("hostile").field, "override.expire_time");
    }
    assert_eq!(time::timestamp(&instant(1, 1_999), "t"), Ok(Timestamp::from_micros(1_000_001)));
    assert_eq!(time::wire_timestamp(Timestamp::MAX), instant(253_402_300_799, 0));
    assert_eq!(time::wire_duration(Duration::MAX), span(315_576_000_000, 0));
}

#[test]
fn the_descriptor_set_is_complete() {
    let set = prost_types::FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).expect("a descriptor set");
    let names: Vec<_> = set.file.iter().map(prost_types::FileDescriptorProto::name).collect();
    for file in &set.file {
        assert!(file.dependency.iter().all(|import| names.contains(&import.as_str())), "{} lacks imports", file.name());
    }
    let services: Vec<_> = set.file.iter().flat_map(|file| &file.service).map(|service| service.name()).collect();
    assert_eq!(services.len(), 2);
    assert!(services.contains(&"RateLimiterService") && services.contains(&"AdminService"));
}

proptest! {
    #[test]
    fn durations_survive_the_wire(seconds in 0_u64..315_576_000_000, nanos in 0_u32..1_000_000_000) {
        let duration = Duration::new(seconds, nanos);
        prop_assert_eq!(time::duration(&time::wire_duration(duration), "d"), Ok(duration));
    }

    #[test]
    fn instants_survive_the_wire(micros in 0_u64..253_402_300_800_000_000) {
        let instant = Timestamp::from_micros(micros);
        prop_assert_eq!(time::timestamp(&time::wire_timestamp(instant), "t"), Ok(instant));
    }

    #[test]
    fn no_bytes_from_a_stranger_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(wire) = v1::CheckAndReserveRequest::decode(bytes.as_slice()) {
            let _ = (check_and_reserve(&wire, TtlRange::default()), view(wire.view));
        }
    }

    #[test]
    fn any_duration_is_parsed_or_refused(seconds in any::<i64>(), nanos in any::<i32>()) {
        let parsed = time::duration(&span(seconds, nanos), "d");
        let well_formed = (0..=315_576_000_000).contains(&seconds) && (0..1_000_000_000).contains(&nanos);
        prop_assert_eq!(parsed.is_ok(), well_formed);
    }
}
