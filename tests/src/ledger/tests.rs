//! A ledger that never finds anything proves nothing: each violation it is for is made here, by one token.

use super::*;

const SECOND: u64 = 1_000_000;

fn key() -> Key {
    ("acme".into(), "m".into(), String::new())
}

fn limits(tpm: u64) -> [Limits; 3] {
    [Limits { floor: 1, effective: tpm, limit: tpm, ceiling: tpm }; 3]
}

fn allow(id: &str, when: When, reserved: Tokens, limit: u64) -> Allow {
    Allow {
        key: key(),
        reservation: id.into(),
        when,
        prompt: reserved[0],
        cached: Some(reserved[0] - reserved[1]),
        max_generated: Some(reserved[2]),
        reserved,
        replayed: false,
        limits: limits(limit),
    }
}

fn at(seconds: u64) -> When {
    When::exactly(seconds * SECOND, 0)
}

fn between(sent_s: u64, received_s: u64) -> When {
    When::between(sent_s * SECOND, received_s * SECOND)
}

/// The windows of the over-limit violations found.
fn over(ledger: &DecisionLedger) -> Vec<&'static str> {
    ledger
        .verdict()
        .violations
        .iter()
        .filter_map(|violation| match violation {
            Violation::OverLimit { window, .. } => Some(*window),
            Violation::Contradiction { .. } => None,
        })
        .collect()
}

fn contradictions(ledger: &DecisionLedger) -> usize {
    ledger.verdict().violations.len() - over(ledger).len()
}

#[test]
fn a_full_window_is_clean_and_one_token_more_is_not() {
    let mut ledger = DecisionLedger::new();
    ledger.allow(allow("a", at(10), [600, 0, 0], 1000));
    ledger.allow(allow("b", at(20), [400, 0, 0], 1000));
    ledger.verdict().assert_clean();
    assert_eq!(ledger.verdict().fullest_permille, [1000, 0, 0]);
    ledger.allow(allow("c", at(69), [1, 0, 0], 1000));
    assert_eq!(over(&ledger), ["prompt"], "a's tokens leave at 70 s, not at 69 s");
}

#[test]
fn charges_leave_the_window_after_exactly_sixty_seconds() {
    let mut ledger = DecisionLedger::new();
    ledger.allow(allow("a", When::exactly(10 * SECOND, 0), [1000, 1000, 0], 1000));
    ledger.allow(allow("b", When::exactly(70 * SECOND, 0), [1000, 1000, 0], 1000));
    ledger.verdict().assert_clean();
    let mut early = DecisionLedger::new();
    early.allow(allow("a", When::exactly(10 * SECOND, 0), [1000, 1000, 0], 1000));
    early.allow(allow("b", When::exactly(70 * SECOND - 1, 0), [1, 1, 0], 1000));
    assert_eq!(over(&early), ["prompt", "uncached_prompt"]);
}

#[test]
fn concurrent_calls_that_cannot_all_fit_are_found_though_each_could_have_been_first() {
    let mut ledger = DecisionLedger::new();
    for n in 0..11 {
        ledger.allow(allow(&format!("r{n}"), between(0, 1 + n), [100, 0, 0], 1000));
    }
    assert_eq!(over(&ledger), ["prompt"], "ten fit, the eleventh does not");
}

#[test]
fn an_excess_that_some_order_explains_does_not_count() {
    let mut ledger = DecisionLedger::new();
    // Sent at 1 s, answered at 70 s: charged at 1 s it has left the window when the next is decided at 61 s.
    ledger.allow(allow("slow", between(1, 70), [1000, 0, 0], 1000));
    ledger.allow(allow("next", between(2, 61), [1000, 0, 0], 1000));
    ledger.verdict().assert_clean();
    // The settlement was on its way when the second was decided: it may have been seen.
    let mut ledger = DecisionLedger::new();
    ledger.allow(allow("a", between(0, 1), [1000, 0, 0], 1000));
    ledger.settle("a", between(4, 9), Some(100), Some(100), None, Outcome::Applied);
    ledger.allow(allow("b", between(3, 5), [900, 0, 0], 1000));
    ledger.verdict().assert_clean();
    // It was sent after the second's answer: it cannot have been seen.
    let mut ledger = DecisionLedger::new();
    ledger.allow(allow("a", between(0, 1), [1000, 0, 0], 1000));
    ledger.settle("a", between(6, 9), Some(100), Some(100), None, Outcome::Applied);
    ledger.allow(allow("b", between(3, 5), [900, 0, 0], 1000));
    assert_eq!(over(&ledger), ["prompt"]);
}

#[test]
fn a_limit_that_fell_binds_only_those_decided_after() {
    let mut ledger = DecisionLedger::new();
    ledger.allow(allow("a", at(1), [1000, 0, 0], 1000));
    ledger.allow(allow("b", at(2), [1, 0, 0], 2000));
    ledger.verdict().assert_clean();
    ledger.allow(allow("c", at(3), [1, 0, 0], 1001));
    assert_eq!(over(&ledger), ["prompt"]);
}

#[test]
fn settlement_replaces_the_reservation_both_ways() {
    let mut ledger = DecisionLedger::new();
    ledger.allow(allow("a", When::exactly(1, 1), [500, 500, 0], 1000));
    ledger.settle("a", When::exactly(2, 2), Some(800), Some(700), Some(0), Outcome::Applied);
    ledger.allow(allow("b", When::exactly(3, 3), [200, 200, 0], 1000));
    ledger.verdict().assert_clean();
    ledger.allow(allow("c", When::exactly(4, 4), [1, 1, 0], 1000));
    assert_eq!(over(&ledger), ["prompt"], "800 + 200 + 1 prompt, but only 100 + 200 + 1 uncached");
}

#[test]
fn a_release_returns_the_charges_and_a_late_settlement_brings_them_back() {
    let mut ledger = DecisionLedger::new();
    ledger.allow(allow("a", When::exactly(1, 1), [1000, 1000, 0], 1000));
    ledger.release("a", When::exactly(2, 2), Outcome::Applied);
    ledger.allow(allow("b", When::exactly(3, 3), [600, 600, 0], 1000));
    ledger.verdict().assert_clean();
    ledger.settle("a", When::exactly(4, 4), Some(400), Some(0), None, Outcome::Late);
    ledger.verdict().assert_clean();
    ledger.allow(allow("c", When::exactly(5, 5), [1, 1, 0], 1000));
    assert_eq!(over(&ledger), ["prompt", "uncached_prompt"]);
}

#[test]
fn generated_tokens_count_where_they_were_produced() {
    let mut ledger = DecisionLedger::new();
    ledger.allow(allow("long", When::exactly(0, 1), [1, 1, 0], 1000));
    // 1,200 tokens evenly over 120 s: 600 of them in the trailing minute.
    ledger.progress("long", When::exactly(120 * SECOND, 2), 1200, Outcome::Applied);
    ledger.allow(allow("fits", When::exactly(120 * SECOND, 3), [1, 1, 400], 1000));
    ledger.verdict().assert_clean();
    ledger.allow(allow("more", When::exactly(120 * SECOND, 4), [1, 1, 401], 1000));
    assert_eq!(over(&ledger), ["generated"]);
}

#[test]
fn each_report_is_spread_from_the_one_before() {
    let mut ledger = DecisionLedger::new();
    ledger.allow(allow("s", When::exactly(0, 1), [1, 1, 0], 1000));
    ledger.progress("s", When::exactly(60 * SECOND, 2), 100, Outcome::Applied);
    ledger.progress("s", When::exactly(60 * SECOND, 3), 50, Outcome::Duplicate);
    ledger.settle("s", When::exactly(90 * SECOND, 4), None, None, Some(1000), Outcome::Applied);
    // In (30 s, 90 s]: half of the first 100, all of the other 900.
    ledger.allow(allow("fits", When::exactly(90 * SECOND, 5), [1, 1, 50], 1000));
    ledger.verdict().assert_clean();
    ledger.allow(allow("more", When::exactly(90 * SECOND, 6), [1, 1, 51], 1000));
    assert_eq!(over(&ledger), ["generated"]);
}

#[test]
fn debt_above_the_limit_lets_nothing_in() {
    let mut ledger = DecisionLedger::new();
    ledger.allow(allow("a", When::exactly(1, 1), [1, 1, 10], 1000));
    ledger.settle("a", When::exactly(SECOND, 2), None, None, Some(1001), Outcome::Applied);
    ledger.allow(allow("b", When::exactly(2 * SECOND, 3), [1, 1, 0], 1000));
    assert_eq!(over(&ledger), ["generated"]);
}

#[test]
fn a_settlement_below_the_reports_takes_tokens_back() {
    let mut ledger = DecisionLedger::new();
    ledger.allow(allow("a", When::exactly(1, 1), [1, 1, 0], 1000));
    ledger.progress("a", When::exactly(SECOND, 2), 1000, Outcome::Applied);
    ledger.settle("a", When::exactly(2 * SECOND, 3), None, None, Some(400), Outcome::Applied);
    ledger.allow(allow("b", When::exactly(3 * SECOND, 4), [1, 1, 600], 1000));
    ledger.verdict().assert_clean();
    ledger.allow(allow("c", When::exactly(3 * SECOND, 5), [1, 1, 601], 1000));
    assert_eq!(over(&ledger), ["generated"]);
}

#[test]
fn answers_that_contradict_each_other_are_found() {
    let allowed = || {
        let mut ledger = DecisionLedger::new();
        ledger.allow(allow("a", at(1), [10, 10, 10], 1000));
        ledger
    };
    let settle = |ledger: &mut DecisionLedger, outcome| {
        ledger.settle("a", at(2), None, None, Some(3), outcome);
    };

    let mut twice = allowed();
    settle(&mut twice, Outcome::Applied);
    settle(&mut twice, Outcome::Duplicate);
    twice.verdict().assert_clean();
    settle(&mut twice, Outcome::Late);
    assert_eq!(contradictions(&twice), 1, "settled twice");

    let mut after_release = allowed();
    after_release.release("a", at(2), Outcome::Applied);
    settle(&mut after_release, Outcome::Applied);
    assert_eq!(contradictions(&after_release), 1, "a settlement after a release is late");

    let mut released_after = allowed();
    settle(&mut released_after, Outcome::Applied);
    released_after.release("a", at(3), Outcome::Applied);
    assert_eq!(contradictions(&released_after), 1, "released after it was settled");

    let mut same_id = allowed();
    let again = Allow { replayed: true, ..allow("a", at(2), [10, 10, 10], 1000) };
    same_id.allow(again.clone());
    same_id.verdict().assert_clean();
    assert_eq!(same_id.verdict().allows, 1, "a replayed answer charges nothing");
    same_id.allow(Allow { replayed: false, ..again });
    assert_eq!(contradictions(&same_id), 1, "two ALLOWs, one id");

    let mut understated = DecisionLedger::new();
    understated.allow(Allow { prompt: 11, cached: Some(1), ..allow("a", at(1), [10, 9, 0], 1000) });
    assert_eq!(contradictions(&understated), 2, "prompt and uncached prompt reserved are not what was asked");

    let mut overheld = DecisionLedger::new();
    overheld.allow(Allow { max_generated: Some(4), ..allow("a", at(1), [10, 9, 5], 1000) });
    assert_eq!(contradictions(&overheld), 1, "held more than the declared maximum");

    let mut unbounded = DecisionLedger::new();
    let broken = Limits { floor: 5, effective: 4, limit: 6, ceiling: 6 };
    unbounded.allow(Allow { limits: [broken; 3], ..allow("a", at(1), [1, 1, 1], 1000) });
    assert_eq!(contradictions(&unbounded), 3, "an effective limit below the floor");
}

#[test]
fn keys_do_not_share_windows() {
    let mut ledger = DecisionLedger::new();
    ledger.allow(allow("a", at(1), [1000, 0, 0], 1000));
    let turbo = ("acme".into(), "m".into(), "turbo".into());
    ledger.allow(Allow { key: turbo, ..allow("b", at(1), [1000, 0, 0], 1000) });
    ledger.verdict().assert_clean();
}
