//! A fleet with everything that goes wrong in one, against a ledger that knows what each sidecar really admitted.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::law::Bounds;

const LIMIT: u64 = 1_000;

/// When the tests begin: the data are old enough by then.
const START_MS: u64 = 1_000_000;

/// Epochs after the tests, so that nobody has to move the law on.
const FAR: u64 = 1 << 40;

fn bounds(floor: u64, ceiling: u64) -> PerWindow<Bounds> {
    PerWindow::from_fn(|_| Bounds::new(floor, ceiling).expect("in order"))
}

/// A law that comes to this limit.
fn law_of(version: u64, epoch: u64, limit: u64) -> KnownLaw {
    KnownLaw {
        version,
        policy: 0,
        law: Law::new(epoch, &bounds(limit, limit)),
        limits: PerWindow::new(limit, limit, limit),
    }
}

fn with_limit() -> Ledger {
    let mut ledger = Ledger::default();
    assert!(ledger.set_law(0, law_of(1, FAR, LIMIT)));
    ledger
}

/// A report as these tests make them, `now_ms` after their start.
fn report(ledger: &mut Ledger, now_ms: u64, report: &Report<'_>) -> Granted {
    ledger.report(START_MS + now_ms, report).expect("nothing was lost")
}

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

    fn room(&self, now_ms: u64) -> u64 {
        if now_ms < self.until_ms { self.allotted.saturating_sub(self.used(now_ms)) } else { 0 }
    }

    /// Admits so much of what it may, permille; the fleet must still be within its limit.
    fn admit(&mut self, now_ms: u64, share: u64, truth: &mut Vec<(u64, u64)>) -> Result<(), TestCaseError> {
        let tokens = self.room(now_ms) * share / 1_000;
        if tokens > 0 {
            self.charges.push((now_ms, tokens));
            truth.push((now_ms, tokens));
            let in_window = truth.iter().filter(|(at, _)| at + 60_000 > now_ms);
            let counted: u64 = in_window.map(|(_, tokens)| tokens).sum();
            prop_assert!(counted <= LIMIT, "{counted} in a minute");
        }
        Ok(())
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
        /// Of what it may still admit, what it keeps for requests that come meanwhile, permille.
        kept: u64,
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
        prop_oneof![4 => 1..2_000_u64, 1 => 1..60_000_u64],
        0..=1_000_u64,
        0..300_u64,
        0..300_u64,
        prop::bool::weighted(0.1),
    );
    prop_oneof![
        3 => (1..4_000_u64).prop_map(Step::Wait),
        1 => prop_oneof![20_000..70_000_u64, 59_000..61_000_u64].prop_map(Step::Wait),
        8 => (0..4_usize, prop_oneof![Just(1_000_u64), 1..1_000_u64]).prop_map(|(who, share)| Step::Ask(who, share)),
        6 => report.prop_map(|(who, wants, ttl_ms, kept, there_ms, back_ms, lost)| {
            Step::Report { who, wants, ttl_ms, kept, there_ms, back_ms, lost }
        }),
        1 => (0..4_usize).prop_map(Step::Repeat),
        1 => (0..4_usize).prop_map(Step::Kill),
    ]
}

fn of_prompt<'a>(incarnation: u64, sequence: u64, ttl_ms: u64, needs: Leaving<'a>, wants: u64) -> Report<'a> {
    Report {
        life: 0,
        incarnation,
        sequence,
        acknowledged: 0,
        phase_seconds: 0,
        ttl_ms,
        needs: PerWindow::new(needs, &[], &[]),
        wants: PerWindow::new(wants, 0, 0),
        least: PerWindow::default(),
        waits: true,
        seen: PerWindow::default(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 400 } else { 20_000 }))]

    /// Whatever is lost, late, repeated or killed: in no trailing minute does the fleet admit more than the limit.
    #[test]
    fn a_fleet_never_admits_more_than_the_limit(steps in prop::collection::vec(step(), 1..120)) {
        let mut ledger = with_limit();
        let mut now_ms = START_MS;
        let mut gateways: Vec<Gateway> = alloc::vec![Gateway::default(); 4];
        let mut lives = [0_u64; 4];
        let mut truth: Vec<(u64, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(span) => now_ms += span,
                Step::Ask(who, share) => gateways[who].admit(now_ms, share, &mut truth)?,
                Step::Report { who, wants, ttl_ms, kept, there_ms, back_ms, lost } => {
                    let gateway = &mut gateways[who];
                    gateway.sequence += 1;
                    let (mut leaving, asked_ms) = (gateway.leaving(now_ms), now_ms);
                    let spare = gateway.room(now_ms) * kept / 1_000;
                    // It may be admitted at the end of the new lease still, and nobody may hear of it.
                    leaving.push((u32::try_from(ttl_ms.div_ceil(1_000)).expect("a minute") + 60, spare));
                    let said = of_prompt(lives[who] * 4 + who as u64, gateway.sequence, ttl_ms, &leaving, wants);
                    // Until it knows what it was granted, it counts on no more than it said.
                    gateway.allotted = gateway.allotted.min(gateway.used(now_ms) + spare);
                    now_ms += there_ms;
                    gateway.admit(now_ms, 700, &mut truth)?;
                    let granted = ledger.report(now_ms, &said).expect("nothing was lost");
                    now_ms += back_ms;
                    gateways[who].admit(now_ms, 1_000, &mut truth)?;
                    if !lost {
                        gateways[who].allotted = granted.allotted.prompt;
                        gateways[who].until_ms = asked_ms + ttl_ms;
                    }
                }
                Step::Repeat(who) => {
                    let gateway = &gateways[who];
                    let incarnation = lives[who] * 4 + who as u64;
                    let said = of_prompt(incarnation, gateway.sequence, 60_000, &[], LIMIT);
                    // One whose sidecar was forgotten is taken in: it only takes from the others, for a while.
                    if ledger.sidecars.get(&incarnation).is_some_and(|sidecar| !sidecar.is_over(now_ms)) {
                        let granted = ledger.report(now_ms, &said).expect("nothing was lost");
                        prop_assert!(granted.left_ms < 60_000, "a repeated report renews nothing");
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
    let mut ledger = with_limit();
    let first = report(&mut ledger, 0, &of_prompt(1, 1, 200, &[], LIMIT));
    assert_eq!(first.allotted.prompt, LIMIT, "alone, it may have everything");
    let second = report(&mut ledger, 10, &of_prompt(2, 1, 200, &[], 100));
    assert_eq!((second.allotted.prompt, second.elsewhere.prompt), (0, LIMIT));
    let first = report(&mut ledger, 20, &of_prompt(1, 2, 200, &[(59, 300)], 0));
    assert_eq!((first.allotted.prompt, first.waiting.prompt), (300, 1), "it hears that somebody waits, and gives back");
    let second = report(&mut ledger, 30, &of_prompt(2, 2, 200, &[], LIMIT));
    assert_eq!((second.allotted.prompt, second.elsewhere.prompt), (700, 300));
    // A minute later, of the silent first one nothing is left.
    let second = report(&mut ledger, 60_020, &of_prompt(2, 3, 200, &[], LIMIT));
    assert_eq!((second.allotted.prompt, second.elsewhere.prompt), (LIMIT, 0));
}

#[test]
fn a_lease_that_is_not_reported_on_is_spent_for_a_minute_after_its_end() {
    let mut ledger = with_limit();
    report(&mut ledger, 0, &of_prompt(1, 1, 200, &[(9, 50)], 400));
    let counted = |ledger: &mut Ledger, sequence, now_ms| {
        report(ledger, now_ms, &of_prompt(2, sequence, 1, &[], 0)).elsewhere.prompt
    };
    assert_eq!(counted(&mut ledger, 1, 199), 450);
    assert_eq!(counted(&mut ledger, 2, 9_999), 450);
    assert_eq!(counted(&mut ledger, 3, 10_000), 400, "what it reported has left");
    assert_eq!(counted(&mut ledger, 4, 60_199), 400);
    assert_eq!(counted(&mut ledger, 5, 60_200), 0);
}

#[test]
fn those_who_wait_share_what_is_left() {
    let mut ledger = with_limit();
    report(&mut ledger, 0, &of_prompt(1, 1, 1_000, &[(59, 900)], 0));
    report(&mut ledger, 0, &of_prompt(2, 1, 1_000, &[(59, 90)], 500));
    let third = report(&mut ledger, 0, &of_prompt(3, 1, 1_000, &[], 500));
    assert_eq!((third.allotted.prompt, third.waiting.prompt), (0, 1));
    // The second has got the last ten and wants more; now a hundred are free.
    report(&mut ledger, 1, &of_prompt(1, 2, 1_000, &[(59, 800)], 0));
    let third = report(&mut ledger, 2, &of_prompt(3, 2, 1_000, &[], 500));
    assert_eq!(third.allotted.prompt, 50);
}

#[test]
fn what_leaves_within_a_lease_may_be_used_again_and_counts_for_a_minute_after_it() {
    let mut ledger = with_limit();
    // All that it has leaves within the lease, and what it admits in its place nobody hears of: it dies.
    report(&mut ledger, 0, &of_prompt(1, 1, 5_000, &[(1, 600), (4, 100), (5, 50)], 250));
    let counted = |ledger: &mut Ledger, sequence, now_ms| {
        report(ledger, now_ms, &of_prompt(2, sequence, 1, &[], 0)).elsewhere.prompt
    };
    assert_eq!(counted(&mut ledger, 1, 4_999), 1_000);
    assert_eq!(counted(&mut ledger, 2, 5_000), 1_000);
    assert_eq!(counted(&mut ledger, 3, 6_000), 950, "what it said to leave then was in its window at the end");
    assert_eq!(counted(&mut ledger, 4, 64_999), 950);
    assert_eq!(counted(&mut ledger, 5, 65_000), 0);
}

#[test]
fn what_leaves_in_the_second_in_which_a_lease_ends_may_have_been_used_again() {
    let mut ledger = with_limit();
    // It leaves somewhere within the second, perhaps before the lease ends.
    report(&mut ledger, 0, &of_prompt(1, 1, 400, &[(0, 600), (30, 100)], 300));
    let counted = |ledger: &mut Ledger, sequence, now_ms| {
        report(ledger, now_ms, &of_prompt(2, sequence, 1, &[], 0)).elsewhere.prompt
    };
    assert_eq!(counted(&mut ledger, 1, 1_000), 1_000);
    assert_eq!(counted(&mut ledger, 2, 60_399), 900);
    assert_eq!(counted(&mut ledger, 3, 60_400), 0);
}

#[test]
fn without_a_law_nothing_is_granted_and_who_wrote_first_wins() {
    let mut ledger = Ledger::default();
    let granted = report(&mut ledger, 0, &of_prompt(1, 1, 1_000, &[(5, 70)], 100));
    assert_eq!((granted.allotted.prompt, granted.law), (70, None));
    assert!(ledger.set_law(0, law_of(3, FAR, LIMIT)));
    assert!(!ledger.set_law(0, law_of(4, FAR, 5)) && !ledger.set_law(3, law_of(3, FAR, 5)));
    let granted = report(&mut ledger, 0, &of_prompt(1, 2, 1_000, &[(5, 70)], 100));
    assert_eq!((granted.allotted.prompt, granted.law), (170, Some(law_of(3, FAR, LIMIT))));
    // Limits that fall take nothing back of what is counted, and grant nothing on top.
    assert!(ledger.set_law(3, law_of(4, FAR, 50)));
    let granted = report(&mut ledger, 0, &of_prompt(1, 3, 1_000, &[(5, 70)], 100));
    assert_eq!(granted.allotted.prompt, 70);
}

#[test]
fn a_law_whose_epoch_is_over_grants_nothing_and_takes_nothing_in() {
    let mut ledger = Ledger::default();
    // The first epoch of the tests begins at 960 s and closes at 1,020 s.
    assert!(ledger.set_law(0, law_of(1, START_MS / 60_000, LIMIT)));
    let saw = |settled, denied| PerWindow {
        prompt: Seen { settled, arrived: 0, denied, pressure: 5 },
        ..PerWindow::default()
    };
    let ask = |sequence, seen| Report { seen, ..of_prompt(1, sequence, 1_000, &[], 100) };
    let first = report(&mut ledger, 0, &ask(1, saw(30, false)));
    let second = report(&mut ledger, 19_999, &ask(2, saw(50, true)));
    let state = |granted: &Granted| granted.law.expect("known").law.windows.prompt;
    assert!(first.is_current() && second.is_current());
    assert_eq!((state(&first).u, state(&second).u, state(&second).den, state(&second).br), (30, 50, true, 5));
    let over = report(&mut ledger, 20_000, &ask(3, saw(80, true)));
    assert!(!over.is_current());
    assert_eq!((over.allotted.prompt, state(&over).u), (0, 50));
    // Somebody moves it on; what was not taken in is new then, and nothing else.
    assert!(ledger.set_law(1, law_of(2, over.epoch, LIMIT)));
    let after = report(&mut ledger, 20_001, &ask(4, saw(80, false)));
    assert_eq!((after.allotted.prompt, state(&after).u, state(&after).den), (100, 30, false));
}

#[test]
fn a_sidecar_that_was_forgotten_adds_only_what_had_not_arrived() {
    let mut ledger = with_limit();
    let saw =
        |settled, arrived| PerWindow { prompt: Seen { settled, arrived, ..Seen::default() }, ..PerWindow::default() };
    let u = |granted: Granted| granted.law.expect("known").law.windows.prompt.u;
    let ask = |sequence, seen| Report { seen, ..of_prompt(1, sequence, 1_000, &[], 0) };
    assert_eq!(u(report(&mut ledger, 0, &ask(1, saw(70, 0)))), 70);
    assert_eq!(u(report(&mut ledger, 1, &ask(2, saw(70, 0)))), 70, "an answer that was lost changes nothing");
    assert_eq!(u(report(&mut ledger, 200_000, &ask(3, saw(75, 70)))), 75);
}

#[test]
fn where_data_were_lost_nothing_is_granted_until_all_have_had_the_time_to_say_what_they_have() {
    let mut ledger = with_limit();
    let first = of_prompt(1, 5, 1_000, &[(59, 10)], 100);
    assert_eq!(ledger.report(START_MS, &Report { acknowledged: 4, ..first }), Err(Lost), "it is behind what was said");
    assert_eq!(ledger.report(START_MS, &Report { life: 7, ..first }), Err(Lost));
    ledger.begin(7, START_MS);
    assert_eq!(ledger.report(START_MS, &first), Err(Lost), "an old life is over");
    let granted = report(&mut ledger, SILENCE_MS - 1, &Report { life: 7, ..first });
    assert_eq!(granted.allotted.prompt, 10);
    let granted = report(&mut ledger, SILENCE_MS, &Report { life: 7, sequence: 6, acknowledged: 5, ..first });
    assert_eq!(granted.allotted.prompt, 110);
}

#[test]
fn whoever_is_short_is_told_when_what_the_others_have_leaves() {
    let mut ledger = with_limit();
    report(&mut ledger, 0, &of_prompt(1, 1, 1_000, &[(10, 300), (30, 500)], 50));
    let frees_ms = |needs: &[(u32, u64)], least| {
        let short = Report { least: PerWindow::new(least, 0, 0), ..of_prompt(2, 1, 400, needs, 900) };
        let granted = report(&mut ledger.clone(), 2_000, &short);
        assert_eq!(granted.frees_ms.uncached_prompt, 0, "nobody waits for it");
        granted.frees_ms.prompt
    };
    assert_eq!(frees_ms(&[], 0), 0, "nobody waits");
    // 800 are needed there, and 50 that were granted may have been used until a minute after the lease.
    assert_eq!(frees_ms(&[], 150), 0, "it is free");
    assert_eq!(frees_ms(&[], 151), 9_000, "11 s after the report");
    assert_eq!(frees_ms(&[], 450), 9_000);
    assert_eq!(frees_ms(&[], 451), 29_000);
    assert_eq!(frees_ms(&[], 951), 59_000, "a minute after the lease");
    assert_eq!(frees_ms(&[], 1_001), 0, "never");
    // What leaves here makes room as well.
    assert_eq!(frees_ms(&[(4, 100), (7, 20)], 100), 5_000);
    assert_eq!(frees_ms(&[(4, 100), (7, 20)], 140), 8_000);
    let mut none = Ledger::default();
    let short = Report { least: PerWindow::new(1, 1, 1), ..of_prompt(2, 1, 400, &[(4, 100)], 900) };
    assert_eq!(report(&mut none, 0, &short).frees_ms, PerWindow::default(), "no law is known");
}
