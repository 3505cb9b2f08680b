//! What a replay shows at its end.

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tidegate_proto::v1::Decision;

use super::player::Played;
use super::tally::{CALLS, KeyTally, LimitCourse, Tally};
use crate::output::{Rows, grouped, printable};
use crate::words::{self, WINDOWS};

/// Limit keys shown in the table, the busiest first.
const KEYS_SHOWN: usize = 8;

/// Limit keys in the JSON object, the busiest first.
const KEYS_IN_JSON: usize = 1_000;

impl Played {
    /// The final table.
    pub(super) fn table(&self) -> String {
        let tally = &self.tally;
        [requests(tally), tokens(tally), limits(tally), latency(tally)].map(|rows| rows.to_string()).join("\n")
    }

    /// The final object: the fields of design.md 9, and more.
    pub(super) fn json(&self) -> Value {
        let tally = &self.tally;
        let denials = tally.denials.iter();
        let denials = denials.map(|((reason, window), count)| {
            json!({ "reason": reason, "window": (!window.is_empty()).then_some(window), "count": count })
        });
        let errors = tally.errors.iter();
        let errors = errors.map(|((call, code), count)| json!({ "call": call, "code": code, "count": count }));
        let calls = CALLS.iter().zip(&tally.latency_us).map(|(call, latency)| ((*call).to_owned(), quantiles(latency)));
        let keys = busiest(tally, KEYS_IN_JSON);
        let limits = keys.iter().map(|((account, model), key)| {
            let windows = WINDOWS.iter().zip(key.limits).map(|(window, course)| {
                let LimitCourse { first_tpm, last_tpm, peak_tpm } = course;
                let window = words::window((*window).into());
                json!({ "window": window, "first_tpm": first_tpm, "last_tpm": last_tpm, "peak_tpm": peak_tpm })
            });
            json!({
                "account": account,
                "model": model,
                "requests": key.requests,
                "admitted": key.admitted,
                "windows": windows.collect::<Vec<_>>(),
            })
        });
        json!({
            "requests": tally.requests,
            "admitted": tally.decided(Decision::Allow),
            "rate_limited": tally.decided(Decision::RateLimited),
            "overloaded": tally.decided(Decision::Overloaded),
            "forbidden": tally.decided(Decision::Forbidden),
            "errors": tally.error_count(),
            "tokens": words::tokens_json(&tally.settled),
            "denied_tokens": words::tokens_json(&tally.denied),
            "latency_us": quantiles(&tally.latency_us[0]),
            "latency_us_by_call": calls.collect::<serde_json::Map<_, _>>(),
            "denials": denials.collect::<Vec<_>>(),
            "settlements": tally.settlements,
            "errors_by_call": errors.collect::<Vec<_>>(),
            "limits": limits.collect::<Vec<_>>(),
            "trace_ms": self.trace_ms,
            "elapsed_ms": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
            "behind_ms": u64::try_from(self.behind.as_millis()).unwrap_or(u64::MAX),
            "ended_early": self.ended_early,
        })
    }
}

fn requests(tally: &Tally) -> Rows {
    let mut rows = Rows::new(&["REQUESTS", "#COUNT", "#SHARE"]);
    let mut push = |label: &str, count: u64| {
        // One decimal of a percentage needs no exact division.
        let share = if tally.requests == 0 { 0.0 } else { count as f64 * 100.0 / tally.requests as f64 };
        rows.push([label.to_owned(), grouped(count), format!("{share:.1} %")]);
    };
    push("sent", tally.requests);
    for decision in [Decision::Allow, Decision::RateLimited, Decision::Overloaded, Decision::Forbidden] {
        let label = if decision == Decision::Allow { "admitted" } else { &words::decision(decision.into()) };
        push(label, tally.decided(decision));
        for ((reason, window), count) in tally.denials.iter().filter(|((reason, _), _)| decision_of(reason) == decision)
        {
            let separator = if window.is_empty() { "" } else { ": " };
            push(&format!("  {reason}{separator}{window}"), *count);
        }
    }
    for ((call, code), count) in &tally.errors {
        rows.push([format!("error: {call}: {code}"), grouped(*count), String::new()]);
    }
    for (outcome, count) in tally.settlements.iter().filter(|(outcome, _)| *outcome != "applied") {
        rows.push([format!("settled: {outcome}"), grouped(*count), String::new()]);
    }
    rows
}

/// The decision that a reason's word stands for; each reason stands for exactly one.
fn decision_of(reason: &str) -> Decision {
    match reason {
        "window_full" | "exceeds_current_limit" | "never_fits" => Decision::RateLimited,
        "unknown_account" | "account_blocked" => Decision::Forbidden,
        _ => Decision::Overloaded,
    }
}

fn tokens(tally: &Tally) -> Rows {
    let mut rows = Rows::new(&["TOKENS", "#PROMPT", "#UNCACHED PROMPT", "#GENERATED"]);
    for (label, sum) in [("settled", &tally.settled), ("of denied requests", &tally.denied)] {
        rows.push([label.to_owned(), grouped(sum.prompt), grouped(sum.uncached_prompt), grouped(sum.generated)]);
    }
    rows
}

fn limits(tally: &Tally) -> Rows {
    let windows = ["#PROMPT TPM", "#UNCACHED PROMPT TPM", "#GENERATED TPM"];
    let mut rows = Rows::new(&["LIMITS, FIRST > LAST", "#REQUESTS", "#ADMITTED", windows[0], windows[1], windows[2]]);
    for ((account, model), key) in busiest(tally, KEYS_SHOWN) {
        let label = format!("{} {}", printable(account), printable(model));
        let [prompt, uncached, generated] = key.limits.map(course);
        rows.push([label, grouped(key.requests), grouped(key.admitted), prompt, uncached, generated]);
    }
    let others = tally.keys.len().saturating_sub(KEYS_SHOWN);
    if others > 0 {
        rows.push([format!("... and {} more keys", grouped(others as u64))]);
    }
    rows
}

fn course(limit: LimitCourse) -> String {
    let ends = format!("{} > {}", grouped(limit.first_tpm), grouped(limit.last_tpm));
    let peaked = limit.peak_tpm > limit.first_tpm.max(limit.last_tpm);
    if peaked { format!("{ends} (peak {})", grouped(limit.peak_tpm)) } else { ends }
}

/// The keys with the most requests, in a fixed order.
fn busiest(tally: &Tally, count: usize) -> Vec<(&(String, String), &KeyTally)> {
    let mut keys: Vec<_> = tally.keys.iter().collect();
    keys.sort_by(|(left_name, left), (right_name, right)| {
        right.requests.cmp(&left.requests).then_with(|| left_name.cmp(right_name))
    });
    keys.truncate(count);
    keys
}

fn latency(tally: &Tally) -> Rows {
    let mut rows = Rows::new(&["LATENCY AT THE CLIENT, us", "#CALLS", "#P50", "#P99", "#P99.9", "#MAX"]);
    for (call, latency) in CALLS.iter().zip(&tally.latency_us) {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| grouped(latency.value_at_quantile(quantile)));
        rows.push([(*call).to_owned(), grouped(latency.len()), p50, p99, p999, grouped(latency.max())]);
    }
    rows
}

fn quantiles(latency: &Histogram<u64>) -> Value {
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| latency.value_at_quantile(quantile));
    json!({ "p50": p50, "p99": p99, "p999": p999 })
}

#[cfg(test)]
mod tests {
    use tidegate_proto::v1::{CheckAndReserveResponse, DenyReason, Window, WindowStatus};

    use super::*;
    use crate::command::replay::agenda::{Call, Step, Stream};
    use crate::command::replay::caller::{Answered, Reply};
    use tidegate_sim::trace::TraceRow;

    fn decided(decision: Decision, reason: DenyReason, binding: &[Window], limit_tpm: u64) -> Answered {
        let status = |window: Window| {
            let binding = binding.contains(&window);
            WindowStatus { window: window.into(), limit_tpm, binding, ..WindowStatus::default() }
        };
        let windows = WINDOWS.map(status).to_vec();
        let (decision, reason) = (decision.into(), reason.into());
        let answer = CheckAndReserveResponse { decision, reason, windows, ..CheckAndReserveResponse::default() };
        let request = TraceRow {
            at_ms: 0,
            account: "a".to_owned(),
            model: "m".to_owned(),
            prompt_tokens: 10,
            cached_prompt_tokens: Some(4),
            generated_tokens: 3,
            stated_duration_ms: None,
            max_generated_tokens: None,
        };
        let stream = Box::new(Stream { row: 0, request, reservation_id: String::new(), reservation: 0 });
        let call = Call { due_ms: 0, stream, step: Step::Reserve };
        Answered { call, reply: Ok(Reply::Reserved(Box::new(answer))), sent_us: 0, received_us: 0, latency_us: 70 }
    }

    fn played() -> Played {
        let mut played = Played::default();
        for answered in [
            decided(Decision::Allow, DenyReason::Unspecified, &[], 100),
            decided(Decision::RateLimited, DenyReason::WindowFull, &[Window::Prompt, Window::Generated], 300),
            decided(Decision::RateLimited, DenyReason::NeverFits, &[Window::Prompt], 300),
            decided(Decision::Overloaded, DenyReason::Capacity, &[], 200),
        ] {
            played.tally.on_answer(&answered);
        }
        played
    }

    #[test]
    fn the_object_has_the_fields_that_were_promised() {
        let json = played().json();
        for (field, value) in [
            ("requests", json!(4)),
            ("admitted", json!(1)),
            ("rate_limited", json!(2)),
            ("overloaded", json!(1)),
            ("errors", json!(0)),
            ("tokens", json!({ "prompt": 0, "uncached_prompt": 0, "generated": 0 })),
            ("denied_tokens", json!({ "prompt": 30, "uncached_prompt": 18, "generated": 9 })),
            ("latency_us", json!({ "p50": 70, "p99": 70, "p999": 70 })),
        ] {
            assert_eq!(json[field], value, "{field}");
        }
        assert_eq!(
            json["limits"][0]["windows"][2],
            json!({
                "window": "generated", "first_tpm": 100, "last_tpm": 200, "peak_tpm": 300
            })
        );
    }

    #[test]
    fn the_table_counts_denials_by_reason_and_window() {
        let table = played().table();
        for line in [
            "sent                           4  100.0 %",
            "admitted                       1   25.0 %",
            "rate_limited                   2   50.0 %",
            "  never_fits: prompt           1   25.0 %",
            "  window_full: generated       1   25.0 %",
            "  window_full: prompt          1   25.0 %",
            "overloaded                     1   25.0 %",
            "  capacity                     1   25.0 %",
        ] {
            let words: Vec<_> = line.split_whitespace().collect();
            let found = table.lines().any(|row| row.split_whitespace().eq(words.iter().copied()));
            assert!(found, "`{line}` is not in\n{table}");
        }
        assert!(table.contains("100 > 200 (peak 300)"), "{table}");
    }
}
