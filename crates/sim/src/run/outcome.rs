//! What came of a run.

use tidegate_core::window::{PerWindow, Tokens, Window};

use super::add;
use crate::busy::Served;
use crate::policy::Verdict;
use crate::truth::WindowTruth;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Requests played.
    pub requests: u64,
    /// Of these, admitted.
    pub admitted: u64,
    /// Tokens of the admitted requests.
    pub tokens: Tokens,
    /// Tokens of the refused ones.
    pub tokens_denied: Tokens,
    /// As many as keys.
    pub keys: Vec<KeyOutcome>,
    /// What the deployment of each model did until the last request; none where nobody reports.
    pub served: Vec<Served>,
}

/// What came of one key; a key without requests has none.
#[derive(Clone, Debug, Default)]
pub struct KeyOutcome {
    /// What its windows held, where that was kept.
    pub truth: PerWindow<WindowTruth>,
    /// Tokens it asked for.
    pub asked: Tokens,
    /// Of these, of requests that were admitted, and refused.
    pub tokens: Tokens,
    /// As above.
    pub tokens_denied: Tokens,
    /// Requests it made.
    pub requests: u64,
    /// Of these, admitted.
    pub admitted: u64,
    /// Of these, refused because of its own limits: 429.
    pub rate_limited: u64,
    /// Refused because the deployment is busy: 503.
    pub overloaded: u64,
    /// Its limits at its first and at its last decision, and the highest.
    pub limit: PerWindow<LimitCourse>,
    /// For plots, where they were asked for.
    pub record: Option<Record>,
}

/// How a limit moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitCourse {
    /// TPM at the first decision.
    pub first: u64,
    /// TPM at the last decision.
    pub last: u64,
    /// Highest TPM at any decision.
    pub peak: u64,
}

/// The course of a key, second by second from its first request on.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Second of the first sample, from the start of the trace.
    pub first_second: u64,
    /// Tokens in the windows at each second.
    pub held: Vec<Tokens>,
    /// The limits, where a decision found them changed: second and TPM.
    pub limits: Vec<(u64, Tokens)>,
    /// Second of each 429.
    pub rate_limited: Vec<u64>,
    /// Second of each 503.
    pub overloaded: Vec<u64>,
}

impl KeyOutcome {
    pub(super) fn on_decision(&mut self, at_ms: u64, limits: Tokens, asked: Tokens, verdict: Verdict) {
        add(&mut self.asked, asked);
        self.requests += 1;
        self.rate_limited += u64::from(verdict == Verdict::RateLimited);
        self.overloaded += u64::from(verdict == Verdict::Overloaded);
        for window in Window::ALL {
            let (course, limit) = (&mut self.limit[window], limits[window]);
            if course.peak == 0 {
                course.first = limit;
            }
            course.last = limit;
            course.peak = course.peak.max(limit);
        }
        if let Some(record) = &mut self.record {
            let second = at_ms / 1_000;
            if record.limits.last().is_none_or(|(_, last)| *last != limits) {
                record.limits.push((second, limits));
            }
            match verdict {
                Verdict::Admitted => {}
                Verdict::RateLimited => record.rate_limited.push(second),
                Verdict::Overloaded => record.overloaded.push(second),
            }
        }
    }
}
