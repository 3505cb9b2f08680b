//! What a request is expected to produce, how fast, and how much of its prompt the cache will serve.
//!
//! Rejected: holding `max_tokens`, which denies at low use; a fixed estimate, which is wrong for everyone; a high quantile
//! held for each request, which adds up to far more than the sum will ever be. A hold is the *mean*; the safety margin is a
//! number of standard deviations of the *sum* of the live holds (contract C4).
//!
//! Figures come from the key's settled requests; while it has settled few, they are mixed with its model's, and those with
//! configured defaults.

use core::time::Duration;

use crate::ask::Request;
use crate::time::micros;
use crate::window::{PerWindow, Tokens};

/// Binary digits behind the point of a mean.
const FRACTION: u32 = 8;
/// A new sample weighs 1/64 once there are that many: about the last 64 requests count.
const MEMORY: u32 = 64;
/// From this many samples on, figures stand alone, without what they fall back on.
const TRUSTED: u32 = 32;
/// How many samples the fallback counts for beside the first own ones; shrinks to none at [`TRUSTED`].
const FALLBACK_WEIGHT: u32 = 8;
/// Longest expected duration; a reservation lives no longer without progress.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Slowest pace: one token in a minute.
const SLOWEST_MICROS_PER_TOKEN: u64 = 60_000_000;

/// What requests are expected to do before anything is known, and how careful to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForecastDefaults {
    /// Generated tokens of a request; 1 to 2^40, default 256. Its standard deviation is taken to be as large.
    pub generated_tokens: u64,
    /// Generated tokens per second of a stream; 1 to 1,000,000, default 40.
    pub tokens_per_second: u64,
    /// Safety margin: standard deviations of the sum of a key's live holds, permille; 0 to 10,000, default 2326, the 99th
    /// percentile of a normal distribution.
    pub margin_sigmas_permille: u32,
}

impl Default for ForecastDefaults {
    fn default() -> Self {
        Self { generated_tokens: 256, tokens_per_second: 40, margin_sigmas_permille: 2_326 }
    }
}

/// What settled requests did: means that forget, in integers. 40 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Samples seen, at most [`MEMORY`].
    samples: u32,
    /// Mean share of the prompt that the cache did not serve, of 2^16.
    uncached_share: u32,
    /// Mean of generated tokens, with [`FRACTION`].
    mean: u64,
    /// Mean squared deviation from it, tokens squared.
    variance: u64,
    /// Mean microseconds for a generated token.
    micros_per_token: u64,
}

/// One settled request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What it used.
    pub used: Tokens,
    /// From admission to settlement; `None` where the settlement came late and so says nothing about pace.
    pub duration: Option<Duration>,
}

const WHOLE_SHARE: u64 = 1 << 16;

impl Figures {
    /// What is expected before anything is known. The cache is expected to serve nothing.
    #[must_use]
    pub fn from_defaults(defaults: &ForecastDefaults) -> Self {
        Self {
            samples: TRUSTED,
            uncached_share: 1 << 16,
            mean: defaults.generated_tokens << FRACTION,
            variance: defaults.generated_tokens.saturating_mul(defaults.generated_tokens),
            micros_per_token: 1_000_000 / defaults.tokens_per_second.max(1),
        }
    }

    /// Learns from a settled request.
    pub fn on_settled(&mut self, sample: &Sample) {
        self.samples = (self.samples + 1).min(MEMORY);
        let weight = u64::from(self.samples);
        let generated = sample.used.generated << FRACTION;
        let before = self.mean.abs_diff(generated) >> FRACTION;
        self.mean = toward(self.mean, generated, weight);
        let after = self.mean.abs_diff(generated) >> FRACTION;
        self.variance = toward(self.variance, before.saturating_mul(after), weight);
        if let (Some(duration), 1..) = (sample.duration, sample.used.generated) {
            let pace = (micros(duration) / sample.used.generated).min(SLOWEST_MICROS_PER_TOKEN);
            self.micros_per_token =
                if self.micros_per_token == 0 { pace } else { toward(self.micros_per_token, pace, weight) };
        }
        let uncached = sample.used.uncached_prompt.min(sample.used.prompt);
        if let Some(share) = (uncached * WHOLE_SHARE).checked_div(sample.used.prompt) {
            let share = toward(u64::from(self.uncached_share), share, weight);
            self.uncached_share = u32::try_from(share).unwrap_or(1 << 16);
        }
    }

    /// These figures, mixed with `fallback` while they rest on few samples.
    #[must_use]
    pub fn or(&self, fallback: &Self) -> Self {
        let other = u64::from(FALLBACK_WEIGHT * TRUSTED.saturating_sub(self.samples) / TRUSTED);
        let own = u64::from(self.samples);
        if other == 0 {
            return *self;
        }
        let mix = |mine: u64, theirs: u64| {
            let sum = u128::from(mine) * u128::from(own) + u128::from(theirs) * u128::from(other);
            u64::try_from(sum / u128::from(own + other)).unwrap_or(u64::MAX)
        };
        Self {
            samples: self.samples,
            uncached_share: u32::try_from(mix(self.uncached_share.into(), fallback.uncached_share.into()))
                .unwrap_or(1 << 16),
            mean: mix(self.mean, fallback.mean),
            variance: mix(self.variance, fallback.variance),
            micros_per_token: if self.micros_per_token == 0 {
                fallback.micros_per_token
            } else {
                mix(self.micros_per_token, fallback.micros_per_token)
            },
        }
    }

    /// Expected generated tokens of a new request, rounded up.
    #[must_use]
    pub const fn generated_tokens(&self) -> u64 {
        (self.mean + (1 << FRACTION) - 1) >> FRACTION
    }

    /// Variance of what a request will produce beyond `produced`, where `remaining` more are expected; tokens squared. A
    /// declared maximum bounds how far it can go above the expectation.
    #[must_use]
    pub fn variance(&self, remaining: u64, produced: u64, declared: Option<u64>) -> u64 {
        let room = declared.map_or(u64::MAX, |declared| declared.saturating_sub(produced).saturating_sub(remaining));
        self.variance.min(room.saturating_mul(room))
    }

    /// Whether these figures rest on enough samples to stand alone: [`Figures::or`] then ignores the fallback.
    #[must_use]
    pub const fn is_trusted(&self) -> bool {
        self.samples >= TRUSTED
    }

    /// What the request asks of each window (contract C4): stated numbers where there are any, forecasts clamped to the
    /// effective limit where there are none, so that a forecast alone never fills an idle window.
    #[must_use]
    pub fn ask(&self, request: &Request<'_>, effective_limit: &PerWindow<u64>) -> Tokens {
        let uncached_prompt = request.cached_prompt_tokens.map_or_else(
            || {
                let share = u64::from(self.uncached_share);
                // Both factors are at most 2^40 and 2^16.
                let expected = (request.prompt_tokens.saturating_mul(share)).div_ceil(WHOLE_SHARE);
                expected.min(effective_limit.uncached_prompt)
            },
            |cached| request.prompt_tokens.saturating_sub(cached),
        );
        let generated = self
            .generated_tokens()
            .min(request.max_generated_tokens.unwrap_or(u64::MAX))
            .min(effective_limit.generated);
        Tokens::new(request.prompt_tokens, uncached_prompt, generated)
    }

    /// How many tokens a stream that has produced `produced` of an expected `asked` will still produce: the rest of the ask,
    /// or, where it has come near or past it, as much as it has produced, at most a standard deviation. Never past the
    /// declared maximum.
    #[must_use]
    pub fn remaining_tokens(&self, asked: u64, produced: u64, declared: Option<u64>) -> u64 {
        let expected = asked.saturating_sub(produced).max(produced.min(self.variance.isqrt()));
        declared.map_or(expected, |declared| expected.min(declared.saturating_sub(produced)))
    }

    /// How long `tokens` will take, at the pace of the stream itself once it has produced something in `elapsed`, else at
    /// the usual one; 1 s to 1 h.
    #[must_use]
    pub fn duration(&self, tokens: u64, produced: u64, elapsed: Duration) -> Duration {
        let pace = if produced >= 16 { micros(elapsed) / produced } else { self.micros_per_token };
        let pace = pace.min(SLOWEST_MICROS_PER_TOKEN);
        Duration::from_micros(pace.saturating_mul(tokens)).clamp(Duration::from_secs(1), LONGEST)
    }
}

/// The safety margin of live holds whose sum has `variance`: standard deviations as configured, at most what is `held`.
#[must_use]
pub fn margin(defaults: &ForecastDefaults, variance: u128, held: u64) -> u64 {
    let sigma = u64::try_from(variance.isqrt()).unwrap_or(u64::MAX);
    let margin = u128::from(sigma) * u128::from(defaults.margin_sigmas_permille) / 1_000;
    u64::try_from(margin).unwrap_or(u64::MAX).min(held)
}

/// Whether the *stated* numbers fit a window's bound (contract C11); forecasts are not stated.
#[must_use]
pub fn stated(request: &Request<'_>) -> Tokens {
    let uncached = request.cached_prompt_tokens.map_or(0, |cached| request.prompt_tokens.saturating_sub(cached));
    Tokens::new(request.prompt_tokens, uncached, 0)
}

/// `mean` moved by 1/`weight` of the way to `sample`.
fn toward(mean: u64, sample: u64, weight: u64) -> u64 {
    if sample >= mean { mean.saturating_add((sample - mean).div_ceil(weight)) } else { mean - (mean - sample) / weight }
}

#[cfg(test)]
mod tests;
