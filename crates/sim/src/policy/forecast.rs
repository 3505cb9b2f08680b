//! tidegate: the core that serves, called as a store calls it.

use std::time::Duration;

use tidegate_core::ask::Request;
use tidegate_core::decision::{Bound, Denial, ServiceTier};
use tidegate_core::forecast::{Prior, Sample};
use tidegate_core::key::KeyRef;
use tidegate_core::law::NO_BOOSTS;
use tidegate_core::reservation::{Number, Ticket};
use tidegate_core::state::{KeyState, Reserve, Rules, SettleCounts};
use tidegate_core::time::Timestamp;
use tidegate_core::window::Tokens;

use super::{KeyRules, Limiter, Stream, Surroundings, Verdict, World};
use crate::workload::Arrival;

/// Longer than the longest stream: a simulated gateway is never lost.
const TTL: Duration = Duration::from_secs(2 * 86_400);

/// The bound of live reservations of a key.
const MOST_RESERVATIONS: usize = 100_000;

const INCARNATION: u64 = 1;

/// A key as a store keeps it.
pub(super) struct Forecast<'a> {
    world: World<'a>,
    key: KeyRef<'a>,
    state: KeyState,
    tickets: Vec<Option<Ticket>>,
    sequence: u64,
    limits: Tokens,
}

impl<'a> Forecast<'a> {
    pub(super) fn new(world: World<'a>) -> Self {
        let key = KeyRef::new(&world.name.account, &world.name.model, "");
        let key = key.expect("the names of a trace are within the bounds of the wire");
        let prior = Prior::from_defaults(world.forecast);
        let state = KeyState::new(Timestamp::ZERO, key.phase_seconds(), &world.rules.bounds, &prior);
        Self { world, key, state, tickets: Vec::new(), sequence: 0, limits: world.rules.floors() }
    }

    /// Asks the core, and remembers the ticket if it allows. `rules` may be others than the world's.
    pub(super) fn reserve(
        &mut self,
        now: Timestamp,
        stream: &Stream,
        rules: &KeyRules,
        around: &Surroundings<'_>,
    ) -> Result<Tokens, Denial> {
        let asked = self.request(&stream.request);
        let reserve = Reserve { request: &asked, request_id: None, most_reservations: MOST_RESERVATIONS };
        let number = Number { incarnation: INCARNATION, sequence: self.sequence };
        self.sequence += 1;
        let rules = self.rules(rules, around);
        let decided = self.state.decide(now, &rules, &reserve, || Ok(number));
        self.limits = self.state.limits(&rules);
        let allowed =
            decided.expect("the request has no id, so its id cannot be taken").map_err(|refused| refused.denial)?;
        let ticket = Ticket { number, admitted_at: allowed.admitted_at, ttl: allowed.ttl, reserved: allowed.reserved };
        if self.tickets.len() <= stream.slot {
            self.tickets.resize(stream.slot + 1, None);
        }
        self.tickets[stream.slot] = Some(ticket);
        Ok(allowed.reserved)
    }

    /// What the core would ask for, without an admission.
    pub(super) fn ask(
        &mut self,
        now: Timestamp,
        stream: &Stream,
        rules: &KeyRules,
        around: &Surroundings<'_>,
    ) -> Option<Tokens> {
        let asked = self.request(&stream.request);
        let reserve = Reserve { request: &asked, request_id: None, most_reservations: MOST_RESERVATIONS };
        let decided = self.state.decide(now, &self.rules(rules, around), &reserve, || Err(Bound::Reservations));
        decided.ok().and_then(Result::err).map(|refused| refused.ask())
    }

    /// A request as a gateway would state it.
    fn request(&self, request: &Arrival) -> Request<'a> {
        let cached = request.prompt_tokens - request.uncached_prompt_tokens;
        Request {
            key: self.key,
            prompt_tokens: request.prompt_tokens,
            cached_prompt_tokens: self.world.cache_known.then_some(cached),
            max_generated_tokens: request.max_generated_tokens,
            service_tier: ServiceTier::Standard,
            request_id: None,
            ttl: TTL,
        }
    }

    /// Used and held tokens of the key.
    pub(super) fn carried(&mut self, now: Timestamp, rules: &KeyRules, around: &Surroundings<'_>) -> Tokens {
        self.state.advance(now, &self.rules(rules, around));
        let mut carried = self.state.used();
        carried.generated += self.state.held_tokens();
        carried
    }

    pub(super) fn report(
        &mut self,
        now: Timestamp,
        stream: &Stream,
        generated: u64,
        rules: &KeyRules,
        around: &Surroundings<'_>,
    ) {
        if let Some(ticket) = self.tickets[stream.slot] {
            let booked = self.state.report_progress(now, &self.rules(rules, around), &ticket, generated);
            debug_assert!(booked.is_ok(), "a live stream's report is booked");
        }
    }

    pub(super) fn settle(
        &mut self,
        now: Timestamp,
        stream: &Stream,
        rules: &KeyRules,
        around: &Surroundings<'_>,
    ) -> Option<Sample> {
        let request = &stream.request;
        let counts = SettleCounts {
            prompt_tokens: Some(request.prompt_tokens),
            cached_prompt_tokens: Some(request.prompt_tokens - request.uncached_prompt_tokens),
            generated_tokens: Some(request.generated_tokens),
        };
        let ticket = self.tickets[stream.slot].take()?;
        let booked = self.state.settle(now, &self.rules(rules, around), &ticket, &counts);
        booked.ok().and_then(|booked| booked.sample)
    }

    fn rules<'r>(&self, rules: &'r KeyRules, around: &Surroundings<'r>) -> Rules<'r>
    where
        'a: 'r,
    {
        Rules {
            bounds: &rules.bounds,
            law: &rules.law,
            boosts: &NO_BOOSTS,
            fallback: around.prior,
            forecast: self.world.forecast,
            pressure: around.pressure,
            incarnation: INCARNATION,
            allotment: None,
            law_is_shared: false,
        }
    }
}

impl Limiter for Forecast<'_> {
    fn decide(&mut self, now: Timestamp, stream: &Stream, around: &Surroundings<'_>) -> Verdict {
        match self.reserve(now, stream, self.world.rules, around) {
            Ok(_) => Verdict::Admitted,
            Err(denial) if denial.http_status() == 503 => Verdict::Overloaded,
            Err(_) => Verdict::RateLimited,
        }
    }

    fn on_progress(&mut self, now: Timestamp, stream: &Stream, generated: u64, around: &Surroundings<'_>) {
        self.report(now, stream, generated, self.world.rules, around);
    }

    fn on_end(&mut self, now: Timestamp, stream: &Stream, around: &Surroundings<'_>) -> Option<Sample> {
        self.settle(now, stream, self.world.rules, around)
    }

    fn stands_alone(&self) -> bool {
        !self.state.needs_fallback()
    }

    fn used(&self) -> Option<Tokens> {
        Some(self.state.used())
    }

    fn limits(&self) -> Tokens {
        self.limits
    }
}
