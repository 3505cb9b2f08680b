use proptest::prelude::*;
use std::vec::Vec;

use super::*;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + millis)
}

#[test]
fn a_charge_leaves_the_window_sixty_seconds_later_and_not_before() {
    let mut charges = Charges::<1>::default();
    charges.charge(at(250), [7]);
    charges.expire(Timestamp::from_micros(at(60_250).as_micros() - 1));
    assert_eq!(charges.sum(), [7]);
    charges.expire(at(60_250));
    assert_eq!(charges.sum(), [0]);
    assert!(charges.is_empty());
}

#[test]
fn a_sub_bucket_leaves_with_its_newest_charge() {
    let mut charges = Charges::<2>::default();
    charges.charge(at(100), [5, 1]);
    charges.charge(at(120), [5, 1]);
    charges.expire(at(60_119));
    assert_eq!(charges.sum(), [10, 2], "counted 0.02 s too long, never too short");
    charges.expire(at(60_120));
    assert_eq!(charges.sum(), [0, 0]);
}

#[test]
fn a_correction_reaches_the_admission_while_it_is_in_the_window_and_never_after() {
    let mut charges = Charges::<1>::default();
    charges.charge(at(0), [100]);
    charges.correct(at(0), [100], [40]);
    assert_eq!(charges.sum(), [40]);
    charges.correct(at(0), [40], [90]);
    assert_eq!(charges.sum(), [90]);
    charges.expire(at(60_000));
    charges.correct(at(0), [90], [200]);
    assert_eq!(charges.sum(), [0]);
}

#[test]
fn output_is_spread_evenly_and_the_remainder_is_newest() {
    let mut charges = Charges::<1>::default();
    charges.spread(at(50), at(425), 100);
    let shares: Vec<_> = charges.departures().map(|(_, [tokens])| tokens).collect();
    assert_eq!(shares, [20, 33, 33, 14], "75 ms, two eighths of a second, 50 ms and the remainder");
}

#[test]
fn slow_output_is_spread_as_evenly_as_fast() {
    let mut charges = Charges::<1>::default();
    charges.spread(at(0), at(30_000), 30);
    charges.expire(at(75_000));
    assert_eq!(charges.sum(), [15], "half of it is still in the window");
}

#[test]
fn output_older_than_a_minute_does_not_count() {
    let mut charges = Charges::<1>::default();
    charges.spread(at(0), at(120_000), 1_200);
    assert_eq!(charges.sum(), [600]);
}

proptest! {
    /// The window never counts less than the true trailing minute, nor a charge an eighth of a second older.
    #[test]
    fn counting_errs_on_the_safe_side_by_less_than_a_sub_bucket(
        steps in prop::collection::vec((0_u64..3_000, 0_u64..1_000, 0_u64..90_000), 1..80),
    ) {
        let (mut charges, mut now, mut log) = (Charges::<1>::default(), 100_000, Vec::new());
        for (wait, tokens, back) in steps {
            now += wait;
            charges.expire(at(now));
            let from = now - back;
            charges.spread(at(from), at(now), tokens);
            // The model: each report's exact share, by the words of C3.
            log.push((from, now, tokens));
            let exact = |age: u64| -> f64 {
                log.iter().map(|&(from, to, tokens)| {
                    let cut = (now as f64) - (age as f64);
                    if to == from { return if (to as f64) > cut { tokens as f64 } else { 0.0 }; }
                    let inside = (to as f64 - cut.max(from as f64)).max(0.0);
                    tokens as f64 * inside / (to - from) as f64
                }).sum()
            };
            let counted = charges.sum()[0] as f64;
            // A token counts from when it is complete, so a report can leave one token uncounted at the window's far end.
            let rounding = log.len() as f64;
            prop_assert!(counted + rounding >= exact(60_000), "{counted} < {}", exact(60_000));
            prop_assert!(counted <= exact(60_125) + rounding, "{counted} > {}", exact(60_125));
            let parts: u64 = charges.departures().map(|(_, [tokens])| tokens).sum();
            prop_assert_eq!(parts, charges.sum()[0]);
        }
    }

    /// Whatever was charged before, a sub-bucket is found where it is, and a missing one goes where it belongs.
    #[test]
    fn sub_buckets_stay_in_order_and_each_token_is_in_its_own(charged in prop::collection::vec((0_u64..481, 1_u64..9), 1..200)) {
        let (mut charges, mut model) = (Charges::<1>::default(), std::collections::BTreeMap::<u64, u64>::new());
        for (eighth, tokens) in charged {
            charges.charge(at(eighth * 125), [tokens]);
            *model.entry(eighth).or_default() += tokens;
            prop_assert!(charges.correct(at(eighth * 125), [0], [1]));
            *model.entry(eighth).or_default() += 1;
        }
        let expected = model.into_iter().map(|(eighth, tokens)| (at(eighth * 125 + 60_000), [tokens]));
        prop_assert_eq!(charges.departures().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        prop_assert!(!charges.correct(at(481 * 125), [0], [1]));
    }

    /// Each sub-bucket gets what was complete by its end.
    #[test]
    fn a_spread_is_exact_in_every_sub_bucket(back in 1_u64..59_000, offset in 0_u64..125, tokens in 1_u64..1 << 40) {
        let (from, to) = (at(100_000 + offset - back), at(100_000 + offset));
        let mut charges = Charges::<1>::default();
        charges.spread(from, to, tokens);
        let mut before = 0;
        for (leaves_at, [counted]) in charges.departures() {
            let end = Timestamp::from_micros((number_at(leaves_at.before(WINDOW)) + 1) * SUB_BUCKET_MICROS).min(to);
            let by = u128::from(tokens) * u128::from(micros(end.since(from))) / u128::from(micros(to.since(from)));
            prop_assert_eq!(u128::from(before + counted), by);
            before += counted;
        }
        prop_assert_eq!(before, tokens);
    }

    /// Nothing is lost between the report and the window: a spread of at most a minute counts in full.
    #[test]
    fn a_spread_within_the_minute_counts_in_full(back in 0_u64..59_000, tokens in 0_u64..1 << 40) {
        let mut charges = Charges::<1>::default();
        charges.spread(at(100_000 - back), at(100_000), tokens);
        prop_assert_eq!(charges.sum()[0], tokens);
    }
}
