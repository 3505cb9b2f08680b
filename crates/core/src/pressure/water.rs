//! The squeeze: one water level for each window of a deployment, in the law's levels. What stands above it is cut to it.
//!
//! Every [`TICK`], at pressure P:
//!
//! - `P > 950`: where there is none, it starts at the level of the busiest account's use. Where there is one, it falls by
//!   `12 * min(1, (P - 950) / 100)` steps (3.5 % at most), but not below the lowest floor among active accounts: below that it
//!   cuts nobody, and would only take longer to rise again.
//! - `P < 850`: it rises by 2 steps (0.6 %). An octave above the busiest account, or without an active one, it is dropped.
//! - Between the two it stays.
//!
//! The busiest account is that with the most tokens in its window, of the decisions on Standard requests of the last 10 to 20 s:
//! a maximum, so their order does not matter.

use core::time::Duration;

use super::seconds;
use crate::law::level::{self, STEPS_PER_OCTAVE};
use crate::law::{Bounds, Level};
use crate::time::Timestamp;

/// How often the water level moves: at whole multiples of this since the Unix epoch.
pub const TICK: Duration = Duration::from_secs(10);
const TICK_MICROS: u64 = seconds(10);

/// Pressure above which the water level falls, permille.
pub const LOWER_ABOVE: u32 = 950;
/// Pressure below which it rises, permille.
pub const RAISE_BELOW: u32 = 850;

/// Pressure above [`LOWER_ABOVE`] from which it falls at the full rate, permille.
const FULL_RATE: u32 = 100;
/// Steps that it falls in a tick at the full rate.
const LOWER: i32 = 12;
/// Steps that it rises in a tick.
const RAISE: i32 = 2;
/// The water level is counted in hundredths of a step, so that a part of a rate is exact.
const PARTS: i32 = 100;
/// The room above the busiest account at which nothing is squeezed any more.
const OCTAVE: i32 = STEPS_PER_OCTAVE.cast_signed();

/// The last tick, not after `now`.
pub(super) const fn tick_at(now: Timestamp) -> Timestamp {
    Timestamp::from_micros(now.as_micros() - now.as_micros() % TICK_MICROS)
}

/// The next tick after `now`.
pub(super) fn next_tick(now: Timestamp) -> Timestamp {
    tick_at(now).after(TICK)
}

/// What the decisions of late have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The level of the most tokens that an account's window carried.
    most: Level,
    /// The level of the lowest floor.
    floor: Level,
}

impl Seen {
    fn and(self, other: Self) -> Self {
        Self { most: self.most.max(other.most), floor: self.floor.min(other.floor) }
    }
}

/// The busiest account of the tick that runs, and of the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Busiest {
    ticks: [Option<(Timestamp, Seen)>; 2],
}

impl Busiest {
    pub(super) fn on_decision(&mut self, now: Timestamp, used: u64, bounds: &Bounds) {
        let tick = tick_at(now);
        let seen = Seen { most: level::of_tokens(used), floor: bounds.floor_level() };
        let [last, before] = &mut self.ticks;
        match last {
            Some((at, last)) if *at == tick => *last = last.and(seen),
            _ => (*before, *last) = (*last, Some((tick, seen))),
        }
    }

    /// What the two ticks before the one that begins `at` have shown.
    pub(super) fn seen(&self, at: Timestamp) -> Option<Seen> {
        let from = at.before(2 * TICK);
        let late = self.ticks.into_iter().flatten().filter(|(tick, _)| *tick >= from && *tick < at);
        late.map(|(_, seen)| seen).reduce(Seen::and)
    }
}

/// A water level, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Water {
    /// In hundredths of a step.
    parts: Option<i32>,
}

impl Water {
    pub(super) fn level(self) -> Option<Level> {
        self.parts.map(|parts| parts / PARTS)
    }

    pub(super) fn on_tick(&mut self, permille: u32, seen: Option<Seen>) {
        match (self.parts, seen) {
            (None, Some(seen)) if permille > LOWER_ABOVE => self.parts = Some(seen.most.max(seen.floor) * PARTS),
            (Some(parts), Some(seen)) if permille > LOWER_ABOVE => {
                let above = (permille - LOWER_ABOVE).min(FULL_RATE).cast_signed();
                let fall = LOWER * above * PARTS / FULL_RATE.cast_signed();
                self.parts = Some(parts.min((parts - fall).max(seen.floor * PARTS)));
            }
            (Some(parts), seen) if permille < RAISE_BELOW => {
                let risen = parts + RAISE * PARTS;
                let needed = seen.is_some_and(|seen| risen < (seen.most + OCTAVE) * PARTS);
                self.parts = needed.then_some(risen);
            }
            _ => {}
        }
    }
}
