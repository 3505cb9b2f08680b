//! The policies to compare: who admits what, knowing how much.

use std::fmt;
use std::str::FromStr;

use tidegate_core::MAX_TOKENS;
use tidegate_core::forecast::{ForecastDefaults, Prior, Sample};
use tidegate_core::law::{Bounds, LawParams};
use tidegate_core::pressure::Reading;
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens};

use crate::workload::{Arrival, KeyName};

mod forecast;
mod gateway;
mod oracle;
mod plain_sum;

/// Which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Policy {
    /// Knows every request to its last token.
    Oracle,
    /// Holds the declared maximum, 4,096 where there is none.
    MaxTokens,
    /// Holds 1,024 tokens for every request.
    Fixed1024,
    /// Admits while less is used than the limit, and charges at the end.
    ChargeAfter,
    /// tidegate's forecast; used + holds + ask <= limit.
    PlainSum,
    /// tidegate.
    Forecast,
}

impl Policy {
    /// Every policy, in the order of reports.
    pub const ALL: [Self; 6] =
        [Self::Oracle, Self::MaxTokens, Self::Fixed1024, Self::ChargeAfter, Self::PlainSum, Self::Forecast];

    /// Its name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Oracle => "oracle",
            Self::MaxTokens => "max-tokens",
            Self::Fixed1024 => "fixed-1024",
            Self::ChargeAfter => "charge-after",
            Self::PlainSum => "plain-sum",
            Self::Forecast => "forecast",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// No policy has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of oracle, max-tokens, fixed-1024, charge-after, plain-sum, forecast")]
pub struct UnknownPolicy(String);

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL.into_iter().find(|policy| policy.name() == name).ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

/// What applies to a key for the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRules {
    /// Floor and ceiling of each window.
    pub bounds: PerWindow<Bounds>,
    /// How the limits move.
    pub law: LawParams,
}

impl KeyRules {
    /// Limits that stay where they are, brought into the range of limits: 1 to 2^40.
    #[must_use]
    pub fn fixed(limits: &Tokens) -> Self {
        let bounds = limits.map(|limit| {
            let limit = limit.clamp(1, MAX_TOKENS);
            Bounds::new(limit, limit).expect("the limit is within the range of bounds")
        });
        Self { bounds, law: LawParams::STATIC }
    }

    /// Where the limits start, and stay where they do not move.
    #[must_use]
    pub fn floors(&self) -> Tokens {
        self.bounds.map(|bounds| bounds.floor_tpm())
    }
}

/// What a policy answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 200.
    Admitted,
    /// 429.
    RateLimited,
    /// 503.
    Overloaded,
}

/// A request that was admitted and has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The request.
    pub request: Arrival,
    /// Unique among the live ones of its key, small, and used again.
    pub slot: usize,
}

/// What one key cannot know by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    /// What requests of its model do.
    pub(crate) prior: &'a Prior,
    /// How busy the deployment of its model is.
    pub(crate) pressure: PerWindow<Reading>,
}

/// What a run tells a policy about one key, in the order of time.
pub(crate) trait Limiter: Send {
    /// Decides about a request that arrives now; it runs in `stream.slot` if it is admitted.
    fn decide(&mut self, now: Timestamp, stream: &Stream, around: &Surroundings<'_>) -> Verdict;

    /// `generated_tokens` of the stream are there.
    fn on_progress(&mut self, _now: Timestamp, _stream: &Stream, _generated: u64, _around: &Surroundings<'_>) {}

    /// The stream has ended. Answers what its model learns from that.
    fn on_end(&mut self, _now: Timestamp, _stream: &Stream, _around: &Surroundings<'_>) -> Option<Sample> {
        None
    }

    /// Whether nothing that it does depends on the prior of its model, now and later.
    fn stands_alone(&self) -> bool {
        true
    }

    /// Tokens in its windows as of the last decision, where a busy deployment matters to it.
    fn used(&self) -> Option<Tokens> {
        None
    }

    /// Its limits after its last decision, where they move.
    fn limits(&self) -> Tokens;
}

/// What a run looks like to the policy of one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World<'a> {
    pub(crate) name: &'a KeyName,
    pub(crate) rules: &'a KeyRules,
    pub(crate) forecast: &'a ForecastDefaults,
    /// Whether a request states how much of its prompt is cached.
    pub(crate) cache_known: bool,
}

impl Policy {
    pub(crate) fn limiter<'a>(self, world: World<'a>) -> Box<dyn Limiter + 'a> {
        match self {
            Self::Oracle => Box::new(oracle::Oracle::new(world)),
            Self::MaxTokens => Box::new(gateway::Holding::new(world, |request| {
                request.max_generated_tokens.unwrap_or(gateway::USUAL_MAXIMUM)
            })),
            Self::Fixed1024 => Box::new(gateway::Holding::new(world, |_| gateway::FIXED_HOLD)),
            Self::ChargeAfter => Box::new(gateway::ChargeAfter::new(world)),
            Self::PlainSum => Box::new(plain_sum::PlainSum::new(world)),
            Self::Forecast => Box::new(forecast::Forecast::new(world)),
        }
    }
}
