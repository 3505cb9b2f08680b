//! What today's gateways do: hold a maximum or a constant, or charge afterwards. They count in the same windows as tidegate,
//! and hear the same reports.

use tidegate_core::charges::{Charges, Output};
use tidegate_core::forecast::Sample;
use tidegate_core::time::Timestamp;
use tidegate_core::window::Tokens;

use super::{Limiter, Stream, Surroundings, Verdict, World};
use crate::workload::Arrival;

/// What is held where a request declares no maximum.
pub(super) const USUAL_MAXIMUM: u64 = 4_096;
pub(super) const FIXED_HOLD: u64 = 1_024;

#[derive(Default)]
struct Key {
    limit: Tokens,
    prompt: Charges<2>,
    generated: Output,
    held: u64,
}

impl Key {
    fn of(world: World<'_>) -> Self {
        Self { limit: world.rules.floors(), ..Self::default() }
    }

    fn used(&mut self, now: Timestamp) -> Tokens {
        self.prompt.expire(now);
        self.generated.expire(now);
        let [prompt, uncached] = self.prompt.sum();
        Tokens::new(prompt, uncached, self.generated.sum())
    }
}

/// What a live stream has reported, when, and what is still held for it.
#[derive(Clone, Copy, Default)]
struct Report {
    generated: u64,
    at: Timestamp,
    held: u64,
}

/// Holds what `hold` says until it is used; used + holds + ask <= limit.
pub(super) struct Holding<H> {
    hold: H,
    key: Key,
    reports: Vec<Report>,
}

impl<H: Fn(&Arrival) -> u64> Holding<H> {
    pub(super) fn new(world: World<'_>, hold: H) -> Self {
        Self { hold, key: Key::of(world), reports: Vec::new() }
    }

    fn report(&mut self, now: Timestamp, stream: &Stream, generated: u64, ended: bool) {
        let key = &mut self.key;
        let report = &mut self.reports[stream.slot];
        let produced = generated - report.generated;
        key.generated.expire(now);
        key.generated.spread(report.at, now, produced);
        let held = if ended { 0 } else { report.held.saturating_sub(produced) };
        key.held = key.held - report.held + held;
        *report = Report { generated, at: now, held };
    }
}

impl<H: Fn(&Arrival) -> u64 + Send> Limiter for Holding<H> {
    fn decide(&mut self, now: Timestamp, stream: &Stream, _around: &Surroundings<'_>) -> Verdict {
        let request = &stream.request;
        let held = (self.hold)(request);
        let key = &mut self.key;
        let used = key.used(now);
        let fits = used.prompt + request.prompt_tokens <= key.limit.prompt
            && used.uncached_prompt + request.uncached_prompt_tokens <= key.limit.uncached_prompt
            && used.generated + key.held + held <= key.limit.generated;
        if !fits {
            return Verdict::RateLimited;
        }
        key.prompt.charge(now, [request.prompt_tokens, request.uncached_prompt_tokens]);
        key.held += held;
        if self.reports.len() <= stream.slot {
            self.reports.resize(stream.slot + 1, Report::default());
        }
        self.reports[stream.slot] = Report { generated: 0, at: now, held };
        Verdict::Admitted
    }

    fn on_progress(&mut self, now: Timestamp, stream: &Stream, generated: u64, _around: &Surroundings<'_>) {
        self.report(now, stream, generated, false);
    }

    fn on_end(&mut self, now: Timestamp, stream: &Stream, _around: &Surroundings<'_>) -> Option<Sample> {
        self.report(now, stream, stream.request.generated_tokens, true);
        None
    }

    fn limits(&self) -> Tokens {
        self.key.limit
    }
}

/// Admits while every window is below its limit; charges the whole request when it ends.
pub(super) struct ChargeAfter {
    key: Key,
}

impl ChargeAfter {
    pub(super) fn new(world: World<'_>) -> Self {
        Self { key: Key::of(world) }
    }
}

impl Limiter for ChargeAfter {
    fn decide(&mut self, now: Timestamp, _stream: &Stream, _around: &Surroundings<'_>) -> Verdict {
        let key = &mut self.key;
        let used = key.used(now);
        let below = used.iter().all(|(window, used)| *used < key.limit[window]);
        if below { Verdict::Admitted } else { Verdict::RateLimited }
    }

    fn on_end(&mut self, now: Timestamp, stream: &Stream, _around: &Surroundings<'_>) -> Option<Sample> {
        let request = &stream.request;
        let key = &mut self.key;
        key.prompt.expire(now);
        key.generated.expire(now);
        key.prompt.charge(now, [request.prompt_tokens, request.uncached_prompt_tokens]);
        key.generated.spread(now, now, request.generated_tokens);
        None
    }

    fn limits(&self) -> Tokens {
        self.key.limit
    }
}
