//! A fleet with everything that goes wrong in one, against a ledger that knows what each sidecar really admitted.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const LIMIT: u64 = 1_000;

/// A sidecar as it should be: it counts its lease from before it asked.
#[derive(Clone, Debug, Default)]
struct Gateway {
    sequence: u64,
    allotted: u64,
    until_ms: u64,
    /// Charges: when, and how many.
    charges: Vec<(u64, u64)>,
}

impl Gateway {
    fn used(&self, now_ms: u64) -> u64 {
        self.charges.iter().filter(|(at, _)| at + 60_000 > now_ms).map(|(_, tokens)| tokens).sum()
    }

    fn leaving(&self, now_ms: u64) -> Vec<(u32, u64)> {
        let mut leaving = BTreeMap::new();
        for (at, tokens) in self.charges.iter().filter(|(at, _)| at + 60_000 > now_ms) {
            *leaving.entry(u32::try_from((at + 60_000 - now_ms) / 1_000).expect("a minute")).or_default() += tokens;
        }
        leaving.into_iter().collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    /// So much of what the sidecar may still admit, permille.
    Ask(usize, u64),
    /// The call takes so long on its way there and back; its answer may be lost.
    Report {
        who: usize,
        wants: u64,
        ttl_ms: u64,
        there_ms: u64,
        back_ms: u64,
        lost: bool,
    },
    /// A call that was made before is made again.
    Repeat(usize),
    /// The process is gone, and another takes its place.
    Kill(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let report = (
        0..4_usize,
        prop_oneof![Just(LIMIT), 0..400_u64],
        1..2_000_u64,
        0..300_u64,
        0..300_u64,
        prop::bool::weighted(0.1),
    );
    prop_oneof![
        3 => (1..4_000_u64).prop_map(Step::Wait),
        1 => prop_oneof![20_000..70_000_u64, 59_000..61_000_u64].prop_map(Step::Wait),
        8 => (0..4_usize, prop_oneof![Just(1_000_u64), 1..1_000_u64]).prop_map(|(who, share)| Step::Ask(who, share)),
        6 => report.prop_map(|(who, wants, ttl_ms, there_ms, back_ms, lost)| {
            Step::Report { who, wants, ttl_ms, there_ms, back_ms, lost }
        }),
        1 => (0..4_usize).prop_map(Step::Repeat),
        1 => (0..4_usize).prop_map(Step::Kill),
    ]
}

fn of_prompt<'a>(incarnation: u64, sequence: u64, ttl_ms: u64, needs: Leaving<'a>, wants: u64) -> Report<'a> {
    Report { incarnation, sequence, ttl_ms, needs: PerWindow::new(needs, &[], &[]), wants: PerWindow::new(wants, 0, 0) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 400 } else { 20_000 }))]

    /// Whatever is lost, late, repeated or killed: in no trailing minute does the fleet admit more than the limit.
    #[test]
    fn a_fleet_never_admits_more_than_the_limit(steps in prop::collection::vec(step(), 1..120)) {
        let mut ledger = Ledger::default();
        prop_assert!(ledger.set_limits(1, PerWindow::new(LIMIT, LIMIT, LIMIT)));
        let mut now_ms = 1_000_000;
        let mut gateways: Vec<Gateway> = alloc::vec![Gateway::default(); 4];
        let mut lives = [0_u64; 4];
        let mut truth: Vec<(u64, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(span) => now_ms += span,
                Step::Ask(who, share) => {
                    let gateway = &mut gateways[who];
                    let tokens = gateway.allotted.saturating_sub(gateway.used(now_ms)) * share / 1_000;
                    if now_ms < gateway.until_ms && tokens > 0 {
                        gateway.charges.push((now_ms, tokens));
                        truth.push((now_ms, tokens));
                        let counted: u64 =
                            truth.iter().filter(|(at, _)| at + 60_000 > now_ms).map(|(_, tokens)| tokens).sum();
                        prop_assert!(counted <= LIMIT, "{counted} in a minute");
                    }
                }
                Step::Report { who, wants, ttl_ms, there_ms, back_ms, lost } => {
                    let gateway = &mut gateways[who];
                    gateway.sequence += 1;
                    let (leaving, asked_ms) = (gateway.leaving(now_ms), now_ms);
                    let report = of_prompt(lives[who] * 4 + who as u64, gateway.sequence, ttl_ms, &leaving, wants);
                    // It decides nothing while it waits: what it would admit is not in its report.
                    gateway.until_ms = 0;
                    now_ms += there_ms;
                    let granted = ledger.report(now_ms, &report);
                    now_ms += back_ms;
                    if !lost {
                        gateway.allotted = granted.allotted.prompt;
                        gateway.until_ms = asked_ms + ttl_ms;
                    }
                }
                Step::Repeat(who) => {
                    let gateway = &gateways[who];
                    let incarnation = lives[who] * 4 + who as u64;
                    let report = of_prompt(incarnation, gateway.sequence, 60_000, &[], LIMIT);
                    // One whose sidecar was forgotten is taken in: it only takes from the others, for a while.
                    if ledger.sidecars.get(&incarnation).is_some_and(|sidecar| !sidecar.is_over(now_ms)) {
                        let granted = ledger.report(now_ms, &report);
                        prop_assert!(granted.left_ms <= 2_000, "a repeated report renews nothing");
                    }
                }
                Step::Kill(who) => {
                    lives[who] += 1;
                    gateways[who] = Gateway::default();
                }
            }
        }
    }
}

#[test]
fn what_one_sidecar_leaves_another_may_have() {
    let mut ledger = Ledger::default();
    ledger.set_limits(1, PerWindow::new(LIMIT, LIMIT, LIMIT));
    let first = ledger.report(0, &of_prompt(1, 1, 200, &[], LIMIT));
    assert_eq!(first.allotted.prompt, LIMIT, "alone, it may have everything");
    let second = ledger.report(10, &of_prompt(2, 1, 200, &[], 100));
    assert_eq!((second.allotted.prompt, second.elsewhere.prompt), (0, LIMIT));
    let first = ledger.report(20, &of_prompt(1, 2, 200, &[(59, 300)], 0));
    assert_eq!((first.allotted.prompt, first.waiting.prompt), (300, 1), "it hears that somebody waits, and gives back");
    let second = ledger.report(30, &of_prompt(2, 2, 200, &[], LIMIT));
    assert_eq!((second.allotted.prompt, second.elsewhere.prompt), (700, 300));
    // A minute later, of the silent first one nothing is left.
    let second = ledger.report(60_020, &of_prompt(2, 3, 200, &[], LIMIT));
    assert_eq!((second.allotted.prompt, second.elsewhere.prompt), (LIMIT, 0));
}

#[test]
fn a_lease_that_is_not_reported_on_is_spent_for_a_minute_after_its_end() {
    let mut ledger = Ledger::default();
    ledger.set_limits(1, PerWindow::new(LIMIT, LIMIT, LIMIT));
    ledger.report(0, &of_prompt(1, 1, 200, &[(9, 50)], 400));
    let counted = |ledger: &mut Ledger, sequence, now_ms| {
        ledger.report(now_ms, &of_prompt(2, sequence, 1, &[], 0)).elsewhere.prompt
    };
    assert_eq!(counted(&mut ledger, 1, 199), 450);
    assert_eq!(counted(&mut ledger, 2, 9_999), 450);
    assert_eq!(counted(&mut ledger, 3, 10_000), 400, "what it reported has left");
    assert_eq!(counted(&mut ledger, 4, 60_199), 400);
    assert_eq!(counted(&mut ledger, 5, 60_200), 0);
}

#[test]
fn those_who_wait_share_what_is_left() {
    let mut ledger = Ledger::default();
    ledger.set_limits(1, PerWindow::new(LIMIT, LIMIT, LIMIT));
    ledger.report(0, &of_prompt(1, 1, 1_000, &[(59, 900)], 0));
    ledger.report(0, &of_prompt(2, 1, 1_000, &[(59, 90)], 500));
    let third = ledger.report(0, &of_prompt(3, 1, 1_000, &[], 500));
    assert_eq!((third.allotted.prompt, third.waiting.prompt), (0, 1));
    // The second has got the last ten and wants more; now a hundred are free.
    ledger.report(1, &of_prompt(1, 2, 1_000, &[(59, 800)], 0));
    let third = ledger.report(2, &of_prompt(3, 2, 1_000, &[], 500));
    assert_eq!(third.allotted.prompt, 50);
}

#[test]
fn without_limits_nothing_is_granted_and_older_ones_change_nothing() {
    let mut ledger = Ledger::default();
    let granted = ledger.report(0, &of_prompt(1, 1, 1_000, &[(5, 70)], 100));
    assert_eq!((granted.allotted.prompt, granted.version), (70, 0));
    assert!(ledger.set_limits(3, PerWindow::new(LIMIT, LIMIT, LIMIT)));
    assert!(!ledger.set_limits(3, PerWindow::new(5, 5, 5)) && !ledger.set_limits(2, PerWindow::new(5, 5, 5)));
    let granted = ledger.report(0, &of_prompt(1, 2, 1_000, &[(5, 70)], 100));
    assert_eq!((granted.allotted.prompt, granted.version), (170, 3));
    // Limits that fall take nothing back of what is counted, and grant nothing on top.
    assert!(ledger.set_limits(4, PerWindow::new(50, 50, 50)));
    let granted = ledger.report(0, &of_prompt(1, 3, 1_000, &[(5, 70)], 100));
    assert_eq!(granted.allotted.prompt, 70);
}
