//! tidegate: the core that serves, called as a store calls it.

use std::collections::HashMap;
use std::time::Duration;

use tidegate_core::ask::Request;
use tidegate_core::decision::{Bound, Denial, ServiceTier};
use tidegate_core::forecast::{Model, Prior};
use tidegate_core::key::KeyRef;
use tidegate_core::pressure::{DEFAULT_TTL, Deployment};
use tidegate_core::reservation::{Number, Ticket};
use tidegate_core::state::{Booked, KeyState, Reserve, Rules, SettleCounts};
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens};

use super::{KeyRules, Limiter, Stream, Verdict, World};
use crate::workload::{Arrival, KeyName};

/// Longer than the longest stream: a simulated gateway is never lost.
const TTL: Duration = Duration::from_secs(2 * 86_400);

/// The one that reports pressure.
const REPORTER: u128 = 1;

/// The bound of live reservations of a key.
const MOST_RESERVATIONS: usize = 100_000;

/// Keys and models as a store keeps them.
pub(super) struct Forecast<'a> {
    world: World<'a>,
    keys: Vec<Key>,
    models: Vec<Model>,
    /// Of each model, once anybody has reported on one.
    deployments: Vec<Deployment>,
    defaults: Prior,
    tickets: Vec<Option<Ticket>>,
    sequence: u64,
}

struct Key {
    state: KeyState,
    model: usize,
    limits: Tokens,
}

impl<'a> Forecast<'a> {
    pub(super) fn new(world: World<'a>) -> Self {
        let defaults = Prior::from_defaults(world.forecast);
        let mut models = HashMap::new();
        let keys = world.keys.iter().zip(world.rules).map(|(name, rules)| {
            let next = models.len();
            let model = *models.entry(name.model.as_str()).or_insert(next);
            let phase = key_ref(&name.account, &name.model).phase_seconds();
            Key {
                state: KeyState::new(Timestamp::ZERO, phase, &rules.bounds, &defaults),
                model,
                limits: rules.floors(),
            }
        });
        let keys = keys.collect();
        let models = vec![Model::new(&defaults); models.len()];
        Self { world, keys, models, deployments: Vec::new(), defaults, tickets: Vec::new(), sequence: 0 }
    }

    /// Asks the core, and remembers the ticket if it allows. `rules` may be others than the world's.
    pub(super) fn reserve(&mut self, now: Timestamp, stream: &Stream, rules: &KeyRules) -> Result<Tokens, Denial> {
        let request = &stream.request;
        let name = &self.world.keys[request.key as usize];
        let asked = self.request(name, request);
        let reserve = Reserve { request: &asked, request_id: None, most_reservations: MOST_RESERVATIONS };
        let number = Number { incarnation: 1, sequence: self.sequence };
        self.sequence += 1;
        let reserve = |state: &mut KeyState, rules: &Rules<'_>| state.reserve(now, rules, &reserve, || Ok(number));
        let answer = self.call(now, request.key, rules, reserve);
        let answer = answer.expect("the request has no id, so its id cannot be taken");
        if let Some(deployment) = self.deployments.get_mut(self.keys[request.key as usize].model) {
            deployment.on_decision(now, answer.windows.map(|status| status.used_tokens), &rules.bounds);
        }
        self.keys[request.key as usize].limits = answer.windows.map(|status| status.limit_tpm);
        let allowed = answer.outcome.map_err(|denied| denied.denial)?;
        let ticket = Ticket { number, admitted_at: allowed.admitted_at, ttl: allowed.ttl, reserved: allowed.reserved };
        if self.tickets.len() <= stream.slot {
            self.tickets.resize(stream.slot + 1, None);
        }
        self.tickets[stream.slot] = Some(ticket);
        Ok(allowed.reserved)
    }

    /// What the core would ask for, without an admission.
    pub(super) fn ask(&mut self, now: Timestamp, stream: &Stream, rules: &KeyRules) -> Option<Tokens> {
        let name = &self.world.keys[stream.request.key as usize];
        let asked = self.request(name, &stream.request);
        let reserve = Reserve { request: &asked, request_id: None, most_reservations: MOST_RESERVATIONS };
        let answer = self.call(now, stream.request.key, rules, |state, rules| {
            state.reserve(now, rules, &reserve, || Err(Bound::Reservations))
        });
        answer.ok().and_then(|answer| answer.outcome.err()).map(|denied| denied.ask)
    }

    /// A request as a gateway would state it.
    fn request<'n>(&self, name: &'n KeyName, request: &Arrival) -> Request<'n> {
        let cached = request.prompt_tokens - request.uncached_prompt_tokens;
        Request {
            key: key_ref(&name.account, &name.model),
            prompt_tokens: request.prompt_tokens,
            cached_prompt_tokens: self.world.cache_known.then_some(cached),
            max_generated_tokens: request.max_generated_tokens,
            service_tier: ServiceTier::Standard,
            request_id: None,
            ttl: TTL,
        }
    }

    /// Used and held tokens of a key.
    pub(super) fn carried(&mut self, now: Timestamp, key: u32, rules: &KeyRules) -> Tokens {
        let windows = self.call(now, key, rules, |state, rules| {
            state.advance(now, rules);
            state.windows(rules)
        });
        windows.map(|status| status.used_tokens + status.held_tokens)
    }

    pub(super) fn report(&mut self, now: Timestamp, stream: &Stream, generated: u64, rules: &KeyRules) {
        if let Some(ticket) = self.tickets[stream.slot] {
            let booked = self.call(now, stream.request.key, rules, |state, rules| {
                state.report_progress(now, rules, &ticket, generated)
            });
            self.learn(stream.request.key, booked.ok());
        }
    }

    pub(super) fn settle(&mut self, now: Timestamp, stream: &Stream, rules: &KeyRules) {
        let request = &stream.request;
        let counts = SettleCounts {
            prompt_tokens: Some(request.prompt_tokens),
            cached_prompt_tokens: Some(request.prompt_tokens - request.uncached_prompt_tokens),
            generated_tokens: Some(request.generated_tokens),
        };
        if let Some(ticket) = self.tickets[stream.slot].take() {
            let booked = self.call(now, request.key, rules, |state, rules| state.settle(now, rules, &ticket, &counts));
            self.learn(request.key, booked.ok());
        }
    }

    fn learn(&mut self, key: u32, booked: Option<Booked>) {
        if let Some(sample) = booked.and_then(|booked| booked.sample) {
            self.models[self.keys[key as usize].model].on_settled(&sample, &self.defaults);
        }
    }

    fn call<T>(
        &mut self,
        now: Timestamp,
        key: u32,
        rules: &KeyRules,
        step: impl FnOnce(&mut KeyState, &Rules<'_>) -> T,
    ) -> T {
        let key = &mut self.keys[key as usize];
        let fallback = if key.state.needs_fallback() { self.models[key.model].prior() } else { &self.defaults };
        let rules = Rules {
            bounds: &rules.bounds,
            law: &rules.law,
            boosts: &tidegate_core::law::NO_BOOSTS,
            fallback,
            forecast: self.world.forecast,
            pressure: self.deployments.get_mut(key.model).map(|model| model.readings(now)).unwrap_or_default(),
            incarnation: 1,
        };
        step(&mut key.state, &rules)
    }

    pub(super) fn rules(&self, key: u32) -> &'a KeyRules {
        &self.world.rules[key as usize]
    }
}

fn key_ref<'n>(account: &'n str, model: &'n str) -> KeyRef<'n> {
    KeyRef::new(account, model, "").expect("the names of a trace are within the bounds of the wire")
}

impl Limiter for Forecast<'_> {
    fn decide(&mut self, now: Timestamp, stream: &Stream) -> Verdict {
        match self.reserve(now, stream, self.rules(stream.request.key)) {
            Ok(_) => Verdict::Admitted,
            Err(denial) if denial.http_status() == 503 => Verdict::Overloaded,
            Err(_) => Verdict::RateLimited,
        }
    }

    fn on_progress(&mut self, now: Timestamp, stream: &Stream, generated_tokens: u64) {
        self.report(now, stream, generated_tokens, self.rules(stream.request.key));
    }

    fn on_end(&mut self, now: Timestamp, stream: &Stream) {
        self.settle(now, stream, self.rules(stream.request.key));
    }

    fn on_pressure(&mut self, now: Timestamp, model: usize, permille: PerWindow<u32>) {
        self.deployments.resize_with(self.models.len(), Deployment::default);
        let reported = self.deployments[model].report(now, REPORTER, permille.map(Some), DEFAULT_TTL);
        reported.expect("there is one reporter");
    }

    fn limits(&self, key: u32) -> Tokens {
        self.keys[key as usize].limits
    }
}
