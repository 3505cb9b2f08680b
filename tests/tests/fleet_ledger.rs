//! The scripts of the shared store do what their model in the core says, answer by answer, on every server that they promise.

#![allow(clippy::panic, reason = "a test that finds something wrong panics, in its helpers too")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use redis::FromRedisValue;
use tidegate_core::MAX_TOKENS;
use tidegate_core::fleet::{Granted, KnownLaw, Ledger, Lost, MOST_LEASE_MS, Report, SILENCE_MS, Seen};
use tidegate_core::law::{Bounds, Law, WindowLaw};
use tidegate_core::window::PerWindow;
use tidegate_store::redis::{LAW, LIFE, REPORT, arguments, granted, law_arguments, named};
use tidegate_tests::redis::{Kind, Server, Setup};

/// What a sidecar says.
#[derive(Clone, Debug)]
struct Said {
    who: u64,
    /// How much larger than the last one's; not larger: a repetition, or one that comes late.
    newer: i64,
    /// How many of its reports it takes for arrived: all before this one, or one more than were made.
    ahead: bool,
    phase_seconds: u64,
    ttl_ms: u64,
    needs: PerWindow<Vec<(u32, u64)>>,
    wants: PerWindow<u64>,
    least: PerWindow<u64>,
    waits: bool,
    seen: PerWindow<Seen>,
}

#[derive(Clone, Debug)]
enum Step {
    Report(Said),
    /// Of the version after the last one, or another; its epoch is so many after that of now.
    Law {
        expected: i64,
        newer: i64,
        epochs: i64,
        policy: u64,
        law: PerWindow<(WindowLaw, u64)>,
    },
    /// Data were lost; or a sidecar has not heard of it yet.
    Life {
        hears: bool,
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
    let seen = (tokens(), tokens(), any::<bool>(), 0..2_000_u16)
        .prop_map(|(settled, arrived, denied, pressure)| Seen { settled, arrived, denied, pressure });
    let said = (
        (0..4_u64, newer.clone(), prop::bool::weighted(0.05), 0..60_u64),
        (1..140_u64).prop_map(|half| half * 500),
        of_windows(needs.boxed()),
        of_windows(tokens().boxed()),
        of_windows(prop_oneof![Just(0), tokens()].boxed()),
        prop::bool::weighted(0.7),
        of_windows(seen.boxed()),
    );
    let state = (-10..20_000_i32, -10..20_000_i32, tokens(), any::<bool>(), 0..2_000_u16, tokens())
        .prop_map(|(p, v, u, den, br, limit)| (WindowLaw { p, v, q: p - v, u, den, br }, limit));
    let of = |off: i64| prop_oneof![6 => Just(off), 1 => -2..3_i64];
    let law = (of(0), of(1), of(1), 0..3_u64, of_windows(state.boxed()));
    prop_oneof![
        6 => said.prop_map(|((who, newer, ahead, phase_seconds), ttl_ms, needs, wants, least, waits, seen)| {
            Step::Report(Said { who, newer, ahead, phase_seconds, ttl_ms, needs, wants, least, waits, seen })
        }),
        2 => law.prop_map(|(expected, newer, epochs, policy, law)| Step::Law { expected, newer, epochs, policy, law }),
        1 => prop::bool::weighted(0.8).prop_map(|hears| Step::Life { hears }),
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

/// Both keys of a limit key's script.
fn life_of(key: &str) -> String {
    format!("{key} life")
}

fn call<T: FromRedisValue>(server: &Server, script: &str, key: &str, arguments: &[String]) -> T {
    let life = life_of(key);
    let mut words = vec!["EVAL", script, "2", key, &life];
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
        let (mut life, mut heard) = (0_u64, 0_u64);
        let begin =
            |life: u64, now_ms: i64| server.tell(&["SET", &life_of(&key), &format!("{} {now_ms} x", named(life))]);
        begin(0, 0);
        let mut sequences = BTreeMap::new();
        for step in steps {
            match step {
                Step::Time(span) => now_ms += span,
                Step::Life { hears } => {
                    life += 1;
                    ledger.begin(life, now_ms.unsigned_abs());
                    begin(life, now_ms);
                    heard = if hears { life } else { heard };
                }
                Step::Law { expected, newer, epochs, policy, law } => {
                    let (expected, written) = ((version + expected).max(0), (version + newer).max(1));
                    let epoch = (now_ms / 60_000 + epochs).unsigned_abs();
                    let known = KnownLaw {
                        version: written.unsigned_abs(),
                        policy,
                        law: Law { epoch, windows: law.map(|(state, _)| state) },
                        limits: law.map(|(_, limit)| limit),
                    };
                    let arguments = law_arguments(expected.unsigned_abs(), &known, Duration::from_secs(900));
                    let answer: i64 = call(&server, LAW, &key, &arguments);
                    let is_written = ledger.set_law(expected.unsigned_abs(), known);
                    prop_assert_eq!(answer == 1, is_written);
                    version = if is_written { written } else { version };
                }
                Step::Report(Said { who, newer, ahead, phase_seconds, ttl_ms, needs, wants, least, waits, seen }) => {
                    let sequence: &mut i64 = sequences.entry(who).or_default();
                    *sequence = (*sequence + newer).max(1);
                    let sequence = sequence.unsigned_abs();
                    let needs = PerWindow::from_fn(|window| needs[window].as_slice());
                    let acknowledged = if ahead { sequence } else { 0 };
                    let said = Report {
                        life: heard,
                        incarnation: who,
                        sequence,
                        acknowledged,
                        phase_seconds,
                        ttl_ms,
                        needs,
                        wants,
                        least,
                        waits,
                        seen,
                    };
                    let mut arguments = arguments(&said);
                    arguments.push(now_ms.to_string());
                    let answer = granted(&call::<Vec<i64>>(&server, &report, &key, &arguments));
                    let wanted = ledger.report(now_ms.unsigned_abs(), &said);
                    if wanted == Err(Lost) {
                        heard = life;
                    }
                    prop_assert_eq!(answer, Some(wanted), "{:?}", said);
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
        let report = Report {
            life: 0,
            incarnation: 1,
            sequence,
            acknowledged: sequence - 1,
            phase_seconds: 0,
            ttl_ms,
            needs: PerWindow::default(),
            wants: PerWindow::new(10, 20, 30),
            least: PerWindow::default(),
            waits: true,
            seen: PerWindow::default(),
        };
        granted(&call::<Vec<i64>>(&server, REPORT, "{key}", &arguments(&report))).expect("an answer")
    };
    let before: i64 = {
        let clock: Vec<i64> = server.ask(&["TIME"]);
        clock[0] * 1_000
    };
    assert_eq!(report(1, 5_000), Err(Lost), "there is no life yet");
    server.tell(&["SET", &life_of("{key}"), &format!("{} {} x", named(0), before - 2 * SILENCE_MS.cast_signed())]);
    let none = report(1, 5_000).expect("nothing was lost");
    assert_eq!(
        none,
        Granted { left_ms: 5_000, epoch: none.epoch, ..Granted::default() },
        "nothing is granted without a law"
    );
    assert!(none.epoch.abs_diff(before.unsigned_abs() / 60_000) <= 1);
    let now: i64 = server.ask::<String>(&["HGET", "{key}", "now"]).parse().expect("a number");
    assert!((before..before + 60_000).contains(&now), "{now}");
    let bounds = PerWindow::from_fn(|_| Bounds::new(100, 100).expect("in order"));
    let law =
        KnownLaw { version: 1, policy: 0, law: Law::new(1 << 40, &bounds), limits: PerWindow::new(100, 100, 100) };
    let known: i64 = call(&server, LAW, "{key}", &law_arguments(0, &law, Duration::ZERO));
    assert_eq!(known, 1);
    let granted = report(2, 2 * MOST_LEASE_MS).expect("nothing was lost");
    assert_eq!((granted.allotted, granted.left_ms), (PerWindow::new(10, 20, 30), MOST_LEASE_MS));
    let left: i64 = server.ask(&["PTTL", "{key}"]);
    assert!((200_000..=300_000).contains(&left), "{left} ms");
    // What the law has proven is kept until nobody could miss it.
    let known: i64 =
        call(&server, LAW, "{key}", &law_arguments(1, &KnownLaw { version: 2, ..law }, Duration::from_secs(3_600)));
    assert_eq!(known, 1);
    let _ = report(3, 1).expect("nothing was lost");
    let left: i64 = server.ask(&["PTTL", "{key}"]);
    assert!((3_500_000..=3_600_000).contains(&left), "{left} ms");
}

#[test]
fn a_life_of_the_data_ends_with_the_data_and_with_the_server() {
    let Some(setup) = Setup::of(Kind::Redis7) else { return };
    let server = setup.start();
    let life = |run: &str, new: u64, lost: &str| -> (String, u64) {
        server.ask(&["EVAL", LIFE, "1", "{key}", run, &named(new), lost])
    };
    assert_eq!(life("run1", 1, ""), (named(1), 0));
    assert_eq!(life("run1", 2, "").0, named(1), "it is one for all");
    assert_eq!(life("", 3, "").0, named(1), "who does not know the server's run id takes it as it is");
    assert_eq!(life("run2", 4, ""), (named(4), 0), "the server is another one");
    assert_eq!(life("run2", 5, &named(4)), (named(5), 0), "somebody found that data are missing");
    assert_eq!(life("run2", 6, &named(4)).0, named(5), "and somebody else has, too");
    server.flush();
    assert_eq!(life("run2", 7, &named(5)), (named(7), 0));
}
