use proptest::prelude::*;
use std::vec::Vec;

use super::*;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(1_000 + seconds)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_hold_is_produced_evenly_until_its_expected_end() {
    let mut holds = Holds::default();
    holds.advance(at(0));
    holds.insert(&Hold::new(100, 0, at(0), at(0), seconds(10)));
    assert_eq!(holds.production().take(12).collect::<Vec<_>>(), [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 100, 99]);
    assert_eq!(holds.held(), 100);
}

#[test]
fn the_hold_of_a_silent_stream_fades_over_a_minute_or_twice_its_duration() {
    for (duration, fade) in [(10, 60), (40, 80)] {
        let mut holds = Holds::default();
        holds.advance(at(0));
        holds.insert(&Hold::new(1_000, 9, at(0), at(0), seconds(duration)));
        holds.advance(at(duration));
        assert_eq!(holds.held(), 1_000);
        holds.advance(at(duration + fade / 2));
        assert_eq!(holds.held(), 500);
        assert_eq!(holds.variance(), 9);
        holds.advance(at(duration + fade));
        assert_eq!((holds.held(), holds.variance()), (0, 0));
        assert!(holds.is_empty());
    }
}

#[test]
fn a_hold_does_not_fade_before_its_expected_end() {
    let mut holds = Holds::default();
    let now = Timestamp::from_millis(1_000_999);
    holds.advance(now);
    holds.insert(&Hold::new(6_000, 0, now, now, Duration::from_millis(1_999)));
    // Half a second into the fading of a minute that begins at 1002.998 s.
    holds.advance(Timestamp::from_millis(1_003_500));
    assert!(holds.held() >= 5_950, "{} held", holds.held());
}

/// The model: one hold, straight from the words of contract C7, in exact fractions of 1/(end-since) and 1/(gone-end).
fn expected(hold: &Hold, second: u64) -> f64 {
    if hold.tokens == 0 || second >= hold.gone {
        return 0.0;
    }
    let tokens = hold.tokens as f64;
    if second >= hold.end {
        return tokens * (hold.gone - second) as f64 / (hold.gone - hold.end) as f64;
    }
    tokens * (second.saturating_sub(hold.since)) as f64 / (hold.end - hold.since) as f64
}

proptest! {
    /// The aggregate never expects less than the holds one by one, and at most a token for each more.
    #[test]
    fn the_aggregate_is_the_sum_of_the_holds(
        steps in prop::collection::vec((0_u64..20, 0_u64..1 << 40, 1_u64..200, any::<bool>(), any::<prop::sample::Index>()), 1..60),
    ) {
        let (mut holds, mut live, mut now) = (Holds::default(), Vec::<Hold>::new(), 0);
        for (wait, tokens, remaining, drop, which) in steps {
            now += wait;
            holds.advance(at(now));
            if drop && !live.is_empty() {
                let hold = live.swap_remove(which.index(live.len()));
                holds.remove(&hold);
            } else {
                let hold = Hold::new(tokens, u128::from(tokens), at(now.saturating_sub(5)), at(now), seconds(remaining));
                holds.insert(&hold);
                live.push(hold);
            }
            for (ahead, most) in holds.production().take(150).enumerate() {
                let second = 1_000 + now + ahead as u64;
                let sum = |second| live.iter().map(|hold| expected(hold, second)).sum::<f64>();
                let model = sum(second).max(sum(second + 1));
                let slack = 1.0 + live.len() as f64 + model * 1e-9;
                prop_assert!(most as f64 + model * 1e-9 + 0.01 >= model, "second {second}: {most} < {model}");
                prop_assert!(most as f64 <= model + slack, "second {second}: {most} > {model}");
            }
        }
        for hold in live.drain(..) {
            holds.remove(&hold);
        }
        prop_assert_eq!(holds.held(), 0);
        prop_assert_eq!(holds.variance(), 0);
        prop_assert!(holds.is_empty());
        prop_assert_eq!((holds.level, holds.slope), (Lines::default(), Lines::default()), "nothing is left by rounding");
    }
}
