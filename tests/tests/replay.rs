//! Whole traces through the real binary, on the test clock: true windows and limits, an hour in a minute.
//!
//! The synthetic trace of the repository always, the real ones where `TIDEGATE_TRACES` names their folder.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use tidegate_tests::bare;
use tidegate_tests::gateway::{Gateway, bounds};
use tidegate_tests::log::{CallLog, TraceSum};
use tidegate_tests::server::{Build, Server, Setup, root};
use tidegate_tests::skip;

use tidegate_proto::v1::{Tier, UpdateTierRequest};

fn synthetic() -> PathBuf {
    root().join("crates/sim/data/synthetic.csv")
}

fn name(trace: &Path) -> String {
    trace.file_name().expect("a trace is a file").to_string_lossy().into_owned()
}

/// Replays `trace` against `server`: the result of `--json`, and the log of every call.
fn replay(server: &Server, trace: &Path) -> (Value, CallLog) {
    let log = server.folder().join("decisions.jsonl");
    let (trace, log_path) = (trace.to_str().expect("UTF-8"), log.to_str().expect("UTF-8"));
    let (code, output, error) =
        server.run(Build::TestClock, &["replay", trace, "--test-clock", "--decisions", log_path, "--json"]);
    assert_eq!(code, Some(0), "{trace}: {error}\n{output}");
    (serde_json::from_str(&output).expect("--json prints one object"), CallLog::read(&log))
}

fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {path} in {value}"))
}

fn settled(result: &Value) -> [u64; 3] {
    ["/tokens/prompt", "/tokens/uncached_prompt", "/tokens/generated"].map(|path| number(result, path))
}

/// With floors above the trace's total nothing is in the way: every request is admitted, every token is settled.
async fn admits_everything_below_the_floors(trace: &Path) {
    let server = Setup::test_clock().start();
    let gateway = Gateway::of(&server).await;
    let huge = Some(bounds([1 << 40; 3], [1 << 40; 3]));
    let tier = Some(Tier { name: "tier-1".into(), bounds: huge, ..Tier::default() });
    let request = UpdateTierRequest { tier, ..UpdateTierRequest::default() };
    gateway.admin().update_tier(gateway.call(request)).await.expect("the tier is updated");

    let expected = TraceSum::of(trace);
    let (result, log) = replay(&server, trace);
    assert_eq!(number(&result, "/requests"), expected.requests);
    assert_eq!(number(&result, "/admitted"), expected.requests, "{result}");
    assert_eq!(settled(&result), expected.tokens);
    assert_eq!(number(&result, "/errors"), 0);
    let (decisions, _) = log.book();
    let verdict = decisions.verdict();
    verdict.assert_clean();
    assert_eq!(u64::try_from(verdict.allows), Ok(expected.requests), "the log is whole");
}

/// At the default floors the limits bind where the trace exceeds them, and no decision exceeds its limit.
async fn keeps_the_limits_at_default_floors(trace: &Path) {
    let server = Setup::test_clock().start();
    let (result, log) = replay(&server, trace);
    let expected = TraceSum::of(trace);
    assert_eq!(number(&result, "/requests"), expected.requests);
    assert_eq!(number(&result, "/errors") + number(&result, "/overloaded") + number(&result, "/forbidden"), 0);
    assert_eq!(number(&result, "/admitted") + number(&result, "/rate_limited"), expected.requests);

    let (decisions, truth) = log.book();
    let verdict = decisions.verdict();
    println!(
        "{}: {} of {} admitted, fullest windows {:?} permille of their limit",
        name(trace),
        verdict.allows,
        expected.requests,
        verdict.fullest_permille
    );
    println!("{}: the truth ledger's largest excess: {}", name(trace), truth.statement());
    verdict.assert_clean();
    assert_eq!(u64::try_from(verdict.allows), Ok(number(&result, "/admitted")), "the log is whole");

    let bare = bare::compare(&log);
    println!("{}: the bare core, given the same calls: {bare:?}", name(trace));
    assert_eq!(bare.requests, expected.requests);
    for window in 0..2 {
        assert!(bare.tokens_differ[window] * 50 <= bare.tokens[window], "at most 2 % of the tokens differ: {bare:?}");
    }
}

#[tokio::test]
async fn the_synthetic_trace_is_admitted_whole_below_the_floors() {
    admits_everything_below_the_floors(&synthetic()).await;
}

#[tokio::test]
async fn the_synthetic_trace_keeps_the_default_limits() {
    keeps_the_limits_at_default_floors(&synthetic()).await;
}

/// On real time nobody outside knows the order of calls that overlap; 256 of them are in flight here.
#[test]
fn a_fast_replay_in_real_time_keeps_the_limits() {
    let server = Setup::release().start();
    let (trace, log) = (synthetic(), server.folder().join("decisions.jsonl"));
    let (trace, log_path) = (trace.to_str().expect("UTF-8"), log.to_str().expect("UTF-8"));
    let arguments = ["replay", trace, "--speed", "200", "--decisions", log_path, "--json"];
    let (code, output, error) = server.run(Build::Release, &arguments);
    assert_eq!(code, Some(0), "{error}\n{output}");
    let result: Value = serde_json::from_str(&output).expect("--json prints one object");
    let (decisions, _) = CallLog::read(&log).book();
    let verdict = decisions.verdict();
    println!("{} ALLOWs in real time, fullest windows {:?} permille", verdict.allows, verdict.fullest_permille);
    verdict.assert_clean();
    assert_eq!(u64::try_from(verdict.allows), Ok(number(&result, "/admitted")), "the log is whole");
    assert!(number(&result, "/rate_limited") > 0, "the limits bound: {result}");
}

#[tokio::test]
async fn real_traces_are_admitted_whole_below_the_floors() {
    for trace in skip::traces().unwrap_or_default() {
        admits_everything_below_the_floors(&trace).await;
    }
}

#[tokio::test]
async fn real_traces_keep_the_default_limits() {
    for trace in skip::traces().unwrap_or_default() {
        keeps_the_limits_at_default_floors(&trace).await;
    }
}
