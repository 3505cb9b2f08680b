//! Shedding: what is left when the squeeze is not enough. A request that fits its limit is refused where its account stands
//! further above its floor than a line.
//!
//! How far an account stands above its floor is a ratio: the tokens that its window would carry with the request, over the
//! floor. The line of Standard falls from 16 floors over one floor, half way, to 1/16 of a floor, evenly on a scale of ratios;
//! at the end of its way all of Standard is refused. Only then the line of Priority goes the same way, so no Priority request is
//! ever refused while a Standard request would pass.
//!
//! How far the lines may go is a matter of the pressure: that of Standard goes from [`STANDARD_FROM`] to [`STANDARD_ALL`], that of
//! Priority from [`PRIORITY_FROM`] to [`PRIORITY_ALL`]. They go there in ticks, slower than the pressure may jump, so that the
//! squeeze and the accounts furthest above their floors come first.
//!
//! Rejected: refusing a random share of requests, which makes small accounts pay for large ones, and makes clients try again.
//! And going as far as the pressure says at once, which refuses accounts within their floors for the minutes that the squeeze takes.

use crate::decision::ServiceTier;
use crate::law::Bounds;
use crate::law::level::{self, STEPS_PER_OCTAVE};

/// Pressure above which Standard is shed, permille.
pub const STANDARD_FROM: u32 = 1_100;
/// Pressure from which all of Standard is shed, permille.
pub const STANDARD_ALL: u32 = 1_500;
/// Pressure above which Priority is shed, permille.
pub const PRIORITY_FROM: u32 = 2_000;
/// Pressure from which all of Priority is shed, permille.
pub const PRIORITY_ALL: u32 = 2_500;

/// Where a line begins: four octaves above the floor.
const TOP: i32 = 4 * STEPS_PER_OCTAVE.cast_signed();
/// The way of a line, to as far below the floor.
const WAY: i32 = 2 * TOP;
/// Steps that a line goes in a tick at least, 17 %.
const SLOW: i32 = 64;
/// Steps that a line goes in a tick at most, and that it returns.
const FAST: i32 = 256;

/// How far shedding has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shed {
    /// Steps that the line of Standard has gone, and after [`WAY`] that of Priority.
    gone: i32,
}

impl Shed {
    pub(super) fn on_tick(&mut self, permille: u32) {
        let most = way(permille, STANDARD_FROM, STANDARD_ALL) + way(permille, PRIORITY_FROM, PRIORITY_ALL);
        self.gone = if most <= self.gone {
            most.max(self.gone - FAST)
        } else if self.gone < WAY {
            // At 1500 twice as fast as at 1100, at 2300 four times.
            let above = (permille - STANDARD_FROM).min(1_200).cast_signed();
            most.min(WAY).min(self.gone + SLOW + SLOW * above / 400)
        } else {
            most.min(self.gone + SLOW)
        };
    }

    /// The most tokens with which a window passes, 0 where none does; `None` where nothing is refused. For people.
    pub(super) fn most(self, bounds: &Bounds, tier: ServiceTier) -> Option<u64> {
        match self.gone(tier) {
            ..=0 => None,
            WAY.. => Some(0),
            gone => Some(level::tokens(bounds.floor_level() + TOP - gone + 1).saturating_sub(1)),
        }
    }

    /// Whether a request is refused with which its window would carry `tokens`.
    pub(super) fn sheds(self, tokens: u64, bounds: &Bounds, tier: ServiceTier) -> bool {
        let gone = self.gone(tier);
        gone >= WAY || gone > 0 && level::of_tokens(tokens) - bounds.floor_level() > TOP - gone
    }

    /// Steps that the line of this service tier has gone; none where that is not above 0.
    fn gone(self, tier: ServiceTier) -> i32 {
        match tier {
            ServiceTier::Standard => self.gone.min(WAY),
            ServiceTier::Priority => self.gone - WAY,
        }
    }
}

/// How far a line may go at a pressure.
fn way(permille: u32, from: u32, all: u32) -> i32 {
    // At most the way times 500.
    WAY * (permille.clamp(from, all) - from).cast_signed() / (all - from).cast_signed()
}
