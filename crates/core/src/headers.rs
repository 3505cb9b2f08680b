//! The HTTP headers of an answer, ready to copy into the gateway's reply.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;
use core::time::Duration;

use crate::decision::{Answer, WindowStatus};
use crate::window::{PerWindow, Window};

/// Unit of the six `x-ratelimit-*-tokens-*` headers. The IETF draft headers are in tokens per minute always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderUnit {
    /// Tokens per second: TPM / 60, rounded down. The default.
    #[default]
    TokensPerSecond,
    /// Tokens per minute.
    TokensPerMinute,
}

impl HeaderUnit {
    const fn of(self, tpm: u64) -> u64 {
        match self {
            Self::TokensPerSecond => tpm / 60,
            Self::TokensPerMinute => tpm,
        }
    }
}

/// The headers of `answer`: lower-case names, in a fixed order. Each name stands at most once.
///
/// `limit` headers carry the published limit; `remaining` what is left of the effective one. A denial adds `retry-after`
/// (whole seconds, rounded up, at least 1) and `retry-after-ms` (rounded up) where waiting helps or is bounded, and
/// `x-should-retry`. `x-ratelimit-over-limit` is `yes` where the account's own limit is why (429).
#[must_use]
pub fn render(answer: &Answer, unit: HeaderUnit) -> Vec<(&'static str, String)> {
    let mut headers = render_shadow(answer, unit);
    if let Err(denied) = answer.outcome {
        if let Some(wait) = denied.retry_after {
            headers.push(("retry-after", seconds_up(wait).max(1).to_string()));
            headers.push(("retry-after-ms", wait.as_micros().div_ceil(1_000).to_string()));
        }
        headers.push(("x-should-retry", String::from(if denied.denial.should_retry() { "true" } else { "false" })));
    }
    headers
}

/// The same for a request that is served whatever `answer` says: nothing tells its client to wait or to come again.
#[must_use]
pub fn render_shadow(answer: &Answer, unit: HeaderUnit) -> Vec<(&'static str, String)> {
    let windows = &answer.windows;
    let denied = answer.outcome.err();
    let over_limit = denied.is_some_and(|denied| denied.denial.http_status() == 429);
    let mut headers = Vec::with_capacity(12);
    for (window, status) in windows.iter() {
        headers.push((limit_name(window), unit.of(status.limit_tpm).to_string()));
    }
    for (window, status) in windows.iter() {
        headers.push((remaining_name(window), unit.of(status.remaining_tokens).to_string()));
    }
    headers.push(("x-ratelimit-over-limit", String::from(if over_limit { "yes" } else { "no" })));
    headers.push((
        "ratelimit-policy",
        list(windows, |out, status| write!(out, ";q={};qu=\"tokens\";w=60", status.limit_tpm)),
    ));
    headers.push((
        "ratelimit",
        list(windows, |out, status| write!(out, ";r={};t={}", status.remaining_tokens, seconds_up(status.reset_after))),
    ));
    headers
}

const fn limit_name(window: Window) -> &'static str {
    match window {
        Window::Prompt => "x-ratelimit-limit-tokens-prompt",
        Window::UncachedPrompt => "x-ratelimit-limit-tokens-cache-adjusted-prompt",
        Window::Generated => "x-ratelimit-limit-tokens-generated",
    }
}

const fn remaining_name(window: Window) -> &'static str {
    match window {
        Window::Prompt => "x-ratelimit-remaining-tokens-prompt",
        Window::UncachedPrompt => "x-ratelimit-remaining-tokens-cache-adjusted-prompt",
        Window::Generated => "x-ratelimit-remaining-tokens-generated",
    }
}

/// A structured-field list with one member for each window.
fn list(
    windows: &PerWindow<WindowStatus>,
    parameters: impl Fn(&mut String, &WindowStatus) -> core::fmt::Result,
) -> String {
    let mut out = String::with_capacity(128);
    for (window, status) in windows.iter() {
        out.push_str(if out.is_empty() { "\"" } else { ", \"" });
        out.push_str(window.name());
        out.push('"');
        // Writing to a String cannot fail.
        let _ = parameters(&mut out, status);
    }
    out
}

fn seconds_up(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::{Denial, Denied};
    use crate::window::Tokens;

    fn answer(denial: Option<(Denial, Option<Duration>)>) -> Answer {
        let status = |limit_tpm| WindowStatus {
            limit_tpm,
            effective_limit_tpm: limit_tpm,
            floor_tpm: limit_tpm,
            ceiling_tpm: limit_tpm * 3,
            used_tokens: 100,
            held_tokens: 0,
            remaining_tokens: limit_tpm - 100,
            reset_after: Duration::from_millis(13_001),
            binding: false,
        };
        let denied = denial.map(|(denial, retry_after)| Denied { denial, retry_after, ask: Tokens::default() });
        let allowed = crate::decision::Allowed {
            number: crate::reservation::Number { incarnation: 1, sequence: 1 },
            reserved: Tokens::default(),
            admitted_at: crate::time::Timestamp::ZERO,
            ttl: Duration::from_secs(600),
            replayed: false,
        };
        Answer {
            outcome: denied.map_or(Ok(allowed), Err),
            windows: PerWindow::new(status(3_600_000), status(900_000), status(36_000)),
        }
    }

    fn value(headers: &[(&'static str, String)], name: &str) -> Option<String> {
        headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn limits_are_in_tokens_per_second_rounded_down() {
        let headers = render(&answer(None), HeaderUnit::TokensPerSecond);
        assert_eq!(value(&headers, "x-ratelimit-limit-tokens-prompt").as_deref(), Some("60000"));
        assert_eq!(value(&headers, "x-ratelimit-limit-tokens-cache-adjusted-prompt").as_deref(), Some("15000"));
        assert_eq!(value(&headers, "x-ratelimit-limit-tokens-generated").as_deref(), Some("600"));
        assert_eq!(value(&headers, "x-ratelimit-remaining-tokens-generated").as_deref(), Some("598"));
        assert_eq!(value(&headers, "x-ratelimit-over-limit").as_deref(), Some("no"));
        assert_eq!(value(&headers, "retry-after"), None);
        let policy = r#""prompt";q=3600000;qu="tokens";w=60, "uncached_prompt";q=900000;qu="tokens";w=60, "generated";q=36000;qu="tokens";w=60"#;
        assert_eq!(value(&headers, "ratelimit-policy").as_deref(), Some(policy));
        let rest = r#""prompt";r=3599900;t=14, "uncached_prompt";r=899900;t=14, "generated";r=35900;t=14"#;
        assert_eq!(value(&headers, "ratelimit").as_deref(), Some(rest));
        let headers = render(&answer(None), HeaderUnit::TokensPerMinute);
        assert_eq!(value(&headers, "x-ratelimit-remaining-tokens-generated").as_deref(), Some("35900"));
    }

    #[test]
    fn a_wait_is_rounded_up_and_a_hopeless_denial_says_do_not_retry() {
        let wait = Some(Duration::from_micros(2_000_001));
        let headers = render(&answer(Some((Denial::WindowFull, wait))), HeaderUnit::TokensPerSecond);
        assert_eq!(value(&headers, "retry-after").as_deref(), Some("3"));
        assert_eq!(value(&headers, "retry-after-ms").as_deref(), Some("2001"));
        assert_eq!(value(&headers, "x-should-retry").as_deref(), Some("true"));
        assert_eq!(value(&headers, "x-ratelimit-over-limit").as_deref(), Some("yes"));
        let wait = Some(Duration::from_millis(20));
        let headers = render(&answer(Some((Denial::ExceedsCurrentLimit, wait))), HeaderUnit::TokensPerSecond);
        assert_eq!(value(&headers, "retry-after").as_deref(), Some("1"));
        assert_eq!(value(&headers, "x-should-retry").as_deref(), Some("false"));
        let shadowed = render_shadow(&answer(Some((Denial::WindowFull, wait))), HeaderUnit::TokensPerSecond);
        assert_eq!(value(&shadowed, "x-ratelimit-over-limit").as_deref(), Some("yes"));
        assert!(
            ["retry-after", "retry-after-ms", "x-should-retry"].iter().all(|name| value(&shadowed, name).is_none())
        );
        for denial in [Denial::NeverFits, Denial::AccountBlocked, Denial::UnknownAccount] {
            let headers = render(&answer(Some((denial, None))), HeaderUnit::TokensPerSecond);
            assert_eq!(value(&headers, "retry-after"), None);
            assert_eq!(value(&headers, "x-should-retry").as_deref(), Some("false"));
        }
    }
}
