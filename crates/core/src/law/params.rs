//! The law's parameters: in steps, as the equations need them, and as knobs, as an operator names them.

use core::cmp::Ordering;
use core::fmt;
use core::time::Duration;

use super::level::{self, Level};
use crate::MAX_TOKENS;

/// Seconds in which a rate of one step per epoch moves an octave: the longest doubling or half-life of a level.
const OCTAVE_SECONDS: u32 = 240 * 60;

/// Longest memory, epochs: a year.
const MAX_MEMORY_EPOCHS: u32 = 366 * 24 * 60;

/// Greatest number of steps in any parameter: 40 octaves, the whole range of limits.
const MAX_STEPS: Level = 9_600;

/// Greatest headroom, permille.
const MAX_HEADROOM_PERMILLE: u32 = 10_000;

/// Most that a limit may gain in one epoch, in tokens per minute; on top of the rates, for very large accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaxStep {
    /// The rates alone.
    Off,
    /// This many tokens per minute, at least 1.
    Tokens(u64),
    /// This part of the window's floor, permille, rounded down, but at least 1 token: a straight ramp.
    PermilleOfFloor(u32),
}

impl MaxStep {
    /// The bound for a window with this floor, TPM; `None` where there is none.
    #[must_use]
    pub const fn tokens(self, floor_tpm: u64) -> Option<u64> {
        let tokens = match self {
            Self::Off => return None,
            Self::Tokens(tokens) => tokens,
            Self::PermilleOfFloor(permille) => floor_tpm.saturating_mul(permille as u64) / 1_000,
        };
        Some(if tokens == 0 { 1 } else { tokens })
    }
}

/// The parameters of the law as its equations use them: steps of 1/240 octave, per epoch (minute) where it is a rate.
/// The letters are those of `docs/law.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Steps {
    /// `gamma`: the limit aims at this multiple of the settled minute, permille; 1,000 to 10,000.
    pub headroom_permille: u32,
    /// `g`: growth per epoch, 1 to `return_growth`, and at most `log2(gamma)`; 0, with `return_growth` 0: no growth.
    pub growth: Level,
    /// `gf`: growth per epoch up to the proven level, `growth` to `rise`.
    pub return_growth: Level,
    /// `a`: rise of the reserve per used epoch, up to 9,600.
    pub rise: Level,
    /// `d`: fall of the reserve, and of a limit that it carries down, per epoch; 1 to 9,600.
    pub decay: Level,
    /// `R`: height of the reserve above the recommendation, up to 9,600; `gamma * 2^(R/240) > 2`.
    pub reserve: Level,
    /// Epochs in which the proven level falls by an octave, 1 to a year.
    pub memory_half_life_epochs: u32,
    /// Pressure up to which growth is full, permille; below `stop_permille`.
    pub slow_permille: u16,
    /// Pressure from which on there is no growth, permille.
    pub stop_permille: u16,
    /// Absolute bound of the growth per epoch.
    pub max_step: MaxStep,
}

impl Steps {
    /// Steps by which the proven level falls between two epochs, `from <= to`. A difference of totals, so that it does not
    /// depend on how the time is cut.
    pub(super) fn forgotten(&self, from: u64, to: u64) -> Level {
        let half_life = u128::from(self.memory_half_life_epochs);
        let total = |epoch: u64| u128::from(epoch) * u128::from(level::STEPS_PER_OCTAVE) / half_life;
        Level::try_from(total(to) - total(from)).unwrap_or(Level::MAX)
    }
}

/// Valid parameters of the law. Made by a profile, by [`Knobs::resolve`] or by [`TryFrom<Steps>`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LawParams(Steps);

impl LawParams {
    /// Profile `default`: doubles in 10 min of use, 10x in 34 min; holds for up to 45 min, then halves per 60 min.
    pub const DEFAULT: Self = Self(Steps {
        headroom_permille: 1_500,
        growth: 24,
        return_growth: 48,
        rise: 48,
        decay: 4,
        reserve: 180,
        memory_half_life_epochs: 24 * 60,
        slow_permille: 700,
        stop_permille: 850,
        max_step: MaxStep::Off,
    });

    /// Profile `published`: the default up to 3.3 floors, then a straight ramp of 0.23 floors per minute of use: 2x in
    /// 10 min, 12x in an hour, 24x in two.
    pub const PUBLISHED: Self = Self(Steps { max_step: MaxStep::PermilleOfFloor(230), ..Self::DEFAULT.0 });

    /// Profile `static`: nothing grows, so the limit stays the floor. A limit that another profile (or a boost) had raised
    /// sinks by the default's decay.
    pub const STATIC: Self = Self(Steps { growth: 0, return_growth: 0, ..Self::DEFAULT.0 });

    /// The parameters in steps.
    #[must_use]
    pub const fn steps(&self) -> &Steps {
        &self.0
    }
}

impl Default for LawParams {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The parameters of the profile with this name: `default`, `published` or `static`.
#[must_use]
pub fn profile(name: &str) -> Option<LawParams> {
    match name {
        "default" => Some(LawParams::DEFAULT),
        "published" => Some(LawParams::PUBLISHED),
        "static" => Some(LawParams::STATIC),
        _ => None,
    }
}

/// A parameter that the law does not accept. The operator's mistake; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LawError {
    /// The knob, by its operator name (a field of [`Knobs`]).
    pub field: &'static str,
    /// What it must be.
    pub message: &'static str,
}

impl fmt::Display for LawError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.message)
    }
}

impl core::error::Error for LawError {}

/// Fails with the knob and what it must be, unless `holds`.
fn require(holds: bool, field: &'static str, message: &'static str) -> Result<(), LawError> {
    if holds { Ok(()) } else { Err(LawError { field, message }) }
}

impl TryFrom<Steps> for LawParams {
    type Error = LawError;

    /// The checks of `docs/law.md`: ranges, `g <= gf <= a`, `g <= 240 log2(gamma)` (a step never overshoots what earned it),
    /// `slow < stop`, and `gamma * 2^(R/240) > 2` (equal requests of any size that fits never stall). Exact, in integers.
    fn try_from(steps: Steps) -> Result<Self, LawError> {
        let Steps { headroom_permille, growth, return_growth, rise, decay, reserve, .. } = steps;
        let headroom = (1_000..=MAX_HEADROOM_PERMILLE).contains(&headroom_permille);
        require(headroom, "headroom", "must be 1000 to 10000 permille")?;
        require(
            growth >= 1 || (growth, return_growth) == (0, 0),
            "ramp_doubling",
            "must let the limit grow by at least one step per minute",
        )?;
        require(growth <= return_growth, "return_doubling", "must be at most ramp_doubling")?;
        require((1..=MAX_STEPS).contains(&decay), "decay_half_life", "must be 1.5 s to 4 h")?;
        require((0..=MAX_STEPS).contains(&rise), "hold_per_minute", "is too long: at most 9600 steps of decay")?;
        require(
            return_growth <= rise,
            "hold_per_minute",
            "must let the reserve rise at least as fast as return_doubling",
        )?;
        require((0..=MAX_STEPS).contains(&reserve), "hold", "is too long: at most 9600 steps of decay")?;
        let memory = (1..=MAX_MEMORY_EPOCHS).contains(&steps.memory_half_life_epochs);
        require(memory, "memory_half_life", "must be 1 minute to 366 days")?;
        require(steps.slow_permille < steps.stop_permille, "slow", "must be below stop")?;
        if let MaxStep::Tokens(tokens) = steps.max_step {
            require((1..=MAX_TOKENS).contains(&tokens), "max_step_tokens", "must be at most 2^40")?;
        }
        // Both are 0 to 9,600 by the checks above.
        let (growth, reserve) = (growth.unsigned_abs(), reserve.unsigned_abs());
        require(
            level::compare_growth(growth, headroom_permille.into(), 1_000) != Ordering::Greater,
            "ramp_doubling",
            "must not grow by more than headroom in one minute",
        )?;
        require(
            level::compare_growth(reserve, 2_000, headroom_permille.into()) == Ordering::Greater,
            "hold",
            "must be longer: headroom x 2^(hold / decay_half_life) has to exceed 2",
        )?;
        Ok(Self(steps))
    }
}

/// The law as an operator writes it: overrides of a base profile, in minutes and ratios. `None` inherits the base's steps
/// (so under a slower decay alone, the inherited holds last longer).
///
/// What does not come out as whole steps is rounded in the account's favour: growth and holds up, decay and forgetting down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Knobs {
    /// The limit aims at this multiple of the settled minute, permille; default 1,500, range 1,000 to 10,000.
    pub headroom_permille: Option<u32>,
    /// Time in which a used limit doubles; default 10 min, at most 4 h.
    pub ramp_doubling: Option<Duration>,
    /// The same up to what the account has proven before; default 5 min, at most `ramp_doubling`.
    pub return_doubling: Option<Duration>,
    /// Time in which an unused limit halves, once the hold is over; default 60 min, at most 4 h.
    pub decay_half_life: Option<Duration>,
    /// Longest time for which a limit does not fall after its use ends; default 45 min.
    pub hold: Option<Duration>,
    /// Hold that one minute of use earns; default 12 min.
    pub hold_per_minute: Option<Duration>,
    /// Time in which the proven level halves; default 24 h, 1 min to 366 days, rounded up to minutes.
    pub memory_half_life: Option<Duration>,
    /// Pressure up to which growth is full, permille; default 700.
    pub slow_permille: Option<u16>,
    /// Pressure from which on there is no growth, permille; default 850.
    pub stop_permille: Option<u16>,
    /// Most that a limit gains per minute, tokens per minute; 0 = off, the default; at most 2^40.
    pub max_step_tokens: Option<u64>,
}

impl Knobs {
    /// These knobs on top of `base`, checked together.
    ///
    /// # Errors
    ///
    /// The knob that is out of its range, or that contradicts another one (see [`TryFrom<Steps>`]).
    pub fn resolve(&self, base: LawParams) -> Result<LawParams, LawError> {
        let mut steps = base.0;
        if let Some(permille) = self.headroom_permille {
            steps.headroom_permille = permille;
        }
        if let Some(doubling) = self.ramp_doubling {
            steps.growth = octave_rate("ramp_doubling", doubling, u128::div_ceil)?;
        }
        if let Some(doubling) = self.return_doubling {
            steps.return_growth = octave_rate("return_doubling", doubling, u128::div_ceil)?;
        }
        if let Some(half_life) = self.decay_half_life {
            steps.decay = octave_rate("decay_half_life", half_life, |octave, time| octave / time)?;
        }
        if let Some(hold) = self.hold {
            steps.reserve = decay_during(hold, steps.decay);
        }
        if let Some(hold) = self.hold_per_minute {
            steps.rise = decay_during(hold, steps.decay);
        }
        if let Some(half_life) = self.memory_half_life {
            let epochs = half_life.as_nanos().div_ceil(Duration::from_secs(super::EPOCH_SECONDS).as_nanos());
            steps.memory_half_life_epochs = u32::try_from(epochs).unwrap_or(u32::MAX);
        }
        if let Some(permille) = self.slow_permille {
            steps.slow_permille = permille;
        }
        if let Some(permille) = self.stop_permille {
            steps.stop_permille = permille;
        }
        if let Some(tokens) = self.max_step_tokens {
            steps.max_step = if tokens == 0 { MaxStep::Off } else { MaxStep::Tokens(tokens) };
        }
        LawParams::try_from(steps)
    }
}

/// Steps per epoch of a level that moves one octave in `time`, rounded by `divide`.
fn octave_rate(field: &'static str, time: Duration, divide: fn(u128, u128) -> u128) -> Result<Level, LawError> {
    let octave = Duration::from_secs(OCTAVE_SECONDS.into());
    require(!time.is_zero() && time <= octave, field, "must be more than 0 and at most 4 h")?;
    Ok(Level::try_from(divide(octave.as_nanos(), time.as_nanos())).unwrap_or(Level::MAX))
}

/// Steps that a level falls in `time`, rounded up.
fn decay_during(time: Duration, decay: Level) -> Level {
    let per_epoch = u128::from(decay.unsigned_abs());
    let epoch = Duration::from_secs(super::EPOCH_SECONDS).as_nanos();
    Level::try_from(time.as_nanos().saturating_mul(per_epoch).div_ceil(epoch)).unwrap_or(Level::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn field(knobs: Knobs) -> &'static str {
        knobs.resolve(LawParams::DEFAULT).unwrap_err().field
    }

    #[test]
    fn the_profiles_are_valid() {
        for params in [LawParams::DEFAULT, LawParams::PUBLISHED, LawParams::STATIC] {
            assert_eq!(LawParams::try_from(*params.steps()), Ok(params));
            assert_eq!(Knobs::default().resolve(params), Ok(params));
        }
        assert_eq!(profile("published"), Some(LawParams::PUBLISHED));
        assert_eq!(profile("Default"), None);
    }

    #[test]
    fn the_documented_knobs_are_the_default_profile() {
        let knobs = Knobs {
            headroom_permille: Some(1_500),
            ramp_doubling: Some(10 * MINUTE),
            return_doubling: Some(5 * MINUTE),
            decay_half_life: Some(60 * MINUTE),
            hold: Some(45 * MINUTE),
            hold_per_minute: Some(12 * MINUTE),
            memory_half_life: Some(24 * 60 * MINUTE),
            slow_permille: Some(700),
            stop_permille: Some(850),
            max_step_tokens: Some(0),
        };
        assert_eq!(knobs.resolve(LawParams::PUBLISHED), Ok(LawParams::DEFAULT));
    }

    #[test]
    fn fractions_of_a_step_favour_the_account() {
        let knobs = Knobs {
            ramp_doubling: Some(7 * MINUTE),
            decay_half_life: Some(100 * MINUTE),
            hold: Some(100 * MINUTE + Duration::from_nanos(1)),
            hold_per_minute: Some(30 * MINUTE),
            memory_half_life: Some(MINUTE + Duration::from_nanos(1)),
            ..Knobs::default()
        };
        let steps = *knobs.resolve(LawParams::DEFAULT).unwrap().steps();
        assert_eq!((steps.growth, steps.decay, steps.reserve, steps.rise), (35, 2, 201, 60));
        assert_eq!(steps.memory_half_life_epochs, 2);
    }

    #[test]
    fn a_wrong_knob_is_named() {
        let none = Knobs::default();
        assert_eq!(field(Knobs { headroom_permille: Some(999), ..none }), "headroom");
        assert_eq!(field(Knobs { headroom_permille: Some(10_001), ..none }), "headroom");
        assert_eq!(field(Knobs { ramp_doubling: Some(Duration::ZERO), ..none }), "ramp_doubling");
        assert_eq!(field(Knobs { ramp_doubling: Some(Duration::MAX), ..none }), "ramp_doubling");
        assert_eq!(field(Knobs { ramp_doubling: Some(4 * MINUTE), ..none }), "return_doubling");
        assert_eq!(field(Knobs { return_doubling: Some(11 * MINUTE), ..none }), "return_doubling");
        assert_eq!(field(Knobs { return_doubling: Some(4 * MINUTE), ..none }), "hold_per_minute");
        assert_eq!(field(Knobs { decay_half_life: Some(241 * MINUTE), ..none }), "decay_half_life");
        assert_eq!(field(Knobs { decay_half_life: Some(Duration::from_secs(1)), ..none }), "decay_half_life");
        assert_eq!(field(Knobs { hold: Some(Duration::MAX), ..none }), "hold");
        assert_eq!(field(Knobs { hold_per_minute: Some(Duration::MAX), ..none }), "hold_per_minute");
        assert_eq!(field(Knobs { memory_half_life: Some(Duration::ZERO), ..none }), "memory_half_life");
        assert_eq!(field(Knobs { memory_half_life: Some(Duration::MAX), ..none }), "memory_half_life");
        assert_eq!(field(Knobs { slow_permille: Some(850), ..none }), "slow");
        assert_eq!(field(Knobs { stop_permille: Some(700), ..none }), "slow");
        assert_eq!(field(Knobs { max_step_tokens: Some(MAX_TOKENS + 1), ..none }), "max_step_tokens");
    }

    #[test]
    fn growth_stays_within_the_headroom_exactly() {
        // 240 log2(1.5) = 140.39
        let with_growth = |growth| {
            let rates = Steps { growth, return_growth: growth, rise: growth, ..*LawParams::DEFAULT.steps() };
            LawParams::try_from(rates).map_err(|error| error.field)
        };
        assert!(with_growth(140).is_ok());
        assert_eq!(with_growth(141), Err("ramp_doubling"));
        assert_eq!(with_growth(-1), Err("ramp_doubling"));
    }

    #[test]
    fn the_hold_leaves_no_stall_exactly() {
        // 1.5 * 2^(R/240) > 2 from R = 99.61 on; 2.0 * 2^0 is not above 2.
        let with_hold = |headroom_permille, reserve| {
            let shape = Steps { headroom_permille, reserve, ..*LawParams::DEFAULT.steps() };
            LawParams::try_from(shape).map_err(|error| error.field)
        };
        assert_eq!(with_hold(1_500, 99), Err("hold"));
        assert!(with_hold(1_500, 100).is_ok());
        assert_eq!(with_hold(2_000, 0), Err("hold"));
        assert!(with_hold(2_001, 0).is_ok());
    }
}
