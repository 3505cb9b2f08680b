//! One key: its requests, its streams, the policy that decides about them and the truth, in the order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tidegate_core::forecast::Sample;
use tidegate_core::window::Tokens;

use super::outcome::{KeyOutcome, Record};
use super::{Keep, Setup, add, at};
use crate::policy::{Limiter, Policy, Stream, Surroundings, Verdict, World};
use crate::truth::Truth;
use crate::workload::{Arrival, Span, Workload};

/// A place in the order of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment {
    pub(super) at_ms: u64,
    pub(super) what: What,
    /// The index of the request that this is about.
    pub(super) request: u32,
}

/// What comes first at the same millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// A second of the deployments has ended.
    Second,
    /// A stream reports, or ends.
    Report,
    Request,
}

/// A live stream's next report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at_ms: u64,
    request: u32,
    slot: usize,
}

/// What became of a step.
pub(super) enum Step {
    /// The request was admitted.
    Admitted(Arrival),
    /// The request was refused.
    Refused,
    /// The stream reported.
    Reported,
    /// The stream ended, and its model can learn from that.
    Ended(Option<Sample>),
}

pub(super) struct Player<'a> {
    setup: &'a Setup<'a>,
    every_ms: Option<u64>,
    /// Of the whole workload.
    requests: &'a [Arrival],
    /// The indices of this key's.
    own: &'a [u32],
    /// How many of those have come.
    come: usize,
    limiter: Box<dyn Limiter + 'a>,
    streams: Vec<Stream>,
    free: Vec<usize>,
    events: BinaryHeap<Reverse<Event>>,
    truth: Option<Truth>,
    outcome: KeyOutcome,
}

impl<'a> Player<'a> {
    /// A key that makes the requests of these indices, of which there is at least one.
    pub(super) fn new(
        workload: &'a Workload,
        key: usize,
        own: &'a [u32],
        span: &Span,
        policy: Policy,
        setup: &'a Setup<'a>,
    ) -> Self {
        let rules = &setup.rules[key];
        let world =
            World { name: &workload.keys[key], rules, forecast: setup.forecast, cache_known: setup.cache_known };
        let course = setup.keep == Keep::Course;
        let record = Record { first_second: span.first_ms.div_ceil(1_000), ..Record::default() };
        let every = setup.progress_every.map(|every| u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1));
        Self {
            setup,
            every_ms: every,
            requests: &workload.requests,
            own,
            come: 0,
            limiter: policy.limiter(world),
            streams: Vec::new(),
            free: Vec::new(),
            events: BinaryHeap::new(),
            truth: (setup.keep != Keep::Decisions).then(|| Truth::new(span, rules.floors(), course)),
            outcome: KeyOutcome { record: course.then_some(record), ..KeyOutcome::default() },
        }
    }

    /// The next thing that happens.
    pub(super) fn next(&self) -> Option<Moment> {
        let report = self.events.peek().map(|Reverse(event)| Moment {
            at_ms: event.at_ms,
            what: What::Report,
            request: event.request,
        });
        let request = self.own.get(self.come).map(|&request| Moment {
            at_ms: self.requests[request as usize].at_ms,
            what: What::Request,
            request,
        });
        report.into_iter().chain(request).min()
    }

    /// Does what [`Player::next`] says.
    pub(super) fn step(&mut self, moment: Moment, around: &Surroundings<'_>) -> Step {
        if moment.what == What::Request { self.on_request(moment.request, around) } else { self.on_report(around) }
    }

    fn on_request(&mut self, index: u32, around: &Surroundings<'_>) -> Step {
        self.come += 1;
        let request = self.requests[index as usize];
        let slot = self.free.last().copied().unwrap_or(self.streams.len());
        let stream = Stream { request, slot };
        let verdict = self.limiter.decide(at(request.at_ms), &stream, around);
        let tokens = Tokens::new(request.prompt_tokens, request.uncached_prompt_tokens, request.generated_tokens);
        self.outcome.on_decision(request.at_ms, self.limiter.limits(), tokens, verdict);
        if verdict != Verdict::Admitted {
            add(&mut self.outcome.tokens_denied, tokens);
            return Step::Refused;
        }
        self.outcome.admitted += 1;
        add(&mut self.outcome.tokens, tokens);
        if let Some(truth) = &mut self.truth {
            truth.admit(&request);
        }
        if self.free.pop().is_none() {
            self.streams.push(stream);
        } else {
            self.streams[slot] = stream;
        }
        self.events.push(Reverse(Event { at_ms: self.next_report(&request, request.at_ms), request: index, slot }));
        Step::Admitted(request)
    }

    fn on_report(&mut self, around: &Surroundings<'_>) -> Step {
        let Some(Reverse(event)) = self.events.pop() else { return Step::Reported };
        let stream = self.streams[event.slot];
        let request = &stream.request;
        if event.at_ms >= request.end_ms() {
            self.free.push(event.slot);
            return Step::Ended(self.limiter.on_end(at(event.at_ms), &stream, around));
        }
        let generated = request.generated_by(event.at_ms);
        if generated > 0 {
            self.limiter.on_progress(at(event.at_ms), &stream, generated, around);
        }
        self.events.push(Reverse(Event { at_ms: self.next_report(request, event.at_ms), ..event }));
        Step::Reported
    }

    fn next_report(&self, request: &Arrival, now_ms: u64) -> u64 {
        let end = request.end_ms();
        self.every_ms.map_or(end, |every| now_ms.saturating_add(every).min(end))
    }

    /// Whether this key needs nothing from its model, now and later.
    pub(super) fn stands_alone(&self) -> bool {
        self.setup.capacity.is_none() && self.limiter.stands_alone()
    }

    /// Plays what comes before `until`. What the model can learn from it goes to `learn`.
    pub(super) fn play(&mut self, until: Moment, around: &Surroundings<'_>, mut learn: impl FnMut(Moment, Sample)) {
        while let Some(moment) = self.next().filter(|moment| *moment < until) {
            if let Step::Ended(Some(sample)) = self.step(moment, around) {
                learn(moment, sample);
            }
        }
    }

    /// Tokens in the windows, where a busy deployment matters to the policy.
    pub(super) fn used(&self) -> Option<Tokens> {
        self.limiter.used()
    }

    /// How many of its requests have come.
    pub(super) fn come(&self) -> u64 {
        self.come as u64
    }

    pub(super) fn finish(mut self) -> KeyOutcome {
        let (windows, held) = self.truth.map(Truth::finish).unwrap_or_default();
        self.outcome.truth = windows;
        if let (Some(record), Some(held)) = (&mut self.outcome.record, held) {
            record.held = held;
        }
        self.outcome
    }
}
