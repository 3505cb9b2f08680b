//! One run: a workload against a policy, in virtual time, with the truth booked beside it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens, Window};

use crate::busy::{Capacity, Load, Served};
use crate::policy::{KeyRules, Policy, Stream, Verdict, World};
use crate::truth::{Truth, WindowTruth};
use crate::workload::Workload;

/// When simulated time begins: not at the epoch, so that a minute before the first request exists.
const START: Timestamp = Timestamp::from_seconds(1_000_000);

/// How the gateway and the limiter of a run are set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// One for each key of the workload.
    pub rules: &'a [KeyRules],
    /// The forecast's settings.
    pub forecast: &'a ForecastDefaults,
    /// How often the gateway reports the output of a live stream; `None`: only at its end.
    pub progress_every: Option<Duration>,
    /// Whether a request states how much of its prompt is cached; else only its settlement does.
    pub cache_known: bool,
    /// What the deployment of each model can do, and that it reports how busy it is each second; `None`: nobody reports.
    pub capacity: Option<&'a Capacity>,
    /// Whether to keep what every window held at every second, for plots.
    pub record: bool,
}

/// What came of a run.
#[derive(Clone, Debug)]
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
    /// What its windows held.
    pub truth: PerWindow<WindowTruth>,
    /// Tokens it asked for.
    pub asked: Tokens,
    /// Requests it made.
    pub requests: u64,
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

/// A stream's next report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at_ms: u64,
    /// In the order of admission, so that ties are settled the same way in every run.
    order: u64,
    slot: usize,
}

/// Plays the whole workload. `on_request` is called before each request with its index, for progress bars.
#[must_use]
pub fn run(workload: &Workload, policy: Policy, setup: &Setup<'_>, mut on_request: impl FnMut(usize)) -> Outcome {
    let world =
        World { keys: &workload.keys, rules: setup.rules, forecast: setup.forecast, cache_known: setup.cache_known };
    let mut limiter = policy.limiter(world);
    let every_ms = setup.progress_every.map(|every| u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1));
    let mut streams: Vec<Stream> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut events: BinaryHeap<Reverse<Event>> = BinaryHeap::new();
    let spans = workload.spans();
    let mut truths: Vec<Option<Truth>> = vec![None; workload.keys.len()];
    let mut outcome = Outcome {
        requests: 0,
        admitted: 0,
        tokens: Tokens::default(),
        tokens_denied: Tokens::default(),
        keys: vec![KeyOutcome::default(); workload.keys.len()],
        served: Vec::new(),
    };
    let (models, count) = workload.models();
    let mut loads = vec![Load::default(); if setup.capacity.is_some() { count } else { 0 }];
    let mut second = 0;
    let next_event = |stream: &Stream, now_ms: u64| {
        let end = stream.request.end_ms();
        every_ms.map_or(end, |every| now_ms.saturating_add(every).min(end))
    };

    for (index, request) in workload.requests.iter().enumerate() {
        on_request(index);
        loop {
            // A second that ends together with a report ends first: the report is of the next.
            let end_ms = (second + 1) * 1_000;
            let until_ms = if loads.is_empty() { request.at_ms } else { request.at_ms.min(end_ms - 1) };
            while let Some(Reverse(event)) = events.pop_if_due(until_ms) {
                report(&mut *limiter, &mut events, &mut free, &streams[event.slot], event, &next_event);
            }
            let Some(capacity) = setup.capacity.filter(|_| end_ms <= request.at_ms) else { break };
            for (model, load) in loads.iter_mut().enumerate() {
                limiter.on_pressure(at(end_ms), model, load.end_second(capacity));
            }
            second += 1;
        }
        let slot = free.last().copied().unwrap_or(streams.len());
        let stream = Stream { request: *request, slot };
        let verdict = limiter.decide(at(request.at_ms), &stream);
        let tokens = Tokens::new(request.prompt_tokens, request.uncached_prompt_tokens, request.generated_tokens);
        let key = &mut outcome.keys[request.key as usize];
        let truth = truths[request.key as usize].get_or_insert_with(|| {
            let limit = setup.rules[request.key as usize].floors();
            if setup.record {
                key.record = Some(Record { first_second: request.at_ms.div_ceil(1_000), ..Record::default() });
            }
            Truth::new(&spans[request.key as usize], limit, setup.record)
        });
        key.on_decision(request.at_ms, limiter.limits(request.key), tokens, verdict);
        outcome.requests += 1;
        if verdict == Verdict::Admitted {
            outcome.admitted += 1;
            add(&mut outcome.tokens, tokens);
            truth.admit(request);
            if let Some(load) = loads.get_mut(models[request.key as usize]) {
                load.admit(request);
            }
            if free.pop().is_none() {
                streams.push(stream);
            } else {
                streams[slot] = stream;
            }
            let order = outcome.admitted;
            events.push(Reverse(Event { at_ms: next_event(&stream, request.at_ms), order, slot }));
        } else {
            add(&mut outcome.tokens_denied, tokens);
        }
    }
    outcome.served = loads.into_iter().map(Load::finish).collect();
    for (key, truth) in outcome.keys.iter_mut().zip(truths) {
        if let Some(truth) = truth {
            let (windows, held) = truth.finish();
            key.truth = windows;
            if let (Some(record), Some(held)) = (&mut key.record, held) {
                record.held = held;
            }
        }
    }
    outcome
}

impl KeyOutcome {
    fn on_decision(&mut self, at_ms: u64, limits: Tokens, asked: Tokens, verdict: Verdict) {
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

/// Tells the policy of a stream's progress or end, and sets its next report.
fn report(
    limiter: &mut dyn crate::policy::Limiter,
    events: &mut BinaryHeap<Reverse<Event>>,
    free: &mut Vec<usize>,
    stream: &Stream,
    event: Event,
    next_event: &impl Fn(&Stream, u64) -> u64,
) {
    let request = &stream.request;
    if event.at_ms >= request.end_ms() {
        limiter.on_end(at(event.at_ms), stream);
        free.push(event.slot);
        return;
    }
    let generated = request.generated_by(event.at_ms);
    if generated > 0 {
        limiter.on_progress(at(event.at_ms), stream, generated);
    }
    events.push(Reverse(Event { at_ms: next_event(stream, event.at_ms), ..event }));
}

/// The earliest event, if it is due.
trait PopIfDue {
    fn pop_if_due(&mut self, now_ms: u64) -> Option<Reverse<Event>>;
}

impl PopIfDue for BinaryHeap<Reverse<Event>> {
    fn pop_if_due(&mut self, now_ms: u64) -> Option<Reverse<Event>> {
        self.peek().is_some_and(|Reverse(event)| event.at_ms <= now_ms).then(|| self.pop())?
    }
}

fn at(ms: u64) -> Timestamp {
    START.after(Duration::from_millis(ms))
}

fn add(sum: &mut Tokens, tokens: Tokens) {
    *sum = PerWindow::from_fn(|window| sum[window].saturating_add(tokens[window]));
}

#[cfg(test)]
mod tests;
