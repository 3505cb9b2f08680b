//! The wire's enums and messages as the words of this project, in tables and in JSON.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_proto::v1::{
    CheckAndReserveResponse, Decision, DegradeMode, DenyReason, Enforcement, SettleOutcome, ShadowDecision, Tokens,
    Window, WindowStatus,
};

use crate::output::{Rows, grouped};

/// The windows that this version knows, in the order in which they are shown.
pub(crate) const WINDOWS: [Window; 3] = [Window::Prompt, Window::UncachedPrompt, Window::Generated];

/// `allow`, `rate_limited`, `overloaded` or `forbidden`.
pub(crate) fn decision(value: i32) -> String {
    word("DECISION_", value, |value| Decision::try_from(value).ok().map(|known| known.as_str_name()))
}

/// `window_full` and so on; `None`: allowed.
pub(crate) fn reason(value: i32) -> Option<String> {
    let known = |value| DenyReason::try_from(value).ok().map(|known| known.as_str_name());
    (value != 0).then(|| word("DENY_REASON_", value, known))
}

/// `on` or `shadow`; `inherit` where a tier or an account says nothing.
pub(crate) fn enforcement(value: i32) -> String {
    if value == 0 {
        return "inherit".to_owned();
    }
    word("ENFORCEMENT_", value, |value| Enforcement::try_from(value).ok().map(|known| known.as_str_name()))
}

/// `share`, `closed` or `open`; `inherit` where a tier says nothing.
pub(crate) fn degrade(value: i32) -> String {
    if value == 0 {
        return "inherit".to_owned();
    }
    word("DEGRADE_MODE_", value, |value| DegradeMode::try_from(value).ok().map(|known| known.as_str_name()))
}

/// `prompt`, `uncached_prompt` or `generated`.
pub(crate) fn window(value: i32) -> String {
    word("WINDOW_", value, |value| Window::try_from(value).ok().map(|known| known.as_str_name()))
}

/// `applied`, `late` or `duplicate`.
pub(crate) fn outcome(value: i32) -> String {
    word("SETTLE_OUTCOME_", value, |value| SettleOutcome::try_from(value).ok().map(|known| known.as_str_name()))
}

/// The enum value's name without its prefix; a value of a later version shows as its number.
pub(crate) fn word(prefix: &str, value: i32, name: impl FnOnce(i32) -> Option<&'static str>) -> String {
    match name(value).and_then(|name| name.strip_prefix(prefix)) {
        Some(name) => name.to_ascii_lowercase(),
        None => format!("unknown_{value}"),
    }
}

/// A protobuf duration; a negative one counts as 0.
pub(crate) fn duration(wire: &prost_types::Duration) -> Duration {
    Duration::try_from(*wire).unwrap_or_default()
}

/// A duration for people: `0 s`, `0.25 s`, `12 s`.
pub(crate) fn seconds(span: Duration) -> String {
    let ms = span.as_millis();
    let fraction = format!("{:03}", ms % 1_000);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { format!("{} s", ms / 1_000) } else { format!("{}.{fraction} s", ms / 1_000) }
}

/// Window statuses as a table.
pub(crate) fn window_table(windows: &[WindowStatus]) -> Rows {
    let mut rows = Rows::new(&["WINDOW", "#LIMIT TPM", "#USED", "#HELD", "#REMAINING", "#RESET", ""]);
    for status in windows {
        let reset = status.reset_after.as_ref().map(duration).unwrap_or_default();
        let limit = if status.effective_limit_tpm < status.limit_tpm {
            format!("{} (squeezed to {})", grouped(status.limit_tpm), grouped(status.effective_limit_tpm))
        } else {
            grouped(status.limit_tpm)
        };
        rows.push([
            window(status.window),
            limit,
            grouped(status.used_tokens),
            grouped(status.held_tokens),
            grouped(status.remaining_tokens),
            seconds(reset),
            if status.binding { "binding".to_owned() } else { String::new() },
        ]);
    }
    rows
}

/// A window status as JSON, with the names of the wire; durations in milliseconds, rounded up.
pub(crate) fn window_json(status: &WindowStatus) -> Value {
    json!({
        "window": window(status.window),
        "limit_tpm": status.limit_tpm,
        "effective_limit_tpm": status.effective_limit_tpm,
        "floor_tpm": status.floor_tpm,
        "ceiling_tpm": status.ceiling_tpm,
        "used_tokens": status.used_tokens,
        "held_tokens": status.held_tokens,
        "remaining_tokens": status.remaining_tokens,
        "reset_after_ms": status.reset_after.as_ref().map(|reset| whole_ms(duration(reset))),
        "binding": status.binding,
    })
}

/// An answer to `CheckAndReserve` as JSON, without its reservation id.
pub(crate) fn answer_json(answer: &CheckAndReserveResponse) -> Value {
    let headers = answer.headers.iter().map(|header| (header.name.clone(), Value::from(header.value.clone())));
    json!({
        "decision": decision(answer.decision),
        "reason": reason(answer.reason),
        "http_status": answer.http_status,
        "retry_after_ms": answer.retry_after.as_ref().map(|wait| whole_ms(duration(wait))),
        "replayed": answer.replayed,
        "reserved": answer.reserved.as_ref().map(tokens_json),
        "windows": answer.windows.iter().map(window_json).collect::<Vec<_>>(),
        "headers": headers.collect::<serde_json::Map<_, _>>(),
        "shadow_decision": answer.shadow_decision.as_ref().map(shadow_json),
    })
}

/// The denial that enforcement would have answered.
fn shadow_json(shadow: &ShadowDecision) -> Value {
    json!({
        "decision": decision(shadow.decision),
        "reason": reason(shadow.reason),
        "http_status": shadow.http_status,
        "retry_after_ms": shadow.retry_after.as_ref().map(|wait| whole_ms(duration(wait))),
        "binding": shadow.binding.iter().copied().map(window).collect::<Vec<_>>(),
    })
}

/// Tokens per window as JSON.
pub(crate) fn tokens_json(tokens: &Tokens) -> Value {
    json!({ "prompt": tokens.prompt, "uncached_prompt": tokens.uncached_prompt, "generated": tokens.generated })
}

/// Milliseconds, rounded up as `retry-after-ms` is.
fn whole_ms(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_project_s() {
        assert_eq!(WINDOWS.map(|known| window(known.into())), ["prompt", "uncached_prompt", "generated"]);
        assert_eq!(decision(Decision::RateLimited.into()), "rate_limited");
        assert_eq!(reason(DenyReason::WindowFull.into()).as_deref(), Some("window_full"));
        assert_eq!(reason(0), None);
        assert_eq!([0, 1, 2, 9].map(enforcement), ["inherit", "on", "shadow", "unknown_9"]);
        assert_eq!([0, 1, 2, 3, 9].map(degrade), ["inherit", "share", "closed", "open", "unknown_9"]);
        assert_eq!((decision(99), outcome(3)), ("unknown_99".to_owned(), "duplicate".to_owned()));
    }

    #[test]
    fn durations_read_well() {
        for (ms, text) in [(0, "0 s"), (250, "0.25 s"), (1_000, "1 s"), (59_999, "59.999 s")] {
            assert_eq!(seconds(Duration::from_millis(ms)), text);
        }
        assert_eq!(whole_ms(Duration::from_micros(1_001)), 2);
    }
}
