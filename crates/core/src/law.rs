//! Today's limits: the law that moves every limit between its floor and its ceiling as settled usage moves.
//!
//! Levels are integers on a grid of 240 steps per octave ([`level`]), time is a count of epochs of one minute. Each window
//! has a limit level `p`, which climbs towards `headroom` x what was settled in the minute; a reserve level `v` above it,
//! which rises fast and sinks slowly and keeps the limit up; and a proven level `q`, to which a limit may return faster.
//!
//! Rejected: growth by demand or by denials (an account would climb to its ceiling without a single settled token);
//! the peak of the last hour (a step of 20x in minutes, at almost no cost to an abuser); AIMD, PID and CUBIC (they forget
//! within minutes and fail every bursty account); and floating point with a timer per key (idle time is one integer
//! subtraction here, so evaluating lazily equals evaluating every minute, exactly, on every machine and in every store).
//!
//! The equations are those of `docs/law.md`. Everything is O(1), saturates, and is independent of call order in an epoch.

use minicbor::{Decode, Encode};

use crate::MAX_TOKENS;
use crate::record::record;
use crate::time::Timestamp;
use crate::window::{PerWindow, Tokens, Window};

pub mod boost;
pub mod explain;
pub mod history;
pub mod level;
pub mod params;

pub use boost::{Boosts, Lift, NO_BOOSTS};
pub use level::Level;
pub use params::{Knobs, LawError, LawParams, MaxStep, Steps, profile};

/// Length of an epoch, seconds.
pub const EPOCH_SECONDS: u64 = 60;

/// The epoch that `now` lies in: whole minutes of `now + phase_seconds`, counted from the Unix epoch; saturates.
///
/// The phase (hash of the key modulo 60, by convention) keeps the limits of all keys from moving in the same second.
#[must_use]
pub const fn epoch_at(now: Timestamp, phase_seconds: u64) -> u64 {
    now.as_seconds().saturating_add(phase_seconds) / EPOCH_SECONDS
}

/// The bounds of one window's limit, TPM, after all overrides are merged: `1 <= floor <= ceiling <= MAX_TOKENS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    floor_tpm: u64,
    ceiling_tpm: u64,
    // Kept because every decision needs both, and finding a level costs eight probes of the table.
    floor_level: Level,
    ceiling_level: Level,
}

impl Bounds {
    /// The bounds `[floor_tpm, ceiling_tpm]`; `None` unless `1 <= floor_tpm <= ceiling_tpm <= MAX_TOKENS`.
    #[must_use]
    pub const fn new(floor_tpm: u64, ceiling_tpm: u64) -> Option<Self> {
        if floor_tpm < 1 || ceiling_tpm < floor_tpm || MAX_TOKENS < ceiling_tpm {
            return None;
        }
        Some(Self {
            floor_tpm,
            ceiling_tpm,
            floor_level: level::of_tokens(floor_tpm),
            // One above the level of the ceiling, so that a ceiling between two levels can be reached.
            ceiling_level: level::of_tokens(ceiling_tpm) + 1,
        })
    }

    /// Lower bound of the limit, TPM.
    #[must_use]
    pub const fn floor_tpm(&self) -> u64 {
        self.floor_tpm
    }

    /// Upper bound of the limit, TPM.
    #[must_use]
    pub const fn ceiling_tpm(&self) -> u64 {
        self.ceiling_tpm
    }

    /// The lowest level: the greatest whose tokens are at most the floor.
    #[must_use]
    pub const fn floor_level(&self) -> Level {
        self.floor_level
    }

    /// The highest limit level: one above the greatest whose tokens are at most the ceiling.
    #[must_use]
    pub const fn ceiling_level(&self) -> Level {
        self.ceiling_level
    }
}

/// The law's state of one window. Levels are steps of 1/240 octave; the letters are those of `docs/law.md`.
///
/// The fields are public for the stores. Any values are safe: [`Law::advance`] clamps the levels before it uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct WindowLaw {
    /// Limit level, within floor and ceiling.
    #[n(0)]
    pub p: Level,
    /// Reserve level, `p` to ceiling + `reserve`: while it is high, the limit does not fall.
    #[n(1)]
    pub v: Level,
    /// Proven level, within floor and ceiling: up to here the limit returns at the faster rate.
    #[n(2)]
    pub q: Level,
    /// Tokens settled in the open epoch; saturates.
    #[n(3)]
    pub u: u64,
    /// Whether the open epoch saw a denial of a request that fits the limit.
    #[n(4)]
    pub den: bool,
    /// Greatest pressure that the open epoch saw, permille.
    #[n(5)]
    pub br: u16,
}

record!(WindowLaw { p, v, q, u, den, br });

impl WindowLaw {
    /// Levels of a single token, and nothing seen: for what is read piece by piece.
    pub const EMPTY: Self = Self { p: 0, v: 0, q: 0, u: 0, den: false, br: 0 };

    /// The default state: every level at the floor, nothing seen. A window that nobody stored is in exactly this state.
    #[must_use]
    pub const fn new(bounds: &Bounds) -> Self {
        let floor = bounds.floor_level;
        Self { p: floor, v: floor, q: floor, u: 0, den: false, br: 0 }
    }

    /// Takes the levels into changed bounds (and into a changed `reserve`). Changes nothing where they did not change.
    fn clamp(&mut self, bounds: &Bounds, steps: &Steps) {
        let (floor, ceiling) = (bounds.floor_level, bounds.ceiling_level);
        self.p = self.p.clamp(floor, ceiling);
        self.v = self.v.clamp(floor, ceiling + steps.reserve);
        self.q = self.q.clamp(floor, ceiling);
    }

    /// Whether [`WindowLaw::clamp`] would change nothing.
    fn is_within(&self, bounds: &Bounds, reserve: Level) -> bool {
        let (floor, ceiling) = (bounds.floor_level, bounds.ceiling_level);
        let lowest = self.p.min(self.v).min(self.q);
        floor <= lowest && self.p.max(self.q) <= ceiling && self.v <= ceiling + reserve
    }

    /// Moves from the open epoch `from` to the later epoch `to`.
    fn advance(&mut self, from: u64, to: u64, bounds: &Bounds, steps: &Steps) {
        let mut from = from;
        // The pressure counts as well: in an epoch without tokens it must not survive into a later one.
        if self.u > 0 || self.den || self.br > 0 {
            self.close(from, bounds, steps);
            from += 1; // from < to
        }
        self.idle(from, to, bounds, steps);
    }

    /// Closes the open epoch `epoch`, in which something was seen.
    fn close(&mut self, epoch: u64, bounds: &Bounds, steps: &Steps) {
        let (floor, ceiling) = (bounds.floor_level, bounds.ceiling_level);
        let used = self.u.min(level::tokens(self.p));
        let recommended = level::of_tokens(self.recommended(steps.headroom_permille));

        let reserve = recommended + steps.reserve;
        self.v = if reserve > self.v { reserve.min(self.v + steps.rise) } else { reserve.max(self.v - steps.decay) };
        self.v = self.v.clamp(floor, ceiling + steps.reserve);

        // A denial lets the limit climb to the reserve, but only usage makes it climb.
        let target = if self.den { recommended.max(self.v) } else { recommended };
        if used > 0 && target > self.p {
            self.p = target.min(self.highest_step(bounds, steps));
        }
        self.p = self.p.min(self.v).clamp(floor, ceiling);
        self.q = floor.max(self.p.min(recommended)).max(self.q.saturating_sub(steps.forgotten(epoch, epoch + 1)));
        self.u = 0;
        self.den = false;
        self.br = 0;
    }

    /// What the tokens settled so far recommend as a limit, TPM. A lump of late settlements counts as one minute at the limit,
    /// not as a proof of more.
    fn recommended(&self, headroom_permille: u32) -> u64 {
        self.u.min(level::tokens(self.p)).saturating_mul(u64::from(headroom_permille)) / 1_000
    }

    /// The level that one epoch of growth reaches at most: the braked ramp, or the braked return as far as is proven.
    fn highest_step(&self, bounds: &Bounds, steps: &Steps) -> Level {
        let span = i32::from(steps.stop_permille) - i32::from(steps.slow_permille);
        let brake = (i32::from(steps.stop_permille) - i32::from(self.br)).clamp(0, span);
        let ramp = self.p + steps.growth * brake / span;
        let back = self.q.min(self.p + steps.return_growth * brake / span);
        let step = ramp.max(back);
        match steps.max_step.tokens(bounds.floor_tpm) {
            Some(tokens) => step.min(self.p.max(level::of_tokens(level::tokens(self.p).saturating_add(tokens)))),
            None => step,
        }
    }

    /// The epochs `from..to`, in which nothing was seen, at once.
    fn idle(&mut self, from: u64, to: u64, bounds: &Bounds, steps: &Steps) {
        let (floor, ceiling) = (bounds.floor_level, bounds.ceiling_level);
        let epochs = i32::try_from(to - from).unwrap_or(i32::MAX);
        self.v = floor.max(self.v.saturating_sub(steps.decay.saturating_mul(epochs)));
        self.p = self.p.min(self.v).clamp(floor, ceiling);
        self.q = floor.max(self.q.saturating_sub(steps.forgotten(from, to)));
    }

    fn limit_tpm(&self, bounds: &Bounds) -> u64 {
        level::tokens(self.p).clamp(bounds.floor_tpm, bounds.ceiling_tpm)
    }

    fn epochs_to_default(&self, bounds: &Bounds, steps: &Steps) -> u64 {
        let above = |top: Level| u64::try_from(i64::from(top) - i64::from(bounds.floor_level)).unwrap_or(0);
        let decay = u64::try_from(steps.decay).unwrap_or(1);
        let reserve = above(self.v.saturating_add(steps.rise)).div_ceil(decay);
        let proven = above(self.q.max(self.p.saturating_add(steps.return_growth)));
        let forget =
            proven.saturating_mul(steps.memory_half_life_epochs.into()).div_ceil(level::STEPS_PER_OCTAVE.into());
        reserve.max(forget).saturating_add(2)
    }
}

/// The law's state of a limit key: one epoch, three windows that move independently. Bounds and parameters are inputs of
/// every call, never state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Law {
    /// The open epoch, the one that settlements and denials count in. It never goes back.
    #[n(0)]
    pub epoch: u64,
    /// The state of each window.
    #[n(1)]
    pub windows: PerWindow<WindowLaw>,
}

record!(Law { epoch, windows });

impl Law {
    /// The default state, in `epoch`: every limit is its floor.
    #[must_use]
    pub fn new(epoch: u64, bounds: &PerWindow<Bounds>) -> Self {
        Self { epoch, windows: PerWindow::from_fn(|window| WindowLaw::new(&bounds[window])) }
    }

    /// Takes the state into `bounds` (at once, whatever the epoch), then closes the open epoch and moves to `epoch`.
    ///
    /// An `epoch` that is not later moves no time. O(1) for any distance, and the same state as minute by minute. Bounds
    /// between two calls never existed for the law.
    pub fn advance(&mut self, epoch: u64, bounds: &PerWindow<Bounds>, params: &LawParams) {
        let steps = params.steps();
        for window in Window::ALL {
            let (state, bounds) = (&mut self.windows[window], &bounds[window]);
            state.clamp(bounds, steps);
            if self.epoch < epoch {
                state.advance(self.epoch, epoch, bounds, steps);
            }
        }
        self.epoch = self.epoch.max(epoch);
    }

    /// Whether [`Law::advance`] to `epoch` would change nothing.
    pub(crate) fn is_at(&self, epoch: u64, bounds: &PerWindow<Bounds>, params: &LawParams) -> bool {
        let reserve = params.steps().reserve;
        epoch <= self.epoch && self.windows.iter().all(|(window, state)| state.is_within(&bounds[window], reserve))
    }

    /// Counts settled `tokens` in the open epoch, and the `pressure` (permille) of the deployment at that moment, which
    /// brakes the growth that this epoch earns. Sum and maximum, both saturating: the order in an epoch does not matter.
    /// Call [`Law::advance`] first.
    pub fn on_settled(&mut self, tokens: Tokens, pressure: PerWindow<u16>) {
        for window in Window::ALL {
            let state = &mut self.windows[window];
            state.u = state.u.saturating_add(tokens[window]);
            state.br = state.br.max(pressure[window]);
        }
    }

    /// Marks the open epoch: `window` denied an `ask` that fits its limit. A greater ask changes nothing, as no growth
    /// that it could validate would have admitted it. Call [`Law::advance`] first.
    pub fn on_denied(&mut self, window: Window, ask: u64, bounds: &Bounds) {
        let state = &mut self.windows[window];
        state.den |= ask <= state.limit_tpm(bounds);
    }

    /// The limit of `window`, TPM, always within `bounds`. As of the last [`Law::advance`]; constant within an epoch.
    #[must_use]
    pub fn limit_tpm(&self, window: Window, bounds: &Bounds) -> u64 {
        self.windows[window].limit_tpm(bounds)
    }

    /// Whether every window is in its default state, so that forgetting this law cannot be observed.
    #[must_use]
    pub fn is_default(&self, bounds: &PerWindow<Bounds>) -> bool {
        self.windows.iter().all(|(window, state)| *state == WindowLaw::new(&bounds[window]))
    }

    /// After how many epochs without a call, counted from [`Law::epoch`], the state is the default one for certain (it may
    /// be sooner). For the time to live of a stored key: 6 days with the default parameters and a ceiling of 50 floors.
    #[must_use]
    pub fn epochs_to_default(&self, bounds: &PerWindow<Bounds>, params: &LawParams) -> u64 {
        let of = |(window, state): (Window, &WindowLaw)| state.epochs_to_default(&bounds[window], params.steps());
        self.windows.iter().map(of).max().unwrap_or(0)
    }

    /// Lifts `window` to `limit_tpm` at once, clamped to `bounds`, and counts that as proven: for a planned launch. From
    /// then on the law goes on as if usage had earned it, without a hold. Never lowers a level.
    pub fn boost(&mut self, window: Window, limit_tpm: u64, bounds: &Bounds) {
        let target = boost::level_of(limit_tpm, bounds);
        let state = &mut self.windows[window];
        state.p = state.p.max(target);
        state.v = state.v.max(target);
        state.q = state.q.max(target);
    }
}

#[cfg(test)]
mod tests;
