use proptest::prelude::*;
use std::vec::Vec;

use core::time::Duration;

use super::*;
use crate::forecast::MARKS;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + millis)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The course of a stream that produces `rate` tokens a second until it has produced `total`.
fn steady(total: u64, rate: u64, variance: u64) -> Course {
    let mut course = Course { total, reach: rate * 60, most: total, ..Course::default() };
    for (mark, seconds) in MARKS.into_iter().enumerate() {
        course.produced[mark] = (rate * seconds).min(total) << TOKEN_DIGITS;
        course.variance[mark] = variance * seconds / 60;
    }
    course
}

impl Hold {
    /// The model: what this hold alone is expected to have produced by `then`, seen from `now`; straight lines between the
    /// marks, the first one continued back if the course begins later, less what fading has taken so far (contract C7).
    pub(crate) fn expected(&self, now: Timestamp, then: Timestamp) -> f64 {
        if self.tokens == 0 || now.as_seconds() >= self.gone {
            return 0.0;
        }
        let elapsed = then.since(self.since).as_secs_f64() - self.since.since(then).as_secs_f64();
        let (mut produced, mut from) = (self.base as f64, 0.0);
        for (slope, mark) in self.slopes.into_iter().zip(MARKS) {
            let mark = mark as f64;
            let from_here = elapsed.min(mark) - from;
            produced += slope.produced as f64 * if from > 0.0 { from_here.max(0.0) } else { from_here };
            from = mark;
        }
        let top = self.top.produced as f64 / SECOND as f64;
        let faded = now.as_seconds().saturating_sub(self.fades_from) as f64 / (self.gone - self.fades_from) as f64;
        (produced - top * faded) / f64::from(1 << TOKEN_DIGITS)
    }
}

#[test]
fn a_hold_is_produced_as_its_course_says() {
    let mut holds = Holds::default();
    holds.advance(at(0));
    holds.insert(&Hold::new(&steady(400, 100, 600), at(0), at(0), seconds(4)));
    let mut ahead = holds.ahead();
    let by: Vec<_> = [0, 500, 1_000, 2_500, 4_000, 5_000, 60_000, 90_000].map(|ms| ahead.by(at(ms)).tokens).into();
    assert_eq!(by, [0, 50, 100, 250, 400, 400, 400, 400]);
    assert_eq!(holds.ahead().by(at(30_000)).variance, 300);
    assert_eq!(holds.in_the_end(), Expected { tokens: 400, variance: 600 });
    assert_eq!((holds.held(), holds.reach()), (400, 6_000));
    assert_eq!(holds.most(), 400);
}

#[test]
fn a_report_within_a_second_starts_its_course_there() {
    let mut holds = Holds::default();
    holds.advance(at(700));
    holds.insert(&Hold::new(&steady(400, 100, 0), at(0), at(700), seconds(4)));
    let mut ahead = holds.ahead();
    let by: Vec<_> = [700, 1_000, 1_700, 3_700].map(|ms| ahead.by(at(ms)).tokens).into();
    // Fractions of a second have 8 binary digits, and tokens are rounded up.
    assert_eq!(by, [0, 31, 100, 300]);
}

#[test]
fn the_hold_of_a_silent_stream_fades_over_a_minute_or_twice_its_duration() {
    for (duration, fade) in [(10, 60), (40, 80)] {
        let mut holds = Holds::default();
        holds.advance(at(0));
        holds.insert(&Hold::new(&steady(1_000, 1_000 / duration, 9), at(0), at(0), seconds(duration)));
        holds.advance(at(1_000 * duration));
        assert_eq!(holds.held(), 1_000);
        holds.advance(at(1_000 * (duration + fade / 2)));
        assert_eq!(holds.held(), 500);
        assert!(holds.reach().abs_diff(30_000 / duration) <= 60, "{}", holds.reach());
        assert!((495..=505).contains(&holds.ahead().by(holds.now).tokens));
        holds.advance(at(1_000 * (duration + fade)));
        assert_eq!(holds.held(), 0);
        assert_eq!(holds, Holds { now: holds.now, ..Holds::default() });
    }
}

#[test]
fn a_silent_stream_is_believed_to_go_on_until_its_hold_has_faded() {
    let mut holds = Holds::default();
    holds.advance(at(0));
    let hold = Hold::new(&steady(100, 10, 0), at(0), at(0), seconds(10));
    holds.insert(&hold);
    holds.advance(at(8_000));
    let course = steady(1_000, 10, 0);
    let silent = hold.silent(80, &course, at(8_000));
    holds.remove(&hold);
    holds.insert(&silent);
    assert_eq!((holds.held(), holds.ahead().by(at(8_000)).tokens, holds.ahead().by(at(18_000)).tokens), (100, 80, 180));
    // Half of the fading from 10 s to 70 s has passed: half of what its pace allows for is believed, and half of what follows.
    holds.advance(at(40_000));
    holds.remove(&silent);
    let silent = silent.silent(400, &course, at(40_000));
    holds.insert(&silent);
    assert_eq!(
        (holds.held(), holds.ahead().by(at(40_000)).tokens, holds.ahead().by(at(50_000)).tokens),
        (50, 200, 250)
    );
    holds.advance(at(70_000));
    assert_eq!(holds, Holds { now: holds.now, ..Holds::default() });
}

#[test]
fn many_holds_alike_are_looked_at_as_one() {
    let (mut together, mut alone) = (Holds::default(), Holds::default());
    let hold = Hold::new(&steady(1_000, 50, 900), at(0), at(500), seconds(20));
    for holds in [&mut together, &mut alone] {
        holds.advance(at(200));
        [7, 300, 1_000].into_iter().for_each(|tokens| holds.insert_like(&hold, tokens));
        assert_eq!(holds.held(), 1_307);
    }
    for (now, unreported) in [(4_000, 200), (30_000, 1_500)] {
        let silent = |hold: &Hold| hold.silent(unreported, &steady(400, 50, 100), at(now));
        together.advance(at(now));
        together.replace_silent(&hold, &silent(&hold), 3);
        alone.advance(at(now));
        for _ in 0..3 {
            alone.replace_silent(&hold, &silent(&hold), 1);
        }
        assert_eq!(together, alone);
        for holds in [&mut together, &mut alone] {
            holds.replace_silent(&silent(&hold), &hold, 3);
        }
    }
    for tokens in [7, 300, 1_000] {
        together.remove_like(&hold, tokens);
    }
    assert_eq!(together, Holds { now: together.now, ..Holds::default() });
}

#[test]
fn a_hold_does_not_fade_before_its_expected_end() {
    let mut holds = Holds::default();
    holds.advance(at(999));
    holds.insert(&Hold::new(&steady(6_000, 3_000, 0), at(999), at(999), Duration::from_millis(1_999)));
    // Half a second into the fading of a minute that begins at 2.998 s.
    holds.advance(at(3_500));
    assert!(holds.held() >= 5_950, "{} held", holds.held());
}

#[test]
fn what_lies_ahead_is_not_believed_less_for_lying_ahead() {
    let mut holds = Holds::default();
    holds.advance(at(0));
    holds.insert(&Hold::new(&steady(100, 50, 0), at(0), at(0), seconds(2)));
    assert_eq!(holds.ahead().by(at(55_000)).tokens, 100);
}

#[test]
fn reach_falls_when_streams_are_expected_to_end() {
    let mut holds = Holds::default();
    holds.advance(at(0));
    for duration in [5, 10] {
        holds.insert(&Hold::new(&steady(duration * 10, 10, 0), at(0), at(0), seconds(duration)));
    }
    assert_eq!(holds.reach_at_most_from(1_200), Some(at(0)));
    assert_eq!(holds.reach_at_most_from(600), Some(at(5_000)));
    assert_eq!(holds.reach_at_most_from(599), Some(at(10_000)));
    // One should have ended and has not been heard of: it fades to nothing at 65 s.
    holds.advance(at(6_000));
    assert_eq!(holds.reach_at_most_from(700), Some(at(10_000)));
    assert_eq!(holds.reach_at_most_from(500), Some(at(65_000)));
}

proptest! {
    /// The aggregate expects what the holds one by one do, and removing them all leaves nothing behind.
    #[test]
    fn the_aggregate_is_the_sum_of_the_holds(
        steps in prop::collection::vec(
            (0_u64..20_000, 0_u64..1 << 21, 1_u64..2_000, 1_u64..200, 0..4, any::<prop::sample::Index>()), 1..60,
        ),
    ) {
        let (mut holds, mut live, mut now) = (Holds::default(), Vec::<Hold>::new(), 0);
        for (wait, total, rate, remaining, action, which) in steps {
            now += wait;
            holds.advance(at(now));
            if action == 0 && !live.is_empty() {
                let hold = live.swap_remove(which.index(live.len()));
                holds.remove(&hold);
            } else if action == 1 && !live.is_empty() {
                let index = which.index(live.len());
                let hold = &mut live[index];
                let silent = hold.silent(rate * remaining, &steady(total, rate, total), at(now));
                holds.replace_silent(hold, &silent, 1);
                *hold = silent;
            } else {
                let hold = Hold::new(&steady(total, rate, total), at(now.saturating_sub(5_000)), at(now), seconds(remaining));
                holds.insert(&hold);
                live.push(hold);
            }
            let mut ahead = holds.ahead();
            for then in (0..=60_000).step_by(370).map(|ms| at(now + ms)) {
                let model: f64 = live.iter().map(|hold| hold.expected(at(now), then)).sum();
                // A bend between two seconds is shared between them, fractions of a second have 8 binary digits.
                let bend: f64 = live.iter().map(|hold| hold.slopes[0].produced as f64 / f64::from(1 << TOKEN_DIGITS)).sum();
                let by = ahead.by(then).tokens as f64;
                prop_assert!(by + bend / 4.0 + 1.0 >= model, "{by} < {model}");
                prop_assert!(by <= model + bend / 256.0 + live.len() as f64 + 1.0, "{by} > {model}");
            }
            let held: u64 = live.iter().filter(|hold| hold.end > at(now).as_seconds()).map(|hold| hold.tokens).sum();
            prop_assert!(holds.held() >= held);
        }
        for hold in live.drain(..) {
            holds.remove(&hold);
        }
        prop_assert_eq!(&holds, &Holds { now: holds.now, ..Holds::default() }, "nothing is left by rounding");
    }
}

/// What is read from a disk may be anything: a hold whose fading begins in the future, though it should have ended, would take
/// from the sum before it began.
#[test]
fn a_hold_that_fades_from_a_look_in_the_future_is_none() {
    let hold = Hold::new(&steady(400, 100, 600), at(0), at(0), seconds(4));
    let looked_at = |second: u64| {
        let mut hold = hold;
        hold.fades_from = at(second * 1_000).as_seconds();
        hold
    };
    assert!(hold.is_possible(at(0)) && hold.is_possible(at(20_000)));
    assert!(looked_at(20).is_possible(at(20_000)), "it was looked at, and goes on");
    assert!(!looked_at(21).is_possible(at(20_000)));
    assert!(!looked_at(3).is_possible(at(20_000)), "not before its end");
    let silent = hold.silent(10, &steady(400, 100, 600), at(20_000));
    assert!(silent.fades_from > hold.end && silent.is_possible(at(20_000)));
}
