use proptest::prelude::*;
use std::vec::Vec;

use super::*;
use crate::law::level;

const START: u64 = 1_700_000_000;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(START * 1_000 + millis)
}

fn bounds(floor: u64) -> PerWindow<Bounds> {
    PerWindow::from_fn(|_| Bounds::new(floor, floor * 100).expect("in range"))
}

fn all<T: Copy>(value: T) -> PerWindow<T> {
    PerWindow::new(value, value, value)
}

/// A deployment with one steady reporter and one busy account, played second by second.
#[derive(Default)]
struct Played {
    deployment: Deployment,
    second: u64,
}

impl Played {
    /// Plays on for `seconds` at a pressure and a use of the busiest account; returns the last reading.
    fn play(&mut self, seconds: u64, permille: u32, busiest: u64, floor: u64) -> Reading {
        for _ in 0..seconds {
            let now = at(self.second * 1_000);
            self.deployment.report(now, 1, all(Some(permille)), DEFAULT_TTL).expect("one reporter");
            self.deployment.on_decision(now, all(busiest), &bounds(floor));
            self.second += 1;
        }
        self.reading()
    }

    fn silence(&mut self, seconds: u64) -> Reading {
        self.second += seconds;
        self.reading()
    }

    fn reading(&mut self) -> Reading {
        self.deployment.readings(at(self.second * 1_000)).generated
    }
}

fn limit(reading: Reading, limit: u64, floor: u64) -> u64 {
    reading.effective_limit_tpm(limit, &bounds(floor).generated, ServiceTier::Standard)
}

#[test]
fn without_a_report_nothing_brakes_nothing_is_squeezed_and_nothing_is_shed() {
    let mut deployment = Deployment::default();
    let reading = deployment.readings(at(0)).prompt;
    assert_eq!((reading, reading.signal(), reading.brake()), (Reading::default(), Signal::Off, 0));
    assert_eq!(limit(reading, 5_000, 1_000), 5_000);
    assert!(!reading.sheds(1 << 40, &bounds(1).prompt, ServiceTier::Standard));
    let generated = PerWindow { generated: Some(2_000), ..PerWindow::default() };
    deployment.report(at(0), 1, generated, DEFAULT_TTL).expect("one reporter");
    assert_eq!(deployment.readings(at(0)).prompt.signal(), Signal::Off, "each window by itself");
    assert_eq!(deployment.readings(at(0)).generated.signal(), Signal::Live(2_000));
}

#[test]
fn of_several_reporters_the_busiest_counts_and_a_new_report_replaces_the_old_one() {
    let mut deployment = Deployment::default();
    let mut report = |now, reporter, permille| {
        deployment.report(now, reporter, all(Some(permille)), DEFAULT_TTL).expect("few reporters");
        deployment.readings(now).prompt.signal()
    };
    assert_eq!(report(at(0), 1, 700), Signal::Live(700));
    report(at(1_000), 2, 900);
    assert_eq!(report(at(21_000), 1, 100), Signal::Live(800), "half way from 700 to 900");
    assert_eq!(report(at(21_000), 2, 600), Signal::Live(800));
    assert_eq!(report(at(41_000), 2, 600), Signal::Live(700), "half way from 800 to 600");
}

#[test]
fn a_report_counts_for_its_ttl_and_then_nothing_grows_and_nothing_is_squeezed() {
    let mut played = Played::default();
    let squeezed = played.play(120, 1_050, 9_000, 1_000);
    assert!(limit(squeezed, 10_000, 1_000) < 9_000, "{squeezed:?}");
    let counts = played.silence(58);
    assert!(matches!(counts.signal(), Signal::Live(_)), "59 s after the last report");
    let stale = played.silence(1);
    assert_eq!(stale.signal(), Signal::Stale);
    assert_eq!(stale.brake(), u16::MAX, "no growth");
    assert_eq!(limit(stale, 10_000, 1_000), 10_000, "no squeeze");
    assert!(!stale.sheds(1 << 40, &bounds(1).generated, ServiceTier::Standard));
    assert_eq!(played.silence(3_600).signal(), Signal::Stale, "an hour later still");
    assert_eq!(played.silence(24 * 3_600).signal(), Signal::Off, "nobody for a day");
    assert!(played.deployment.is_forgotten(at(played.second * 1_000)));
}

#[test]
fn the_water_level_starts_at_the_busiest_account_and_falls_faster_the_higher_the_pressure() {
    let mut played = Played::default();
    assert_eq!(played.play(100, 950, 8_000, 1_000).water_level_tpm(), None, "at 950 nothing happens yet");
    let mut mild = Played::default();
    let start = mild.play(11, 1_000, 8_000, 1_000).water_level_tpm().expect("above 950");
    assert_eq!(start, level::tokens(level::of_tokens(8_000)));
    // Half the rate: 6 steps in 10 s.
    let after = mild.play(100, 1_000, 8_000, 1_000).water_level_tpm().expect("above 950");
    assert_eq!(after, level::tokens(level::of_tokens(8_000) - 60));
    let mut full = Played::default();
    full.play(11, 5_000, 8_000, 1_000);
    let after = full.play(100, 5_000, 8_000, 1_000).water_level_tpm().expect("above 950");
    assert_eq!(after, level::tokens(level::of_tokens(8_000) - 120));
}

#[test]
fn an_account_is_never_squeezed_below_its_floor_however_long_the_pressure_lasts() {
    let mut played = Played::default();
    for _ in 0..200 {
        let reading = played.play(30, 5_000, 8_000, 1_000);
        assert!(limit(reading, 10_000, 1_000) >= 1_000);
        assert!(limit(reading, 10_000, 6_000) >= 6_000);
    }
    let after = played.reading().water_level_tpm().expect("still active");
    assert!((990..=1_000).contains(&after), "below every floor it would only rise later: {after}");
}

#[test]
fn when_the_pressure_is_gone_the_squeeze_ends() {
    let mut played = Played::default();
    let low = played.play(120, 1_500, 8_000, 1_000).water_level_tpm().expect("squeezed");
    // It rises by two steps in 10 s once the smoothed pressure is below 850, while accounts use what they may.
    let later = played.play(120, 300, low, 1_000).water_level_tpm().expect("still squeezed");
    assert!(later > low && later < low * 11 / 10, "{low} {later}");
    // The busiest wants no more than 2,000: an octave above it is enough.
    played.play(1_200, 300, 2_000, 1_000);
    assert_eq!(played.reading().water_level_tpm(), None);
}

#[test]
fn between_the_thresholds_the_water_level_stays() {
    let mut played = Played::default();
    played.play(120, 1_500, 8_000, 1_000);
    let before = played.play(180, 900, 8_000, 1_000).water_level_tpm();
    assert!(before.is_some());
    assert_eq!(played.play(600, 900, 8_000, 1_000).water_level_tpm(), before);
}

/// The most that an account with a floor of 1,000 may use, in floors; `None`: nothing is shed.
fn line(reading: Reading, tier: ServiceTier) -> Option<f64> {
    let bounds = Bounds::new(1_000_000, 1 << 40).expect("in range");
    let passes = |tokens: u64| !reading.sheds(tokens, &bounds, tier);
    if passes(u64::MAX) {
        assert_eq!(reading.sheds_above(&bounds, tier), None);
        return None;
    }
    let (mut least, mut most) = (0, u64::MAX);
    while most - least > 1 {
        let middle = least + (most - least) / 2;
        if passes(middle) { least = middle } else { most = middle }
    }
    assert_eq!(reading.sheds_above(&bounds, tier), Some(least), "what is told is what is done");
    Some(least as f64 / 1e6)
}

#[test]
fn standard_goes_before_priority_and_accounts_far_above_their_floor_go_first() {
    let near = |permille, tier, floors: f64| {
        let line = line(Reading::shedding(permille), tier).expect("shed");
        assert!((line / floors - 1.0).abs() < 0.02, "{permille} {tier:?}: {line} floors, not {floors}");
    };
    for (permille, floors) in [(1_150, 8.0), (1_200, 4.0), (1_300, 1.0), (1_400, 0.25)] {
        near(permille, ServiceTier::Standard, floors);
        near(permille + (permille - 1_100) / 4 + 900, ServiceTier::Priority, floors);
        assert_eq!(line(Reading::shedding(permille), ServiceTier::Priority), None);
    }
    assert_eq!(line(Reading::shedding(1_100), ServiceTier::Standard), None);
    for permille in [1_500, 2_000] {
        assert_eq!(line(Reading::shedding(permille), ServiceTier::Standard), Some(0.0), "all, however little");
        assert_eq!(line(Reading::shedding(permille), ServiceTier::Priority), None);
    }
    assert_eq!(line(Reading::shedding(2_500), ServiceTier::Priority), Some(0.0));
}

#[test]
fn shedding_comes_step_by_step_and_goes_with_the_pressure() {
    let mut played = Played::default();
    let standard = |reading| line(reading, ServiceTier::Standard);
    assert_eq!(standard(played.play(9, 5_000, 8_000, 1_000)), None);
    // 16 floors less 256 steps for each tick, however high the pressure.
    let first = standard(played.play(1, 5_000, 8_000, 1_000)).expect("shed");
    assert!((7.0..8.0).contains(&first), "{first}");
    let third = standard(played.play(20, 5_000, 8_000, 1_000)).expect("shed");
    assert!((1.6..1.9).contains(&third), "{third}");
    // Priority only after the last of Standard, and slower.
    while standard(played.reading()) != Some(0.0) {
        assert_eq!(line(played.reading(), ServiceTier::Priority), None);
        played.play(1, 5_000, 8_000, 1_000);
    }
    assert_eq!(played.second, 80);
    assert_eq!(line(played.reading(), ServiceTier::Priority), None);
    let later = line(played.play(10, 5_000, 8_000, 1_000), ServiceTier::Priority).expect("shed");
    assert!((13.0..14.0).contains(&later), "{later}");
    // The smoothed pressure is below 1100 within a minute, and what was shed returns within another.
    let over = played.play(150, 300, 8_000, 1_000);
    assert_eq!((standard(over), line(over, ServiceTier::Priority)), (None, None));
}

#[test]
fn reporters_are_bounded_and_one_that_falls_silent_makes_room() {
    let mut deployment = Deployment::default();
    for reporter in 0..MOST_REPORTERS as u128 {
        let ttl = if reporter == 7 { SHORTEST_TTL } else { DEFAULT_TTL };
        deployment.report(at(0), reporter, all(Some(500)), ttl).expect("room");
    }
    let before = deployment.clone();
    assert_eq!(deployment.report(at(0), 999, all(Some(5_000)), DEFAULT_TTL), Err(TooManyReporters));
    assert_eq!(deployment, before);
    deployment.report(at(0), 3, all(Some(600)), DEFAULT_TTL).expect("it is known");
    deployment.report(at(1_000), 999, all(Some(400)), DEFAULT_TTL).expect("7 is silent");
    assert_eq!(deployment.reporters.len(), MOST_REPORTERS);
}

/// What may happen to a deployment.
#[derive(Clone, Debug)]
enum Event {
    Report { reporter: u128, permille: PerWindow<Option<u32>>, ttl_millis: u64 },
    Decide { used: u64, floor: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    let permille = || prop::option::weighted(0.8, prop_oneof![0_u32..2_500, 900_u32..1_000, Just(MAX_PERMILLE)]);
    let permille = (permille(), permille(), permille()).prop_map(|(a, b, c)| PerWindow::new(a, b, c));
    prop_oneof![
        2 => (0_u128..5, permille, 1_000_u64..90_000)
            .prop_map(|(reporter, permille, ttl_millis)| Event::Report { reporter, permille, ttl_millis }),
        3 => (1_u64..1 << 30, 1_u64..1 << 20).prop_map(|(used, floor)| Event::Decide { used, floor }),
    ]
}

fn apply(deployment: &mut Deployment, now: Timestamp, event: &Event) {
    match event {
        Event::Report { reporter, permille, ttl_millis } => {
            let ttl = Duration::from_millis(*ttl_millis);
            deployment.report(now, *reporter, *permille, ttl).expect("few reporters");
        }
        Event::Decide { used, floor } => deployment.on_decision(now, all(*used), &bounds(*floor)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whoever looks, and when, changes nothing; and what is enforced is always between the floor and the limit.
    #[test]
    fn looking_changes_nothing_and_effective_limits_stay_within_floor_and_limit(
        events in prop::collection::vec((0_u64..40_000, event()), 1..60),
        floor in 1_u64..1 << 30,
        above in 0_u64..1 << 30,
    ) {
        let (mut lazy, mut eager, mut now) = (Deployment::default(), Deployment::default(), 0);
        for (wait, event) in events {
            for millis in (now..now + wait).step_by(250) {
                eager.readings(at(millis));
            }
            now += wait;
            apply(&mut lazy, at(now), &event);
            apply(&mut eager, at(now), &event);
            prop_assert_eq!(&lazy.windows, &eager.windows);
            let (readings, again) = (lazy.readings(at(now)), eager.readings(at(now)));
            prop_assert_eq!(readings, again);
            for (_, reading) in readings.iter() {
                let bounds = Bounds::new(floor, floor + above).expect("in range");
                for published in [floor, floor + above / 2, floor + above] {
                    let effective = reading.effective_limit_tpm(published, &bounds, ServiceTier::Standard);
                    prop_assert!(floor <= effective && effective <= published);
                    prop_assert_eq!(reading.effective_limit_tpm(published, &bounds, ServiceTier::Priority), published);
                }
            }
        }
    }

    /// What happens at one instant may arrive in any order: the largest report counts, and the busiest account.
    #[test]
    fn the_order_within_an_instant_does_not_matter(
        before in prop::collection::vec((0_u64..20_000, event()), 0..20),
        mut together in prop::collection::vec(event(), 1..8).prop_shuffle(),
        later in 0_u64..60_000,
    ) {
        // A reporter's second report replaces its first: one for each.
        for (name, event) in together.iter_mut().enumerate() {
            if let Event::Report { reporter, .. } = event {
                *reporter = name as u128;
            }
        }
        let (mut forth, mut now) = (Deployment::default(), 0);
        for (wait, event) in before {
            now += wait;
            apply(&mut forth, at(now), &event);
        }
        let mut back = forth.clone();
        together.iter().for_each(|event| apply(&mut forth, at(now), event));
        together.iter().rev().for_each(|event| apply(&mut back, at(now), event));
        prop_assert_eq!(forth.readings(at(now + later)), back.readings(at(now + later)));
    }

    /// Whatever is passed in, in whatever order of time, nothing overflows.
    #[test]
    fn hostile_numbers_saturate(events in prop::collection::vec(
        (any::<u64>(), 0_u128..80, any::<u32>(), any::<u64>(), any::<u64>()), 1..100)) {
        let mut deployment = Deployment::default();
        let bounds = bounds(1);
        for (micros, reporter, permille, ttl, used) in events {
            let now = Timestamp::from_micros(micros % (1 << 40));
            let ttl = Duration::from_micros(ttl).min(LONGEST_TTL);
            let _ = deployment.report(now, reporter, all(Some(permille)), ttl);
            deployment.on_decision(now, all(used), &bounds);
            let readings: Vec<_> = deployment.readings(now).iter().map(|(_, reading)| *reading).collect();
            prop_assert_eq!(readings.len(), 3);
        }
        deployment.readings(Timestamp::MAX);
    }
}
