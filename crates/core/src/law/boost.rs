//! Boosts: limits that an operator raised until an instant.
//!
//! Until its end a boost lifts the levels `p`, `v` and `q` at every advance; from then on the law goes on from there. Lifting
//! once at the end of a span in which nothing was seen equals lifting in each of its epochs: idle levels sink by differences
//! of totals, and a sum of falls that is lifted in between ends at the higher of the lift and the sum. So a key that nobody
//! looks at until long after the end comes to the same limit as one that is looked at every minute.
//!
//! Rejected: a raised floor, which would be published as a promise, and whose end a key that sleeps would never see.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Bounds, Law, LawParams, Level, epoch_at, level};
use crate::time::Timestamp;
use crate::window::{PerWindow, Window};

/// One boost of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lift {
    /// Which window.
    pub window: Window,
    /// To where, TPM; clamped to the key's bounds.
    pub limit_tpm: u64,
    /// Until when. The epoch in which this lies counts whole: a limit does not move within an epoch.
    pub expires_at: Timestamp,
}

/// The boosts of a key, those that have ended included for as long as a key may not have seen their end. Cheap where there
/// are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boosts(Option<Arc<[Lift]>>);

/// No boosts.
pub static NO_BOOSTS: Boosts = Boosts(None);

impl Boosts {
    /// These, in any order.
    #[must_use]
    pub fn new(mut lifts: Vec<Lift>) -> Self {
        lifts.sort_by_key(|lift| lift.expires_at);
        Self((!lifts.is_empty()).then(|| lifts.into()))
    }

    /// The first to end first.
    #[must_use]
    pub fn lifts(&self) -> &[Lift] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Lift {
    /// The level that it lifts to.
    pub(super) fn level(&self, bounds: &Bounds) -> Level {
        level_of(self.limit_tpm, bounds)
    }
}

/// The lowest level of at least `limit_tpm`, clamped to `bounds`.
pub(super) fn level_of(limit_tpm: u64, bounds: &Bounds) -> Level {
    let below = level::of_tokens(limit_tpm);
    let exact = level::tokens(below) >= limit_tpm;
    if exact { below } else { below + 1 }.clamp(bounds.floor_level, bounds.ceiling_level)
}

impl Law {
    /// [`Law::advance`] to the epoch of `now`, under `boosts`. A boost that ended before [`Law::epoch`] changes nothing.
    pub fn advance_boosted(
        &mut self,
        now: Timestamp,
        phase_seconds: u64,
        bounds: &PerWindow<Bounds>,
        params: &LawParams,
        boosts: &Boosts,
    ) {
        for lift in boosts.lifts() {
            let end = epoch_at(lift.expires_at.min(now), phase_seconds);
            if self.epoch <= end {
                self.advance(end, bounds, params);
                self.boost(lift.window, lift.limit_tpm, &bounds[lift.window]);
            }
        }
        self.advance(epoch_at(now, phase_seconds), bounds, params);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::window::Tokens;

    fn at(minutes: u64) -> Timestamp {
        Timestamp::from_seconds(minutes * 60)
    }

    fn bounds() -> PerWindow<Bounds> {
        PerWindow::from_fn(|_| Bounds::new(1_000, 50_000).expect("in order"))
    }

    fn lift(limit_tpm: u64, expires_at: Timestamp) -> Lift {
        Lift { window: Window::Prompt, limit_tpm, expires_at }
    }

    /// The law of a key that used 1,000 tokens in minute 100, looked at at these minutes.
    fn seen_at(boosts: &Boosts, minutes: impl IntoIterator<Item = u64>) -> Law {
        let mut law = Law::new(100, &bounds());
        law.on_settled(Tokens::new(1_000, 0, 0), PerWindow::default());
        for minute in minutes {
            law.advance_boosted(at(minute), 0, &bounds(), &LawParams::DEFAULT, boosts);
        }
        law
    }

    #[test]
    fn a_sleeping_key_comes_to_the_limit_of_one_that_is_watched() {
        let cases = [
            vec![lift(10_000, at(160))],
            vec![lift(10_000, at(130)), lift(4_000, at(200))],
            vec![lift(4_000, at(130)), lift(10_000, at(200))],
            vec![lift(1, at(130)), lift(99_999, at(150))],
        ];
        for case in cases {
            let boosts = Boosts::new(case);
            for now in [101, 129, 130, 131, 150, 160, 161, 200, 201, 400, 5_000] {
                let watched = seen_at(&boosts, 101..=now);
                assert_eq!(seen_at(&boosts, [now]), watched, "{now} {boosts:?}");
                assert_eq!(seen_at(&boosts, [(100 + now) / 2, now]), watched, "{now} {boosts:?}");
            }
        }
    }

    #[test]
    fn it_stays_until_its_end_and_then_sinks_gently() {
        let boosts = Boosts::new(vec![lift(10_000, at(160))]);
        let limit = |minute| seen_at(&boosts, [minute]).limit_tpm(Window::Prompt, &bounds()[Window::Prompt]);
        for minute in [101, 130, 160] {
            assert!((10_000..=10_030).contains(&limit(minute)), "{minute}: {}", limit(minute));
        }
        let after = [161, 165, 220, 460].map(limit);
        assert!(after[0] > 9_800 && after.is_sorted_by(|one, other| one > other), "{after:?}");
        assert!((4_900..5_100).contains(&after[2]), "half in an hour: {after:?}");
        assert_eq!(after[3], 1_000, "the floor in the end");
        let other = seen_at(&boosts, [130]).limit_tpm(Window::Generated, &bounds()[Window::Generated]);
        assert_eq!(other, 1_000, "other windows stay");
    }

    #[test]
    fn above_the_ceiling_it_is_the_ceiling_and_below_the_limit_nothing() {
        let limit = |lift| {
            let law = seen_at(&Boosts::new(vec![lift]), [110]);
            law.limit_tpm(Window::Prompt, &bounds()[Window::Prompt])
        };
        assert_eq!(limit(lift(1 << 40, at(160))), 50_000);
        assert_eq!(limit(lift(1, at(160))), seen_at(&NO_BOOSTS, [110]).limit_tpm(Window::Prompt, &bounds().prompt));
    }
}
