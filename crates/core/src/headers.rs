//! The HTTP headers of an answer, ready to copy into the gateway's reply.

use core::time::Duration;

use arrayvec::ArrayString;

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

/// Longest value, in bytes: three windows with their names, and numbers of 20 digits.
const MOST_VALUE_BYTES: usize = 178;

type Value = ArrayString<MOST_VALUE_BYTES>;

/// Says the headers of `answer`: lower-case names, in a fixed order, and values. Each name stands at most once. Allocates nothing.
///
/// `limit` headers carry the published limit; `remaining` what is left of the effective one. A denial adds `retry-after`
/// (whole seconds, rounded up, at least 1) and `retry-after-ms` (rounded up) where waiting helps or is bounded, and
/// `x-should-retry`. `x-ratelimit-over-limit` is `yes` where the account's own limit is why (429).
pub fn render(answer: &Answer, unit: HeaderUnit, mut say: impl FnMut(&'static str, &str)) {
    render_shadow(answer, unit, &mut say);
    if let Err(denied) = answer.outcome {
        if let Some(wait) = denied.retry_after {
            say("retry-after", &number(seconds_up(wait).max(1)));
            let millis = u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
            say("retry-after-ms", &number(millis));
        }
        say("x-should-retry", if denied.denial.should_retry() { "true" } else { "false" });
    }
}

/// The same for a request that is served whatever `answer` says: nothing tells its client to wait or to come again.
pub fn render_shadow(answer: &Answer, unit: HeaderUnit, mut say: impl FnMut(&'static str, &str)) {
    let windows = &answer.windows;
    let over_limit = answer.outcome.is_err_and(|denied| denied.denial.http_status() == 429);
    for (window, status) in windows.iter() {
        say(limit_name(window), &number(unit.of(status.limit_tpm)));
    }
    for (window, status) in windows.iter() {
        say(remaining_name(window), &number(unit.of(status.remaining_tokens)));
    }
    say("x-ratelimit-over-limit", if over_limit { "yes" } else { "no" });
    let policy = list(windows, |out, status| {
        out.push_str(";q=");
        push(out, status.limit_tpm);
        out.push_str(";qu=\"tokens\";w=60");
    });
    say("ratelimit-policy", &policy);
    let rest = list(windows, |out, status| {
        out.push_str(";r=");
        push(out, status.remaining_tokens);
        out.push_str(";t=");
        push(out, seconds_up(status.reset_after));
    });
    say("ratelimit", &rest);
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
fn list(windows: &PerWindow<WindowStatus>, parameters: impl Fn(&mut Value, &WindowStatus)) -> Value {
    let mut out = Value::new();
    for (window, status) in windows.iter() {
        out.push_str(if out.is_empty() { "\"" } else { ", \"" });
        out.push_str(window.name());
        out.push('"');
        parameters(&mut out, status);
    }
    out
}

fn number(number: u64) -> Value {
    let mut out = Value::new();
    push(&mut out, number);
    out
}

fn push(out: &mut Value, number: u64) {
    out.push_str(itoa::Buffer::new().format(number));
}

fn seconds_up(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec::Vec;

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

    type Headers = Vec<(&'static str, String)>;

    fn rendered(answer: &Answer, unit: HeaderUnit) -> Headers {
        let mut headers = Vec::new();
        render(answer, unit, |name, value| headers.push((name, String::from(value))));
        headers
    }

    fn value(headers: &[(&'static str, String)], name: &str) -> Option<String> {
        headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn limits_are_in_tokens_per_second_rounded_down() {
        let headers = rendered(&answer(None), HeaderUnit::TokensPerSecond);
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
        let headers = rendered(&answer(None), HeaderUnit::TokensPerMinute);
        assert_eq!(value(&headers, "x-ratelimit-remaining-tokens-generated").as_deref(), Some("35900"));
    }

    #[test]
    fn the_longest_values_have_room() {
        let status = WindowStatus {
            limit_tpm: u64::MAX,
            remaining_tokens: u64::MAX,
            reset_after: Duration::from_secs(u64::MAX),
            ..WindowStatus::default()
        };
        let longest = Answer { windows: PerWindow::new(status, status, status), ..answer(None) };
        let headers = rendered(&longest, HeaderUnit::TokensPerMinute);
        assert_eq!(headers.iter().map(|(_, value)| value.len()).max(), Some(MOST_VALUE_BYTES));
    }

    #[test]
    fn a_wait_is_rounded_up_and_a_hopeless_denial_says_do_not_retry() {
        let wait = Some(Duration::from_micros(2_000_001));
        let headers = rendered(&answer(Some((Denial::WindowFull, wait))), HeaderUnit::TokensPerSecond);
        assert_eq!(value(&headers, "retry-after").as_deref(), Some("3"));
        assert_eq!(value(&headers, "retry-after-ms").as_deref(), Some("2001"));
        assert_eq!(value(&headers, "x-should-retry").as_deref(), Some("true"));
        assert_eq!(value(&headers, "x-ratelimit-over-limit").as_deref(), Some("yes"));
        let wait = Some(Duration::from_millis(20));
        let headers = rendered(&answer(Some((Denial::ExceedsCurrentLimit, wait))), HeaderUnit::TokensPerSecond);
        assert_eq!(value(&headers, "retry-after").as_deref(), Some("1"));
        assert_eq!(value(&headers, "x-should-retry").as_deref(), Some("false"));
        let mut shadowed = Vec::new();
        let denied = answer(Some((Denial::WindowFull, wait)));
        render_shadow(&denied, HeaderUnit::TokensPerSecond, |name, value| shadowed.push((name, String::from(value))));
        assert_eq!(value(&shadowed, "x-ratelimit-over-limit").as_deref(), Some("yes"));
        assert!(
            ["retry-after", "retry-after-ms", "x-should-retry"].iter().all(|name| value(&shadowed, name).is_none())
        );
        for denial in [Denial::NeverFits, Denial::AccountBlocked, Denial::UnknownAccount] {
            let headers = rendered(&answer(Some((denial, None))), HeaderUnit::TokensPerSecond);
            assert_eq!(value(&headers, "retry-after"), None);
            assert_eq!(value(&headers, "x-should-retry").as_deref(), Some("false"));
        }
    }
}
