//! The law's state read for people: what moves a limit, what holds it, and when it would come to another one.

use core::time::Duration;

use super::history::Applied;
use super::{EPOCH_SECONDS, Law, Lift, epoch_at, level};
use crate::window::{PerWindow, Tokens, Window};

/// How far ahead a limit is followed: a week.
const MOST_EPOCHS: u64 = 7 * 24 * 60;

/// What the limit does at the close of the open epoch, as far as is known now, or why it does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// It rises: the tokens settled so far recommend more.
    Grows,
    /// It rises toward the reserve: a request that would fit was denied, and tokens were settled.
    GrowsAfterDenial,
    /// It sinks: the reserve no longer carries it.
    Falls,
    /// A boost holds it up.
    Boosted,
    /// It is at its ceiling.
    AtCeiling,
    /// The law's profile does not grow.
    Static,
    /// No token was settled in this epoch.
    Idle,
    /// Tokens would make it grow; the pressure of the deployment does not let it.
    Braked,
    /// What was settled so far is too little to recommend more.
    UseTooLow,
}

/// The law's state of one window, in tokens per minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What it does next, or why nothing.
    pub motion: Motion,
    /// Tokens settled in the open epoch.
    pub settled_tokens: u64,
    /// What these recommend as a limit, before it is clamped; 0 without any.
    pub recommended_tpm: u64,
    /// The reserve: the limit falls only when this sinks below it. May be above the ceiling.
    pub reserve_tpm: u64,
    /// What the account has proven: up to here the limit returns faster.
    pub proven_tpm: u64,
    /// Greatest pressure at which tokens were settled in the open epoch, permille.
    pub brake_permille: u16,
    /// Whether the open epoch saw a denial of a request that fits the limit.
    pub denial_seen: bool,
    /// Tokens that must be settled within an epoch for the limit to grow by use; `None`: no use makes it grow.
    pub growth_needs_tokens: Option<u64>,
    /// The limit after the close of the open epoch if nothing else comes, TPM.
    pub next_limit_tpm: u64,
    /// Epochs without use for which the reserve still keeps the limit up.
    pub held_epochs: u64,
    /// The boost that is in force and highest, if any.
    pub boost: Option<Lift>,
}

impl Law {
    /// The state of `window` as of `applied.now`, to which the law has been advanced.
    #[must_use]
    pub fn reading(&self, window: Window, applied: &Applied<'_>) -> Reading {
        let (state, bounds, steps) = (&self.windows[window], &applied.bounds[window], applied.params.steps());
        let mut next = *self;
        next.step(applied);
        let (limit, next_limit) = (self.limit_tpm(window, bounds), next.limit_tpm(window, bounds));
        let recommended = state.recommended(steps.headroom_permille);
        let boost = self.live_boosts(window, applied).max_by_key(|lift| lift.limit_tpm);
        let grows_never = steps.return_growth == 0;
        let wants_more =
            state.u > 0 && (level::of_tokens(recommended) > state.p || (state.den && next.windows[window].v > state.p));
        let motion = if next_limit < limit {
            Motion::Falls
        } else if boost.is_some_and(|lift| lift.level(bounds) >= state.p) {
            Motion::Boosted
        } else if next_limit > limit {
            let by_use = level::of_tokens(recommended) >= next.windows[window].p;
            if by_use { Motion::Grows } else { Motion::GrowsAfterDenial }
        } else if limit >= bounds.ceiling_tpm() {
            Motion::AtCeiling
        } else if grows_never {
            Motion::Static
        } else if state.u == 0 {
            Motion::Idle
        } else if wants_more {
            Motion::Braked
        } else {
            Motion::UseTooLow
        };
        let needs = level::tokens(state.p + 1).saturating_mul(1_000).div_ceil(steps.headroom_permille.into());
        Reading {
            motion,
            settled_tokens: state.u,
            recommended_tpm: recommended,
            reserve_tpm: level::tokens(state.v).max(bounds.floor_tpm()),
            proven_tpm: level::tokens(state.q).clamp(bounds.floor_tpm(), bounds.ceiling_tpm()),
            brake_permille: state.br,
            denial_seen: state.den,
            growth_needs_tokens: (!grows_never && limit < bounds.ceiling_tpm()).then_some(needs),
            next_limit_tpm: next_limit,
            held_epochs: u64::try_from((state.v - state.p) / steps.decay).unwrap_or(0),
            boost,
        }
    }

    /// Boosts of `window` that hold in the open epoch.
    fn live_boosts<'a>(&self, window: Window, applied: &Applied<'a>) -> impl Iterator<Item = Lift> + use<'a> {
        let (epoch, phase) = (self.epoch, applied.phase_seconds);
        let lifts = applied.boosts.lifts().iter();
        lifts.filter(move |lift| lift.window == window && epoch <= epoch_at(lift.expires_at, phase)).copied()
    }

    /// Closes the open epoch, under the boosts.
    fn step(&mut self, applied: &Applied<'_>) {
        let start = applied.epoch_start(self.epoch + 1);
        self.advance_boosted(start, applied.phase_seconds, applied.bounds, applied.params, applied.boosts);
    }
}

/// A key's law and its present rate: what would come if everything went on as in the last minute. Small, so that it can be
/// followed without the key's lock.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// As of the last call.
    pub law: Law,
    /// Tokens per minute that go on being settled.
    pub rate: Tokens,
    /// The pressure that goes on, permille.
    pub brake: PerWindow<u16>,
}

impl Course {
    /// Time from now until the limit of `window` is `target_tpm` or beyond it, seen from where it is now; zero where it is
    /// that already, `None` where it never is within a week. Denials go on where the open epoch saw one, bounds and boosts
    /// stay as they are. At most some 10,000 steps.
    #[must_use]
    pub fn reaches(&self, window: Window, target_tpm: u64, applied: &Applied<'_>) -> Option<Duration> {
        let mut law = self.law;
        let bounds = &applied.bounds[window];
        let limit = law.limit_tpm(window, bounds);
        if limit == target_tpm {
            return Some(Duration::ZERO);
        }
        let there = |now: u64| if limit < target_tpm { now >= target_tpm } else { now <= target_tpm };
        let denied = law.windows[window].den;
        let left = applied.epoch_start(law.epoch + 1).since(applied.now).as_secs().min(EPOCH_SECONDS);
        // What is still to come of the open epoch, then whole ones.
        let mut share = left;
        for _ in 0..MOST_EPOCHS {
            let tokens = self.rate.map(|rate| part(rate, share));
            law.on_settled(tokens, self.brake);
            law.windows[window].den |= denied;
            let before = law.windows[window];
            law.step(applied);
            let after = law.windows[window];
            if there(law.limit_tpm(window, bounds)) {
                return Some(applied.epoch_start(law.epoch).since(applied.now));
            }
            let settled = share == EPOCH_SECONDS && (before.p, before.v) == (after.p, after.v);
            let boosts_end =
                self.law.live_boosts(window, applied).any(|lift| applied.epoch_start(law.epoch) <= lift.expires_at);
            if settled && !boosts_end {
                return None;
            }
            share = EPOCH_SECONDS;
        }
        None
    }
}

/// What of a rate comes in `seconds`, rounded down.
fn part(rate_per_minute: u64, seconds: u64) -> u64 {
    rate_per_minute.saturating_mul(seconds) / EPOCH_SECONDS
}

#[cfg(test)]
mod tests;
