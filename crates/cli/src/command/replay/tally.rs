//! What came of a replay's calls, counted from the answers alone.

use std::collections::{BTreeMap, HashMap};

use hdrhistogram::Histogram;
use tidegate_proto::v1::{CheckAndReserveResponse, Decision, SettleOutcome, Tokens};
use tonic::Status;

use super::agenda::{Step, Stream};
use super::caller::{Answered, Reply};
use crate::status::code_name;
use crate::words::{self, WINDOWS};

/// Keys that are followed one by one; those met later are in the totals alone.
const MAX_KEYS: usize = 10_000;

/// Longest latency told apart, microseconds; longer ones count as this.
const MAX_LATENCY_US: u64 = 60_000_000;

/// The calls, in the order in which they are shown.
pub(super) const CALLS: [&str; 3] = ["CheckAndReserve", "ReportProgress", "Settle"];

/// Counts of a replay.
pub(super) struct Tally {
    /// Requests that were sent.
    pub(super) requests: u64,
    /// Decisions by their word: `allow`, `rate_limited`, ...
    pub(super) decisions: BTreeMap<String, u64>,
    /// Denials by reason and binding window; one with two binding windows counts in both, one with none has window "".
    pub(super) denials: BTreeMap<(String, String), u64>,
    /// Tokens of settlements that took effect.
    pub(super) settled: Tokens,
    /// Tokens of requests that were denied.
    pub(super) denied: Tokens,
    /// Settlements by outcome: `applied`, `late`, `duplicate`.
    pub(super) settlements: BTreeMap<String, u64>,
    /// Calls that ended in a gRPC error, by call and code.
    pub(super) errors: BTreeMap<(&'static str, &'static str), u64>,
    /// The first such error.
    pub(super) first_error: Option<String>,
    /// Of these, how many came one after the other, up to now.
    pub(super) errors_in_a_row: u64,
    /// Microseconds per call, in the order of [`CALLS`].
    pub(super) latency_us: [Histogram<u64>; 3],
    /// By account and model.
    pub(super) keys: HashMap<(String, String), KeyTally>,
}

/// What one limit key's answers said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyTally {
    /// Requests that were decided.
    pub(super) requests: u64,
    /// Of these, admitted.
    pub(super) admitted: u64,
    /// Limits of its windows, in the order of [`WINDOWS`].
    pub(super) limits: [LimitCourse; 3],
}

/// How a limit moved, TPM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LimitCourse {
    /// In the first answer.
    pub(super) first_tpm: u64,
    /// In the last answer.
    pub(super) last_tpm: u64,
    /// The largest.
    pub(super) peak_tpm: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("1 <= 60 s, and 3 digits are allowed");
        Self {
            requests: 0,
            decisions: BTreeMap::new(),
            denials: BTreeMap::new(),
            settled: Tokens::default(),
            denied: Tokens::default(),
            settlements: BTreeMap::new(),
            errors: BTreeMap::new(),
            first_error: None,
            errors_in_a_row: 0,
            latency_us: [histogram(), histogram(), histogram()],
            keys: HashMap::new(),
        }
    }
}

impl Tally {
    /// Counts one answered call.
    pub(super) fn on_answer(&mut self, answered: &Answered) {
        let call = call_index(answered.call.step);
        self.latency_us[call].saturating_record(answered.latency_us.max(1));
        self.requests += u64::from(answered.call.step == Step::Reserve);
        let stream = &answered.call.stream;
        match &answered.reply {
            Ok(Reply::Reserved(answer)) => self.on_decision(stream, answer),
            Ok(Reply::Progressed(_)) => {}
            Ok(Reply::Settled(answer)) => {
                *self.settlements.entry(words::outcome(answer.outcome)).or_default() += 1;
                let Step::Settle { generated_tokens } = answered.call.step else { return };
                if matches!(answer.outcome(), SettleOutcome::Applied | SettleOutcome::Late) {
                    add(&mut self.settled, stream, generated_tokens);
                }
            }
            Err(status) => return self.on_error(CALLS[call], status),
        }
        self.errors_in_a_row = 0;
    }

    /// How many requests were decided this way.
    pub(super) fn decided(&self, decision: Decision) -> u64 {
        self.decisions.get(&words::decision(decision.into())).copied().unwrap_or(0)
    }

    /// Calls that ended in a gRPC error.
    pub(super) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    fn on_decision(&mut self, stream: &Stream, answer: &CheckAndReserveResponse) {
        *self.decisions.entry(words::decision(answer.decision)).or_default() += 1;
        if answer.decision() != Decision::Allow {
            add(&mut self.denied, stream, stream.request.generated_tokens);
            let reason = words::reason(answer.reason).unwrap_or_default();
            let binding = answer.windows.iter().filter(|status| status.binding);
            let mut windows: Vec<_> = binding.map(|status| words::window(status.window)).collect();
            if windows.is_empty() {
                windows.push(String::new());
            }
            for window in windows {
                *self.denials.entry((reason.clone(), window)).or_default() += 1;
            }
        }
        let key = (stream.request.account.clone(), stream.request.model.clone());
        if self.keys.len() < MAX_KEYS || self.keys.contains_key(&key) {
            self.keys.entry(key).or_default().on_decision(answer);
        }
    }

    fn on_error(&mut self, call: &'static str, status: &Status) {
        let code = code_name(status.code());
        *self.errors.entry((call, code)).or_default() += 1;
        self.errors_in_a_row += 1;
        self.first_error.get_or_insert_with(|| format!("{call}: {code}: {}", status.message()));
    }
}

impl KeyTally {
    fn on_decision(&mut self, answer: &CheckAndReserveResponse) {
        for (course, window) in self.limits.iter_mut().zip(WINDOWS) {
            let Some(status) = answer.windows.iter().find(|status| status.window() == window) else { continue };
            if self.requests == 0 {
                course.first_tpm = status.limit_tpm;
            }
            course.last_tpm = status.limit_tpm;
            course.peak_tpm = course.peak_tpm.max(status.limit_tpm);
        }
        self.requests += 1;
        self.admitted += u64::from(answer.decision() == Decision::Allow);
    }
}

fn add(sum: &mut Tokens, stream: &Stream, generated_tokens: u64) {
    sum.prompt += stream.request.prompt_tokens;
    sum.uncached_prompt += stream.request.prompt_tokens - stream.request.cached_tokens();
    sum.generated += generated_tokens;
}

/// Where a step's call stands in [`CALLS`].
fn call_index(step: Step) -> usize {
    match step {
        Step::Reserve => 0,
        Step::Progress { .. } => 1,
        Step::Settle { .. } => 2,
    }
}
