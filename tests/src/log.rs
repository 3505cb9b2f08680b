//! What `tidegate replay --decisions` wrote: every call and its answer, booked in both ledgers.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::GzDecoder;
use serde::Deserialize;

use crate::ledger::{Allow, DecisionLedger, Key, Limits, Outcome, Tokens, When};
use crate::truth::TruthLedger;

/// One call of the log, as far as the ledgers need it.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Call {
    /// The first line.
    Run {
        /// `test` or `real`.
        clock: String,
    },
    /// `CheckAndReserve`.
    Reserve {
        /// Row of the trace, from 0.
        row: u64,
        /// When it was sent, microseconds.
        sent_us: u64,
        /// When it was answered, microseconds.
        received_us: u64,
        /// Whose.
        account: String,
        /// On what.
        model: String,
        /// On which variant.
        variant: String,
        /// As asked.
        prompt_tokens: u64,
        /// As asked.
        cached_prompt_tokens: Option<u64>,
        /// As answered; none where the call failed.
        decision: Option<String>,
        /// As answered.
        #[serde(default)]
        replayed: bool,
        /// As answered.
        reserved: Option<Reserved>,
        /// Its number, if it was allowed.
        reservation: Option<u64>,
        /// As answered.
        #[serde(default)]
        windows: Vec<WindowLine>,
    },
    /// `ReportProgress`.
    Progress {
        /// When it was sent, microseconds.
        sent_us: u64,
        /// When it was answered, microseconds.
        received_us: u64,
        /// Which.
        reservation: u64,
        /// Total so far.
        generated_tokens: u64,
        /// As answered.
        outcome: Option<String>,
    },
    /// `Settle`.
    Settle {
        /// When it was sent, microseconds.
        sent_us: u64,
        /// When it was answered, microseconds.
        received_us: u64,
        /// Which.
        reservation: u64,
        /// As stated.
        prompt_tokens: u64,
        /// As stated.
        cached_prompt_tokens: u64,
        /// As stated.
        generated_tokens: u64,
        /// As answered.
        outcome: Option<String>,
    },
}

/// `reserved` of an answer.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Reserved {
    prompt: u64,
    uncached_prompt: u64,
    generated: u64,
}

impl From<Reserved> for Tokens {
    fn from(reserved: Reserved) -> Self {
        [reserved.prompt, reserved.uncached_prompt, reserved.generated]
    }
}

/// A window of an answer.
#[derive(Clone, Debug, Deserialize)]
pub struct WindowLine {
    window: String,
    limit: u64,
    effective_limit: u64,
}

/// A log, read whole.
#[derive(Clone, Debug)]
pub struct CallLog {
    /// Whether the instants are those of a test clock, on which calls were made one after the other.
    pub exact: bool,
    /// The calls in the order of their answers.
    pub calls: Vec<Call>,
}

fn windows_of(lines: &[WindowLine]) -> Option<[Limits; 3]> {
    let of = |name: &str| {
        let line = lines.iter().find(|line| line.window == name)?;
        // The log does not say the bounds.
        Some(Limits { floor: 0, effective: line.effective_limit, limit: line.limit, ceiling: u64::MAX })
    };
    Some([of("prompt")?, of("uncached_prompt")?, of("generated")?])
}

fn outcome(word: Option<&str>) -> Option<Outcome> {
    Some(match word? {
        "applied" => Outcome::Applied,
        "late" => Outcome::Late,
        "duplicate" => Outcome::Duplicate,
        other => panic!("an outcome that nobody knows: {other}"),
    })
}

impl CallLog {
    /// Reads the file that `replay --decisions` wrote.
    ///
    /// # Panics
    /// If it is not one.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let lines = BufReader::new(file).lines().map(|line| line.expect("the log is text"));
        let mut calls = lines.map(|line| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")));
        let Some(Call::Run { clock }) = calls.next() else { panic!("the log says on which clock it was made") };
        Self { exact: clock == "test", calls: calls.collect() }
    }

    /// Books every call.
    #[must_use]
    pub fn book(&self) -> (DecisionLedger, TruthLedger) {
        let (mut decisions, mut truth) = (DecisionLedger::new(), TruthLedger::new());
        let mut admitted: HashMap<u64, (Key, u64)> = HashMap::new();
        for (order, call) in (1..).zip(&self.calls) {
            let when =
                |sent, received| if self.exact { When::exactly(sent, order) } else { When::between(sent, received) };
            match call {
                Call::Run { .. } => panic!("a log within a log"),
                Call::Reserve { sent_us, received_us, account, model, variant, reservation, windows, .. } => {
                    let key: Key = (account.clone(), model.clone(), variant.clone());
                    let Some(limits) = windows_of(windows) else { continue };
                    truth.limits(&key, *received_us, limits.map(|limits| limits.effective));
                    if let Some(reservation) = reservation {
                        admitted.insert(*reservation, (key.clone(), *sent_us));
                        decisions.allow(call.allow(key, *reservation, when(*sent_us, *received_us), limits));
                    }
                }
                Call::Progress { sent_us, received_us, reservation, generated_tokens, outcome: word } => {
                    let Some(outcome) = outcome(word.as_deref()) else { continue };
                    decisions.progress(&id(*reservation), when(*sent_us, *received_us), *generated_tokens, outcome);
                }
                Call::Settle {
                    sent_us,
                    received_us,
                    reservation,
                    prompt_tokens,
                    cached_prompt_tokens,
                    generated_tokens,
                    outcome: word,
                } => {
                    let [prompt, cached, generated] = [*prompt_tokens, *cached_prompt_tokens, *generated_tokens];
                    if let Some((key, at)) = admitted.remove(reservation) {
                        truth.admitted(&key, at, sent_us - at, [prompt, prompt.saturating_sub(cached), generated]);
                    }
                    let Some(outcome) = outcome(word.as_deref()) else { continue };
                    let when = when(*sent_us, *received_us);
                    decisions.settle(&id(*reservation), when, Some(prompt), Some(cached), Some(generated), outcome);
                }
            }
        }
        (decisions, truth)
    }
}

impl Call {
    fn allow(&self, key: Key, reservation: u64, when: When, limits: [Limits; 3]) -> Allow {
        let Self::Reserve { prompt_tokens, cached_prompt_tokens, replayed, reserved, .. } = self else {
            panic!("only CheckAndReserve is allowed")
        };
        Allow {
            key,
            reservation: id(reservation),
            when,
            prompt: *prompt_tokens,
            cached: *cached_prompt_tokens,
            max_generated: None,
            reserved: reserved.expect("an ALLOW says what it reserved").into(),
            replayed: *replayed,
            limits,
        }
    }
}

fn id(reservation: u64) -> String {
    format!("reservation {reservation}")
}

/// What a trace holds, counted without the project's own reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceSum {
    /// Rows.
    pub requests: u64,
    /// Prompt, uncached prompt and generated tokens.
    pub tokens: Tokens,
}

impl TraceSum {
    /// Sums a trace, plain or gzip.
    ///
    /// # Panics
    /// If it is not one.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let compressed = path.extension().is_some_and(|extension| extension == "gz");
        let file: Box<dyn Read> = if compressed { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
        let mut lines = BufReader::new(file).lines().map(|line| line.expect("a trace is text"));
        let header = lines.next().expect("a trace has a header");
        let columns: Vec<&str> = header.split(',').collect();
        let column = |name: &str| columns.iter().position(|column| *column == name).expect("a trace has its columns");
        let (prompt, cached) = (column("prompt_tokens"), column("cached_prompt_tokens"));
        let generated = column("generated_tokens");
        let mut sum = Self::default();
        for line in lines {
            let fields: Vec<&str> = line.split(',').collect();
            let number = |index: usize| fields[index].parse::<u64>().unwrap_or(0);
            sum.requests += 1;
            sum.tokens[0] += number(prompt);
            sum.tokens[1] += number(prompt) - number(cached);
            sum.tokens[2] += number(generated);
        }
        sum
    }
}
