//! What rows compare, and what must come out.

use super::turn::Turn;

/// What a row compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    /// Calls a second; settlements are calls.
    Calls,
    /// Decisions a second.
    Decisions,
    /// Decisions for each second of the server's processor time.
    DecisionsOfProcessor,
    /// Latency of half of the calls, microseconds.
    P50,
    /// Latency of all but one in a hundred, microseconds.
    P99,
}

impl Figure {
    /// The figure of a turn.
    pub(super) fn of(self, turn: &Turn) -> f64 {
        match self {
            Self::Calls => turn.calls_per_s,
            Self::Decisions => turn.decisions_per_s,
            Self::DecisionsOfProcessor => 1e6 / turn.server_us_per_decision,
            Self::P50 => turn.p50_us,
            Self::P99 => turn.p99_us,
        }
    }

    /// Microseconds of the server's processor time for one.
    pub(super) const fn cost(self, turn: &Turn) -> f64 {
        match self {
            Self::Calls => turn.server_us_per_call,
            Self::Decisions | Self::DecisionsOfProcessor | Self::P50 | Self::P99 => turn.server_us_per_decision,
        }
    }

    /// Whether the load makes calls as fast as the server answers, so that a server with time to spare says nothing.
    pub(super) const fn is_throughput(self) -> bool {
        matches!(self, Self::Calls | Self::Decisions)
    }

    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::Calls => "calls/s",
            Self::Decisions => "decisions/s",
            Self::DecisionsOfProcessor => "decisions/processor-s",
            Self::P50 | Self::P99 => "us",
        }
    }
}

/// What the ratio of tidegate's figure to the other must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bar {
    /// At least this; the second is the aim.
    AtLeast(f64, f64),
    /// At most this; the second is the aim.
    AtMost(f64, f64),
    /// Nothing: it is only reported.
    None,
}

impl Bar {
    /// Whether it is met; `None` where there is none.
    pub(super) fn is_met(self, ratio: f64) -> Option<bool> {
        match self {
            Self::AtLeast(bar, _) => Some(ratio >= bar),
            Self::AtMost(bar, _) => Some(ratio <= bar),
            Self::None => None,
        }
    }

    pub(super) fn text(self) -> String {
        match self {
            Self::AtLeast(bar, aim) => format!(">= {bar} ({aim})"),
            Self::AtMost(bar, aim) => format!("<= {bar} ({aim})"),
            Self::None => String::new(),
        }
    }
}
