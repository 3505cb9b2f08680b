//! What a request is expected to produce, how fast, and how much of its prompt the cache will serve.
//!
//! Rejected: holding `max_tokens`, which denies at low use; a fixed estimate, which is wrong for everyone; a high quantile
//! held for each request, which adds up to far more than the sum will ever be. A hold is an *expectation*; the safety margin
//! is a number of standard deviations of the *sum* of the live holds (contract C4).
//!
//! Where each part lives: means (of output, pace, cache share) in [`Figures`]; how long answers are, and so what a stream that
//! has come so far will still produce, in [`Lengths`]; the expectation of one stream over the coming minute in [`Course`];
//! the sum of them in [`crate::holds`]. A new key starts from what its model's requests do ([`Model`], [`Prior`]), and a new
//! model from configured defaults.

use core::time::Duration;

use minicbor::{Decode, Encode};

use crate::ask::Request;
use crate::record::{Page, Record, record};
use crate::time::micros;
use crate::window::{PerWindow, Tokens};

mod course;
mod lengths;

pub use course::{Course, MARKS};
pub use lengths::{Hazards, Lengths};

/// Binary digits behind the point of a scale of ratios.
const SCALE_DIGITS: u32 = 16;
/// A new sample weighs 1/64 once there are that many: about the last 64 requests count.
const MEMORY: u32 = 64;
/// From this many samples on, means stand alone, without what they fall back on.
const TRUSTED: u32 = 32;
/// How many samples the fallback counts for beside the first own ones; shrinks to none at [`TRUSTED`].
const FALLBACK_WEIGHT: u32 = 8;
/// Longest expected duration; a reservation lives no longer without progress.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Slowest pace: one token in a minute.
const SLOWEST_MICROS_PER_TOKEN: u64 = 60_000_000;
/// A prior of a model is made again after this many settled requests.
const NEWS: u32 = 8;
/// The guard never leaves room for fewer live streams than this: where the limit is small beside a stream's pace, they may run
/// all the same.
pub const FEWEST_STREAMS: u64 = 8;
/// By how much, in thousandths, the expected output of all streams together may be off beyond what their number averages
/// out: what answers are like moves faster than it is learnt.
const DRIFT_PERMILLE: u64 = 25;

/// What requests are expected to do before anything is known, and how careful to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForecastDefaults {
    /// Generated tokens of a request; 1 to 2^40, default 256.
    pub generated_tokens: u64,
    /// Generated tokens per second of a stream; 1 to 1,000,000, default 40.
    pub tokens_per_second: u64,
    /// Safety margin: standard deviations of what a key's live streams together will produce, permille; 0 to 10,000, default
    /// 2576, the 99.5th percentile of a normal distribution.
    pub margin_sigmas_permille: u32,
    /// Guard against streams that go on for longer than any before: what all live streams of a key could produce within a
    /// minute, if none ended, is at most this many times the limit, permille; 1,000 to 1,000,000, default 2000. 0: no guard.
    pub guard_permille: u32,
}

impl Default for ForecastDefaults {
    fn default() -> Self {
        Self { generated_tokens: 256, tokens_per_second: 40, margin_sigmas_permille: 2_576, guard_permille: 2_000 }
    }
}

impl ForecastDefaults {
    /// The safety margin of streams that are expected to produce `tokens` with this `variance`, tokens squared; rounded up.
    #[must_use]
    pub fn margin(&self, tokens: u64, variance: u64) -> u64 {
        let squared = self.margin_squared(tokens, variance);
        match u64::try_from(squared) {
            // Nearly always, and much cheaper.
            Ok(squared) => {
                let root = squared.isqrt();
                root + u64::from(root * root < squared)
            }
            Err(_) => {
                let root = squared.isqrt();
                u64::try_from(root + u128::from(root * root < squared)).unwrap_or(u64::MAX)
            }
        }
    }

    /// Whether `sum` and the margin of these streams are at most `most`; much cheaper than the margin itself.
    #[must_use]
    pub fn fits(&self, sum: u64, tokens: u64, variance: u64, most: u64) -> bool {
        most.checked_sub(sum)
            .is_some_and(|room| self.margin_squared(tokens, variance) <= u128::from(room) * u128::from(room))
    }

    fn margin_squared(&self, tokens: u64, variance: u64) -> u128 {
        /// Deviations below this: their square, times 10^8, fits 64 bits.
        const FEW: u64 = 1 << 18;
        let sigmas = u64::from(self.margin_sigmas_permille);
        let drift = tokens / 1_000 * DRIFT_PERMILLE + tokens % 1_000 * DRIFT_PERMILLE / 1_000;
        // Nearly always, and much cheaper.
        if drift < FEW && variance < FEW * FEW {
            return u128::from((drift * drift + variance) * (sigmas * sigmas) / 1_000_000);
        }
        let squared = u128::from(drift) * u128::from(drift) + u128::from(variance);
        squared.saturating_mul(u128::from(sigmas * sigmas)) / 1_000_000
    }

    /// Most tokens that the live streams of a key with this limit may be able to produce within a minute; no more than the
    /// limit of a key that is `watched`.
    #[must_use]
    pub fn most_reach(&self, limit_tpm: u64, watched: bool) -> u64 {
        if self.guard_permille == 0 {
            return u64::MAX;
        }
        let permille = if watched { self.guard_permille.min(1_000) } else { self.guard_permille };
        match limit_tpm.checked_mul(permille.into()) {
            // Nearly always, and much cheaper.
            Some(product) => product / 1_000,
            None => u64::try_from(u128::from(limit_tpm) * u128::from(permille) / 1_000).unwrap_or(u64::MAX),
        }
    }

    /// The least limit of which [`ForecastDefaults::most_reach`] is at least `reach`.
    #[must_use]
    pub fn least_for(&self, reach: u64, watched: bool) -> u64 {
        if self.guard_permille == 0 {
            return 0;
        }
        let permille = if watched { self.guard_permille.min(1_000) } else { self.guard_permille };
        let least = (u128::from(reach) * 1_000).div_ceil(u128::from(permille));
        u64::try_from(least).unwrap_or(u64::MAX)
    }
}

/// What settled requests did: means that forget, in integers. 24 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Figures {
    /// Samples seen, at most [`MEMORY`].
    #[n(0)]
    samples: u32,
    /// Mean share of the prompt that the cache did not serve, of 2^16.
    #[n(1)]
    uncached_share: u32,
    /// Mean of [`scale_of`] generated tokens.
    #[n(2)]
    scale: u64,
    /// Mean microseconds for a generated token.
    #[n(3)]
    micros_per_token: u64,
}

record!(Figures { samples, uncached_share, scale, micros_per_token });

/// One settled request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What it used.
    pub used: Tokens,
    /// Microseconds for a generated token; `None` where the settlement says nothing about it.
    pub micros_per_token: Option<u64>,
}

const WHOLE_SHARE: u64 = 1 << 16;

impl Figures {
    /// What is expected before anything is known. The cache is expected to serve nothing.
    #[must_use]
    pub fn from_defaults(defaults: &ForecastDefaults) -> Self {
        Self {
            samples: TRUSTED,
            uncached_share: 1 << 16,
            scale: scale_of(defaults.generated_tokens),
            micros_per_token: 1_000_000 / defaults.tokens_per_second.max(1),
        }
    }

    /// Learns from a settled request.
    pub fn on_settled(&mut self, sample: &Sample) {
        self.samples = self.samples.saturating_add(1).min(MEMORY);
        let weight = u64::from(self.samples);
        self.scale = toward(self.scale, scale_of(sample.used.generated), weight);
        if let Some(pace) = sample.micros_per_token {
            self.on_pace(pace);
        }
        let uncached = sample.used.uncached_prompt.min(sample.used.prompt);
        if let Some(share) = (uncached * WHOLE_SHARE).checked_div(sample.used.prompt) {
            let share = toward(u64::from(self.uncached_share), share, weight);
            self.uncached_share = u32::try_from(share).unwrap_or(1 << 16);
        }
    }

    /// Learns from what a stream has shown of its pace.
    pub fn on_pace(&mut self, micros_per_token: u64) {
        self.micros_per_token = if self.micros_per_token == 0 {
            micros_per_token
        } else {
            toward(self.micros_per_token, micros_per_token, u64::from(MEMORY))
        };
    }

    /// These figures, mixed with `fallback` while they rest on few samples.
    #[must_use]
    pub fn or(&self, fallback: &Self) -> Self {
        let other = u64::from(FALLBACK_WEIGHT * TRUSTED.saturating_sub(self.samples) / TRUSTED);
        let own = u64::from(self.samples);
        if other == 0 && self.micros_per_token > 0 {
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
            scale: mix(self.scale, fallback.scale),
            micros_per_token: if self.micros_per_token == 0 {
                fallback.micros_per_token
            } else {
                mix(self.micros_per_token, fallback.micros_per_token)
            },
        }
    }

    /// Generated tokens of a typical answer: the mean on a scale of ratios, where an answer of ten times the length weighs no
    /// more than one of a tenth. Rounded up; at most the mean, and equal to it where all answers are as long.
    #[must_use]
    pub fn typical_generated(&self) -> u64 {
        of_scale(self.scale)
    }

    /// Usual microseconds for a generated token, the wait for the first one shared among them; at least 1.
    #[must_use]
    pub const fn micros_per_token(&self) -> u64 {
        if self.micros_per_token == 0 { 1 } else { self.micros_per_token }
    }

    /// Whether these figures rest on enough samples to stand alone: [`Figures::or`] then ignores the fallback. Not while no
    /// answer was long enough to show a pace.
    #[must_use]
    pub const fn is_trusted(&self) -> bool {
        self.samples >= TRUSTED && self.micros_per_token > 0
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
            .typical_generated()
            .min(request.max_generated_tokens.unwrap_or(u64::MAX))
            .min(effective_limit.generated);
        Tokens::new(request.prompt_tokens, uncached_prompt, generated)
    }
}

/// What is believed of a key before it has shown anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Prior {
    /// Means.
    #[n(0)]
    pub figures: Figures,
    /// How long answers are.
    #[cbor(n(1), with = "crate::record::counts")]
    pub hazards: Hazards,
}

impl Record for Prior {
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        self.figures.put(page.row(2)).counts(self.hazards.iter().copied())
    }
}

impl Prior {
    /// What is expected before anything is known.
    #[must_use]
    pub fn from_defaults(defaults: &ForecastDefaults) -> Self {
        Self { figures: Figures::from_defaults(defaults), hazards: lengths::hazards_of_mean(defaults.generated_tokens) }
    }
}

/// What the requests of a model do, all keys together: the prior of its new keys. 272 bytes, and at most 640 of its lengths.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Model {
    #[n(0)]
    figures: Figures,
    #[n(1)]
    lengths: Lengths,
    #[n(2)]
    prior: Prior,
    /// Samples since the prior was made.
    #[n(3)]
    news: u32,
}

impl Model {
    /// A model of which nothing is known.
    #[must_use]
    pub fn new(defaults: &Prior) -> Self {
        Self { figures: Figures::default(), lengths: Lengths::default(), prior: *defaults, news: 0 }
    }

    /// Learns from a settled request of one of its keys.
    pub fn on_settled(&mut self, sample: &Sample, defaults: &Prior) {
        self.figures.on_settled(sample);
        // Aged by answers alone: the limits of its keys differ.
        self.lengths.on_end(0, sample.used.generated, u64::MAX);
        self.news = self.news.saturating_add(1);
        if self.news >= NEWS || !self.figures.is_trusted() {
            self.news = 0;
            let figures = self.figures.or(&defaults.figures);
            self.prior = Prior { figures, hazards: self.lengths.hazards(&defaults.hazards) };
        }
    }

    /// What a new key of the model starts from.
    #[must_use]
    pub const fn prior(&self) -> &Prior {
        &self.prior
    }
}

/// How long `tokens` take at a pace; 1 s to 1 h.
#[must_use]
pub fn duration(tokens: u64, micros_per_token: u64) -> Duration {
    Duration::from_micros(micros_per_token.saturating_mul(tokens)).clamp(Duration::from_secs(1), LONGEST)
}

/// Microseconds for one of `tokens` that took `duration`; 1 to 60,000,000.
#[must_use]
pub fn micros_per_token(duration: Duration, tokens: u64) -> u64 {
    (micros(duration) / tokens.max(1)).clamp(1, SLOWEST_MICROS_PER_TOKEN)
}

/// Tokens of a minute at a pace.
#[must_use]
pub fn reach(micros_per_token: u64) -> u64 {
    60_000_000 / micros_per_token.max(1)
}

/// Reports closer than this say nothing about a pace: they may have waited for each other.
pub const CLOSE: Duration = Duration::from_millis(500);

/// What `tokens` that came since the last report, `elapsed` ago, say about the usual pace. `first` is whether they are the
/// stream's first: then the wait for the first token is in it, and a short answer is mostly that. Nor do a few tokens say
/// anything, or a report that follows close.
#[must_use]
pub fn pace_shown(elapsed: Duration, tokens: u64, first: bool) -> Option<u64> {
    /// An answer that is long enough to show the pace, within a third, all in all.
    const LONG: u64 = 64;
    /// Tokens that show the pace, of a stream that runs.
    const SOME: u64 = 8;
    let enough = tokens >= if first { LONG } else { SOME };
    (enough && elapsed >= CLOSE).then(|| micros_per_token(elapsed, tokens))
}

/// Whether the *stated* numbers fit a window's bound (contract C11); forecasts are not stated.
#[must_use]
pub fn stated(request: &Request<'_>) -> Tokens {
    let uncached = request.cached_prompt_tokens.map_or(0, |cached| request.prompt_tokens.saturating_sub(cached));
    Tokens::new(request.prompt_tokens, uncached, 0)
}

/// Where a number of tokens stands on a scale of ratios: the binary logarithm of one more, with straight lines between the
/// powers of two, and with [`SCALE_DIGITS`].
fn scale_of(tokens: u64) -> u64 {
    let more = tokens.saturating_add(1);
    let octave = more.ilog2();
    let within = (u128::from(more) << SCALE_DIGITS >> octave) - (1 << SCALE_DIGITS);
    (u64::from(octave) << SCALE_DIGITS) + u64::try_from(within).unwrap_or(0)
}

/// The number of tokens at a place on that scale, rounded up.
fn of_scale(scale: u64) -> u64 {
    let (octave, within) = (scale >> SCALE_DIGITS, scale & ((1 << SCALE_DIGITS) - 1));
    let more = u128::from((1 << SCALE_DIGITS) + within) << octave.min(63);
    u64::try_from(more.div_ceil(1 << SCALE_DIGITS)).unwrap_or(u64::MAX).saturating_sub(1)
}

/// `mean` moved by 1/`weight` of the way to `sample`.
fn toward(mean: u64, sample: u64, weight: u64) -> u64 {
    if sample >= mean { mean.saturating_add((sample - mean).div_ceil(weight)) } else { mean - (mean - sample) / weight }
}

#[cfg(test)]
mod tests;
