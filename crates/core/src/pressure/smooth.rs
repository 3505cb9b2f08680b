//! Smoothing: the raw pressure stays as it is between two reports, and the smoothed one follows it, as a charge follows a
//! voltage: `d smoothed / dt = (raw - smoothed) / 29 s`.
//!
//! Between two changes of the raw pressure that has an exact solution: the gap between the two halves every 20 s,
//! so `smoothed(t + d) = raw + (smoothed(t) - raw) * 2^(-d / 20 s)`, for gaps of any length. It is solved from the
//! last change each time; looking changes nothing.
//!
//! Rejected: a weight for each report, which lets a reporter that talks ten times as often count ten times as much.

use core::time::Duration;

use super::seconds;
use crate::law::level::{self, STEPS_PER_OCTAVE};
use crate::time::{Timestamp, micros};

/// In which a gap halves: a time constant of 29 s.
const HALF_LIFE_MICROS: u64 = seconds(20);

/// Binary digits behind the point of a smoothed permille.
const DIGITS: u32 = 16;

/// A smoothed pressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Smoothed {
    /// When the raw pressure changed before its last change.
    at: Timestamp,
    /// The smoothed one at that instant, with [`DIGITS`].
    value: u64,
    /// The raw one since then, permille.
    raw: u32,
    /// The last change, and the raw pressure since. Apart, so that several changes at one instant leave no trace but the last.
    turned: Option<(Timestamp, u32)>,
}

impl Smoothed {
    /// The first report: nothing to smooth with.
    pub(super) fn new(at: Timestamp, raw: u32) -> Self {
        Self { at, value: u64::from(raw) << DIGITS, raw, turned: None }
    }

    /// The raw pressure is `raw` from `now` on.
    pub(super) fn turn(&mut self, now: Timestamp, raw: u32) {
        if now <= self.at {
            // Of several first reports at one instant, none is the first.
            *self = Self::new(self.at, raw);
            return;
        }
        if let Some((at, raw)) = self.turned.filter(|(at, _)| *at < now) {
            *self = Self { at, value: self.value(at), raw, turned: None };
        }
        self.turned = (raw != self.raw).then_some((now, raw));
    }

    /// The smoothed pressure, permille, rounded.
    pub(super) fn permille(&self, now: Timestamp) -> u32 {
        let rounded = (self.value(now) + (1 << (DIGITS - 1))) >> DIGITS;
        u32::try_from(rounded).unwrap_or(u32::MAX)
    }

    fn value(&self, now: Timestamp) -> u64 {
        match self.turned {
            Some((at, raw)) if now > at => {
                let before = toward(self.raw, self.value, at.since(self.at));
                toward(raw, before, now.since(at))
            }
            _ => toward(self.raw, self.value, now.since(self.at)),
        }
    }
}

/// Where `value` is when the raw pressure has been `raw` for so long.
fn toward(raw: u32, value: u64, elapsed: Duration) -> u64 {
    let raw = u64::from(raw) << DIGITS;
    let gap = faded(value.abs_diff(raw), elapsed);
    if value > raw { raw + gap } else { raw - gap }
}

/// `gap * 2^(-elapsed / half-life)`, rounded down, from the table of levels with straight lines between its steps (off by
/// less than a millionth).
fn faded(gap: u64, elapsed: Duration) -> u64 {
    let elapsed = micros(elapsed);
    let octaves = u32::try_from(elapsed / HALF_LIFE_MICROS).unwrap_or(u32::MAX);
    let steps = elapsed % HALF_LIFE_MICROS * u64::from(STEPS_PER_OCTAVE);
    let (step, between) = (steps / HALF_LIFE_MICROS, steps % HALF_LIFE_MICROS);
    // 2^32 at step 0, 2^31 an octave later.
    let share = |step: u64| level::tokens(i32::try_from(u64::from(32 * STEPS_PER_OCTAVE) - step).unwrap_or(0));
    let (here, next) = (share(step), share(step + 1));
    let share = here - (here - next) * between / HALF_LIFE_MICROS;
    let left = (u128::from(gap) * u128::from(share)) >> 32;
    u64::try_from(left.checked_shr(octaves).unwrap_or(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    #[test]
    fn a_gap_halves_in_twenty_seconds() {
        let mut smoothed = Smoothed::new(at(0), 400);
        smoothed.turn(at(5_000), 1_200);
        let after = |seconds: u64| smoothed.permille(at(5_000 + seconds * 1_000));
        assert_eq!([0, 20, 40, 60, 1_000].map(after), [400, 800, 1_000, 1_100, 1_200]);
    }

    #[test]
    fn it_follows_the_exact_curve() {
        let mut smoothed = Smoothed::new(at(0), 1_000_000);
        smoothed.turn(at(1), 0);
        for millis in (0..200_000).step_by(37) {
            let exact = 1e6 * 2f64.powf(-(millis as f64) / 20_000.0);
            let got = f64::from(smoothed.permille(at(1 + millis)));
            assert!((got - exact).abs() <= 2.0, "{millis} ms: {got}, not {exact}");
        }
    }

    #[test]
    fn changes_close_together_are_worth_what_they_last() {
        // At 300 but for 100 ms at 3000, however often it is said.
        let mut smoothed = Smoothed::new(at(0), 300);
        for blip in 0..10 {
            smoothed.turn(at(1_000 + blip * 10), 3_000);
            smoothed.turn(at(1_009 + blip * 10), 2_999);
        }
        smoothed.turn(at(1_100), 300);
        // (3000 - 300) * (1 - 2^(-0.1 / 20)) = 9.3
        assert_eq!(smoothed.permille(at(1_100)), 309);
    }

    #[test]
    fn the_ends_saturate() {
        let mut smoothed = Smoothed::new(at(0), u32::MAX);
        smoothed.turn(at(1), 0);
        assert_eq!(smoothed.permille(Timestamp::MAX), 0);
        assert_eq!(smoothed.permille(Timestamp::ZERO), u32::MAX);
    }
}
