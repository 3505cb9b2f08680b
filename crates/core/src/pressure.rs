//! Pressure: how busy the deployment behind a (model, variant) is, and what follows from it, mildest first.
//!
//! Gateways report, for each window, the permille of an objective (queue delay, time to the first token, KV cache in use; 1000
//! is at the objective). The largest report that still counts is the raw pressure; smoothed (`smooth`), it
//!
//! 1. brakes growth: [`Reading::brake`] is stored with settled tokens in the law;
//! 2. squeezes (`water`): above 950 a water level caps the effective limits of all accounts alike, never below a floor;
//! 3. sheds (`shed`): where it stays above 1100, requests within their limit are refused, Standard strictly before Priority.
//!
//! Without a report ever, none of this happens. When the reports end, limits neither grow nor are squeezed, and nothing is shed.
//!
//! Rejected: cutting every limit by one factor, which takes as much from an account at a tenth of its limit as from the one that
//! fills the machine; and counting accounts to share capacity out among them, which needs them all in one place. One cap for
//! all is the max-min fair share without counting.
//!
//! Everything is lazy and deterministic: a [`Deployment`] is a function of the reports, the decisions and `now`. Time is cut
//! into ticks of 10 s, and readings change at whole seconds and with reports, so it does not matter who looks when.

use alloc::vec::Vec;
use core::time::Duration;

use crate::law::{Bounds, Level};
use crate::time::{MICROS_PER_SECOND, Timestamp};
use crate::window::{PerWindow, Tokens, Window};

mod shed;
mod smooth;
mod water;

pub use shed::{PRIORITY_ALL, PRIORITY_FROM, STANDARD_ALL, STANDARD_FROM};
pub use water::{LOWER_ABOVE, RAISE_BELOW, TICK};

use crate::decision::ServiceTier;
use shed::Shed;
use smooth::Smoothed;
use water::{Busiest, Water};

/// The greatest pressure that can be reported, permille.
pub const MAX_PERMILLE: u32 = 1_000_000;

/// The brake of tokens that settle while no report counts any more, permille.
pub const FROZEN: u16 = u16::MAX;

/// Reporters of one deployment whose reports count at the same time; one more is refused.
pub const MOST_REPORTERS: usize = 64;

/// Shortest time that a report may count for.
pub const SHORTEST_TTL: Duration = Duration::from_secs(1);
/// How long a report counts that does not say.
pub const DEFAULT_TTL: Duration = Duration::from_secs(60);
/// Longest time that a report may count for.
pub const LONGEST_TTL: Duration = Duration::from_secs(600);

/// A window that nobody has reported on for so long is as if nobody ever had.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// One reporter's view of several deployments, parsed: every field is within its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// Who reports; 1 to 256 bytes of UTF-8.
    pub reporter: &'a str,
    /// How long it counts; [`SHORTEST_TTL`] to [`LONGEST_TTL`].
    pub ttl: Duration,
    /// Each deployment at most once.
    pub deployments: Vec<DeploymentReport<'a>>,
}

/// What a report says of one deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeploymentReport<'a> {
    /// The model; 1 to 256 bytes of UTF-8.
    pub model: &'a str,
    /// Its variant; empty for the regular one.
    pub variant: &'a str,
    /// Permille of the objective, at most [`MAX_PERMILLE`]; `None` says nothing and leaves what was said before.
    pub permille: PerWindow<Option<u32>>,
}

/// [`MOST_REPORTERS`] other reporters' reports count already; nothing changed. One of them must fall silent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyReporters;

/// What is known of a window's pressure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signal {
    /// Nobody ever reported, or nobody for a day.
    #[default]
    Off,
    /// There were reports, and none counts any more.
    Stale,
    /// The smoothed pressure, permille; at most [`MAX_PERMILLE`].
    Live(u32),
}

/// What one window of a deployment says at an instant: an input of decisions. The default says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    signal: Signal,
    water_level: Option<Level>,
    shed: Shed,
}

impl Reading {
    #[cfg(test)]
    pub(crate) fn new(signal: Signal, water_level: Option<Level>) -> Self {
        Self { signal, water_level, shed: Shed::default() }
    }

    /// After the pressure has stayed at `permille` for an hour.
    #[cfg(test)]
    pub(crate) fn shedding(permille: u32) -> Self {
        let mut shed = Shed::default();
        (0..360).for_each(|_| shed.on_tick(permille));
        Self { shed, ..Self::new(Signal::Live(permille), None) }
    }

    /// What is known of the pressure.
    #[must_use]
    pub const fn signal(&self) -> Signal {
        self.signal
    }

    /// The cap on effective limits, TPM; at least 1. `None`: nothing is squeezed.
    #[must_use]
    pub fn water_level_tpm(&self) -> Option<u64> {
        self.water_level.map(crate::law::level::tokens)
    }

    /// The pressure that brakes the law's growth, permille: 0 without reports, [`FROZEN`] once they are stale, which stops any
    /// growth, and less than that while one counts.
    #[must_use]
    pub fn brake(&self) -> u16 {
        match self.signal {
            Signal::Off => 0,
            Signal::Stale => FROZEN,
            Signal::Live(permille) => u16::try_from(permille).unwrap_or(FROZEN).min(FROZEN - 1),
        }
    }

    /// What is enforced of a published limit within `bounds`: the limit, or for Standard the water level where that is lower,
    /// and never less than the floor.
    #[must_use]
    pub fn effective_limit_tpm(&self, limit_tpm: u64, bounds: &Bounds, tier: ServiceTier) -> u64 {
        match (tier, self.water_level_tpm()) {
            (ServiceTier::Standard, Some(cap)) => limit_tpm.min(cap.max(bounds.floor_tpm())),
            _ => limit_tpm,
        }
    }

    /// The most tokens that its window may carry with a request that is not shed: 0 where all are shed, `None` where none is.
    #[must_use]
    pub fn sheds_above(&self, bounds: &Bounds, tier: ServiceTier) -> Option<u64> {
        self.shed.most(bounds, tier)
    }

    /// Whether a request is shed that fits, and with which its window would carry `tokens`.
    #[must_use]
    pub fn sheds(&self, tokens: u64, bounds: &Bounds, tier: ServiceTier) -> bool {
        self.shed.sheds(tokens, bounds, tier)
    }
}

/// What of a window's pressure is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Heard {
    #[default]
    Never,
    /// The last report that counted ended then.
    Until(Timestamp),
    Live(Smoothed),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct WindowState {
    heard: Heard,
    water: Water,
    busiest: Busiest,
    shed: Shed,
}

/// A pressure that counts until an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    permille: u32,
    until: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reporter {
    name: u128,
    said: PerWindow<Option<Said>>,
}

/// The state of one deployment: at most [`MOST_REPORTERS`] reporters, and three windows that move independently.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deployment {
    now: Timestamp,
    reporters: Vec<Reporter>,
    windows: PerWindow<WindowState>,
    /// The next tick or end of a report, whichever is earlier. Nothing happens by itself before.
    next_at: Option<Timestamp>,
    readings: PerWindow<Reading>,
    /// The instant that `readings` are of.
    read_at: Timestamp,
}

impl Deployment {
    /// The most memory that one takes, bytes.
    pub const MOST_BYTES: usize = size_of::<Self>() + MOST_REPORTERS * size_of::<Reporter>();

    /// Takes what `reporter` (a hash of its name) says, in place of what it said before of the same windows; it counts for
    /// `ttl`. An earlier instant than the last call's counts as that.
    ///
    /// # Errors
    /// [`TooManyReporters`], and nothing was said.
    pub fn report(
        &mut self,
        now: Timestamp,
        reporter: u128,
        permille: PerWindow<Option<u32>>,
        ttl: Duration,
    ) -> Result<(), TooManyReporters> {
        if !self.has_room(now, reporter) {
            return Err(TooManyReporters);
        }
        let until = self.now.after(ttl);
        let known = self.reporters.iter().position(|known| known.name == reporter);
        let index = known.unwrap_or_else(|| {
            self.reporters.push(Reporter { name: reporter, said: PerWindow::default() });
            self.reporters.len() - 1
        });
        for (window, permille) in permille.iter() {
            if let Some(permille) = *permille {
                let permille = permille.min(MAX_PERMILLE);
                self.reporters[index].said[window] = Some(Said { permille, until });
            }
        }
        self.on_said();
        Ok(())
    }

    /// Whether a report of this reporter would be taken.
    #[must_use]
    pub fn has_room(&mut self, now: Timestamp, reporter: u128) -> bool {
        self.advance(now);
        self.reporters.len() < MOST_REPORTERS || self.reporters.iter().any(|known| known.name == reporter)
    }

    /// What each window says now: as of the last whole second, the last tick or the last report, whichever is latest. O(1)
    /// within a second.
    pub fn readings(&mut self, now: Timestamp) -> PerWindow<Reading> {
        self.advance(now);
        let second = Timestamp::from_seconds(self.now.as_seconds());
        if second > self.read_at {
            self.read(second);
        }
        self.readings
    }

    /// A Standard request was decided, and its account's windows carry `used` tokens, between these bounds: the busiest such
    /// account is where the water level starts. O(1).
    pub fn on_decision(&mut self, now: Timestamp, used: Tokens, bounds: &PerWindow<Bounds>) {
        self.advance(now);
        for window in Window::ALL {
            self.windows[window].busiest.on_decision(self.now, used[window], &bounds[window]);
        }
    }

    /// Whether nobody has reported for [`FORGOTTEN_AFTER`]: forgetting the deployment cannot be observed.
    #[must_use]
    pub fn is_forgotten(&mut self, now: Timestamp) -> bool {
        self.readings(now);
        self.windows.iter().all(|(_, state)| self.signal(state) == Signal::Off)
    }

    /// Runs what happens by itself until `now`: ends of reports and ticks, in their order. However late, that is at most a tick
    /// for each 10 s of the longest TTL, and an end for each report; then no report counts, and nothing more happens.
    fn advance(&mut self, now: Timestamp) {
        while let Some(at) = self.next_at.filter(|at| *at <= now) {
            self.now = self.now.max(at);
            let is_tick = at == water::tick_at(at);
            // What ends at a tick still counts in it.
            if is_tick {
                for window in Window::ALL {
                    self.windows[window].on_tick(at);
                }
            }
            self.on_said();
        }
        self.now = self.now.max(now);
    }

    /// Forgets what has ended, and takes up what is left of the raw pressures.
    fn on_said(&mut self) {
        let now = self.now;
        let mut raw: PerWindow<Option<u32>> = PerWindow::default();
        let mut ends: Option<Timestamp> = None;
        for reporter in &mut self.reporters {
            for window in Window::ALL {
                let said = &mut reporter.said[window];
                *said = said.filter(|said| said.until > now);
                if let Some(said) = *said {
                    raw[window] = raw[window].max(Some(said.permille));
                    ends = Some(ends.map_or(said.until, |ends| ends.min(said.until)));
                }
            }
        }
        self.reporters.retain(|reporter| reporter.said != PerWindow::default());
        for window in Window::ALL {
            self.windows[window].on_raw(now, raw[window]);
        }
        self.next_at = ends.map(|ends| ends.min(water::next_tick(now)));
        self.read(now);
    }

    fn read(&mut self, at: Timestamp) {
        self.read_at = at;
        self.readings = PerWindow::from_fn(|window| {
            let state = &self.windows[window];
            Reading { signal: self.signal(state), water_level: state.water.level(), shed: state.shed }
        });
    }

    fn signal(&self, state: &WindowState) -> Signal {
        match state.heard {
            Heard::Never => Signal::Off,
            Heard::Until(end) if self.read_at >= end.after(FORGOTTEN_AFTER) => Signal::Off,
            Heard::Until(_) => Signal::Stale,
            Heard::Live(smoothed) => Signal::Live(smoothed.permille(self.read_at)),
        }
    }
}

impl WindowState {
    fn on_raw(&mut self, now: Timestamp, raw: Option<u32>) {
        match (&mut self.heard, raw) {
            (Heard::Live(smoothed), Some(raw)) => smoothed.turn(now, raw),
            // After a silence nothing is left to smooth with.
            (_, Some(raw)) => self.heard = Heard::Live(Smoothed::new(now, raw)),
            (Heard::Live(_), None) => {
                *self = Self { heard: Heard::Until(now), busiest: self.busiest, ..Self::default() };
            }
            (_, None) => {}
        }
    }

    fn on_tick(&mut self, at: Timestamp) {
        if let Heard::Live(smoothed) = self.heard {
            let permille = smoothed.permille(at);
            self.water.on_tick(permille, self.busiest.seen(at));
            self.shed.on_tick(permille);
        }
    }
}

/// Microseconds of a whole number of seconds.
const fn seconds(count: u64) -> u64 {
    count * MICROS_PER_SECOND
}

#[cfg(test)]
mod tests;
