//! The scripts of the shared store do what their model in the core says, answer by answer, on every server that they promise.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use redis::FromRedisValue;
use tidegate_core::MAX_TOKENS;
use tidegate_core::fleet::{Granted, Ledger, MOST_LEASE_MS, Report};
use tidegate_core::window::PerWindow;
use tidegate_store::redis::{LIMITS, REPORT, arguments, granted, limits};
use tidegate_tests::redis::{Kind, Server, Setup};

/// What a sidecar says.
#[derive(Clone, Debug)]
struct Said {
    who: u64,
    /// How much larger than the last one's; not larger: a repetition, or one that comes late.
    newer: i64,
    ttl_ms: u64,
    needs: PerWindow<Vec<(u32, u64)>>,
    wants: PerWindow<u64>,
}

#[derive(Clone, Debug)]
enum Step {
    Report(Said),
    Limits {
        newer: i64,
        limits: PerWindow<u64>,
    },
    /// Milliseconds, now and then backwards.
    Time(i64),
}

fn tokens() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..1_000_u64, 1 => 0..=MAX_TOKENS]
}

fn of_windows<T: Clone + std::fmt::Debug>(
    each: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = PerWindow<T>> {
    (each.clone(), each.clone(), each)
        .prop_map(|(prompt, uncached, generated)| PerWindow::new(prompt, uncached, generated))
}

/// Times are mostly halves of seconds, so that leases and seconds end at the instant of a call.
fn step() -> impl Strategy<Value = Step> {
    let needs = prop::collection::btree_map(0..130_u32, tokens(), 0..6).prop_map(|needs| needs.into_iter().collect());
    let newer = prop_oneof![8 => Just(1_i64), 1 => 2..5_i64, 1 => -2..1_i64];
    let said = (
        0..4_u64,
        newer.clone(),
        (1..140_u64).prop_map(|half| half * 500),
        of_windows(needs.boxed()),
        of_windows(tokens().boxed()),
    );
    prop_oneof![
        6 => said.prop_map(|(who, newer, ttl_ms, needs, wants)| Step::Report(Said { who, newer, ttl_ms, needs, wants })),
        1 => (newer, of_windows(tokens().boxed())).prop_map(|(newer, limits)| Step::Limits { newer, limits }),
        3 => prop_oneof![0..3_000_i64, (0..130_i64).prop_map(|half| half * 500), Just(500), Just(60_000), -5_000..0_i64]
            .prop_map(Step::Time),
    ]
}

/// The script with the time as its last argument, so that a test may move it.
fn on_time_of_the_test() -> String {
    let (before, rest) = REPORT.split_once("local clock = ").expect("it asks for the time");
    let (_, after) = rest.split_once("local stored = ").expect("and then for what is stored");
    assert!(rest.starts_with("redis.call('TIME')"), "the server's own time is what counts");
    format!("{before}local now = tonumber(ARGV[#ARGV])\nlocal stored = {after}")
}

fn call<T: FromRedisValue>(server: &Server, script: &str, key: &str, arguments: &[String]) -> T {
    let mut words = vec!["EVAL", script, "1", key];
    words.extend(arguments.iter().map(String::as_str));
    server.ask(&words)
}

fn scripts_equal_their_model(kind: Kind) {
    let Some(setup) = Setup::of(kind) else { return };
    let server = setup.start();
    let (report, cases) = (on_time_of_the_test(), Cell::new(0_u64));
    let config = ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() };
    let steps = prop::collection::vec(step(), 1..40);
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        cases.set(cases.get() + 1);
        let key = format!("{{key {}}}", cases.get());
        let (mut ledger, mut now_ms, mut version) = (Ledger::default(), 1_800_000_000_000_i64, 0_i64);
        let mut sequences = BTreeMap::new();
        for step in steps {
            match step {
                Step::Time(span) => now_ms += span,
                Step::Limits { newer, limits: of_windows } => {
                    version = (version + newer).max(1);
                    let version = version.unsigned_abs();
                    let answer: i64 = call(&server, LIMITS, &key, &limits(version, &of_windows));
                    prop_assert_eq!(answer == 1, ledger.set_limits(version, of_windows));
                }
                Step::Report(Said { who, newer, ttl_ms, needs, wants }) => {
                    let sequence: &mut i64 = sequences.entry(who).or_default();
                    *sequence = (*sequence + newer).max(1);
                    let sequence = sequence.unsigned_abs();
                    let needs = PerWindow::from_fn(|window| needs[window].as_slice());
                    let said = Report { incarnation: who, sequence, ttl_ms, needs, wants };
                    let mut arguments = arguments(&said);
                    arguments.push(now_ms.to_string());
                    let answer = granted(&call::<Vec<i64>>(&server, &report, &key, &arguments));
                    prop_assert_eq!(answer, Some(ledger.report(now_ms.unsigned_abs(), &said)), "{:?}", said);
                }
            }
        }
        Ok(())
    });
    if let Err(wrong) = outcome {
        panic!("{kind:?} {}: {wrong}", server.version());
    }
}

#[test]
fn redis_7_does_what_the_model_says() {
    scripts_equal_their_model(Kind::Redis7);
}

#[test]
fn redis_8_does_what_the_model_says() {
    scripts_equal_their_model(Kind::Redis8);
}

#[test]
fn valkey_8_does_what_the_model_says() {
    scripts_equal_their_model(Kind::Valkey8);
}

#[test]
fn valkey_9_does_what_the_model_says() {
    scripts_equal_their_model(Kind::Valkey9);
}

#[test]
fn the_servers_own_time_counts_and_a_key_that_nobody_uses_goes() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let server = setup.start();
    let report = |sequence, ttl_ms| {
        let wants = PerWindow::new(10, 20, 30);
        let report = Report { incarnation: 1, sequence, ttl_ms, needs: PerWindow::default(), wants };
        granted(&call::<Vec<i64>>(&server, REPORT, "{key}", &arguments(&report))).expect("an answer")
    };
    let before: i64 = {
        let clock: Vec<i64> = server.ask(&["TIME"]);
        clock[0] * 1_000
    };
    let none = Granted { left_ms: 5_000, ..Granted::default() };
    assert_eq!(report(1, 5_000), none, "nothing is granted while no limits are known");
    let now: i64 = server.ask::<String>(&["HGET", "{key}", "now"]).parse().expect("a number");
    assert!((before..before + 60_000).contains(&now), "{now}");
    let known: i64 = call(&server, LIMITS, "{key}", &limits(1, &PerWindow::new(100, 100, 100)));
    assert_eq!(known, 1);
    let granted = report(2, 2 * MOST_LEASE_MS);
    assert_eq!((granted.allotted, granted.left_ms), (PerWindow::new(10, 20, 30), MOST_LEASE_MS));
    let left: i64 = server.ask(&["PTTL", "{key}"]);
    assert!((200_000..=300_000).contains(&left), "{left} ms");
}
