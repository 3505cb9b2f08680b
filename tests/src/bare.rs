//! The bare core, given the calls of a replay in the order in which the server had them: no store, no sockets, no ids.
//!
//! What it admits is what the server should have admitted; where the two part, something between the socket and the core
//! decides, and nothing there should.

use std::collections::HashMap;
use std::time::Duration;

use tidegate_core::ask::Request;
use tidegate_core::decision::ServiceTier;
use tidegate_core::forecast::{ForecastDefaults, Model, Prior};
use tidegate_core::key::KeyRef;
use tidegate_core::policy::{Policy, Resolved};
use tidegate_core::reservation::{Number, Ticket};
use tidegate_core::state::{KeyState, Reserve, Rules, SettleCounts};
use tidegate_core::time::Timestamp;
use tidegate_core::window::PerWindow;

use crate::ledger::{Key, Tokens};
use crate::log::{Call, CallLog};

/// TTL of a reservation whose request states none.
const TTL: Duration = Duration::from_secs(600);

/// Where server and bare core parted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Requests that both decided.
    pub requests: u64,
    /// Requests that both admitted.
    pub both: u64,
    /// Requests that one of them admitted.
    pub differ: u64,
    /// Tokens asked for, prompt and uncached prompt: of all requests, and of those that one of them admitted.
    pub tokens: [u64; 2],
    /// Of these, the tokens of requests that one of them admitted.
    pub tokens_differ: [u64; 2],
    /// Of those that both admitted, how many reserved other amounts.
    pub reserved_differ: u64,
}

struct Bare {
    policy: Policy,
    forecast: ForecastDefaults,
    defaults: Prior,
    models: HashMap<(String, String), Model>,
    keys: HashMap<Key, (Resolved, KeyState)>,
    live: HashMap<u64, (Key, Ticket)>,
    sequence: u64,
}

impl Bare {
    /// Runs `step` on the key's state, under the rules that the built-in policy gives it.
    fn step<T>(&mut self, now: Timestamp, key: &Key, step: impl FnOnce(&mut KeyState, &Rules<'_>) -> T) -> T {
        let names = KeyRef::new(&key.0, &key.1, &key.2).expect("the server took the names");
        let (resolved, state) = self.keys.entry(key.clone()).or_insert_with(|| {
            let resolved = self.policy.resolve(names, now);
            let state = KeyState::new(now, names.phase_seconds(), &resolved.bounds, &self.defaults);
            (resolved, state)
        });
        let model = self.models.get(&(key.1.clone(), key.2.clone()));
        let fallback = model.map_or(self.defaults, |model| *model.prior());
        let rules = Rules {
            bounds: &resolved.bounds,
            law: &resolved.law,
            boosts: &resolved.boosts,
            fallback: &fallback,
            forecast: &self.forecast,
            pressure: PerWindow::default(),
            incarnation: 1,
            allotment: None,
            law_is_shared: false,
        };
        step(state, &rules)
    }

    fn reserve(&mut self, now: Timestamp, key: &Key, prompt: u64, cached: Option<u64>) -> Option<(Ticket, Tokens)> {
        let request = Request {
            key: KeyRef::new(&key.0, &key.1, &key.2).expect("the server took the names"),
            prompt_tokens: prompt,
            cached_prompt_tokens: cached,
            max_generated_tokens: None,
            service_tier: ServiceTier::Standard,
            request_id: None,
            ttl: TTL,
        };
        self.sequence += 1;
        let number = Number { incarnation: 1, sequence: self.sequence };
        let reserve = Reserve { request: &request, request_id: None, most_reservations: 100_000 };
        let answer = self.step(now, key, |state, rules| state.reserve(now, rules, &reserve, || Ok(number)));
        let allowed = answer.expect("no request id was stated").outcome.ok()?;
        let ticket = Ticket { number, admitted_at: allowed.admitted_at, ttl: TTL, reserved: allowed.reserved };
        let reserved = allowed.reserved;
        Some((ticket, [reserved.prompt, reserved.uncached_prompt, reserved.generated]))
    }

    fn settle(&mut self, now: Timestamp, key: &Key, ticket: &Ticket, counts: SettleCounts) {
        let booked = self.step(now, key, |state, rules| state.settle(now, rules, ticket, &counts));
        if let Some(sample) = booked.ok().and_then(|booked| booked.sample) {
            let model = (key.1.clone(), key.2.clone());
            self.models.entry(model).or_insert_with(|| Model::new(&self.defaults)).on_settled(&sample, &self.defaults);
        }
    }
}

/// Gives every call of a replay at default policy to the bare core.
///
/// # Panics
/// If the log is not one of a test clock: on real time nobody knows in which order the server had the calls.
#[must_use]
pub fn compare(log: &CallLog) -> Comparison {
    assert!(log.exact, "the log of a test clock");
    let forecast = ForecastDefaults::default();
    let mut bare = Bare {
        policy: Policy::built_in(),
        forecast,
        defaults: Prior::from_defaults(&forecast),
        models: HashMap::new(),
        keys: HashMap::new(),
        live: HashMap::new(),
        sequence: 0,
    };
    let mut found = Comparison::default();
    for call in &log.calls {
        match call {
            Call::Run { .. } => {}
            Call::Reserve {
                sent_us,
                account,
                model,
                variant,
                prompt_tokens,
                cached_prompt_tokens,
                decision,
                reservation,
                reserved,
                ..
            } => {
                if decision.is_none() {
                    continue;
                }
                let key: Key = (account.clone(), model.clone(), variant.clone());
                let now = Timestamp::from_micros(*sent_us);
                let admitted = bare.reserve(now, &key, *prompt_tokens, *cached_prompt_tokens);
                let asked = [*prompt_tokens, prompt_tokens - cached_prompt_tokens.unwrap_or(0)];
                found.requests += 1;
                add(&mut found.tokens, asked);
                match (&admitted, reservation) {
                    (Some((_, by_core)), Some(_)) => {
                        found.both += 1;
                        found.reserved_differ += u64::from(reserved.map(Tokens::from) != Some(*by_core));
                    }
                    (None, None) => {}
                    _ => {
                        found.differ += 1;
                        add(&mut found.tokens_differ, asked);
                    }
                }
                if let (Some((ticket, _)), Some(reservation)) = (admitted, reservation) {
                    bare.live.insert(*reservation, (key, ticket));
                }
            }
            Call::Progress { sent_us, reservation, generated_tokens, .. } => {
                if let Some((key, ticket)) = bare.live.get(reservation).cloned() {
                    let now = Timestamp::from_micros(*sent_us);
                    // It may have expired: then there is nothing to report on, there as here.
                    let _ = bare
                        .step(now, &key, |state, rules| state.report_progress(now, rules, &ticket, *generated_tokens));
                }
            }
            Call::Settle { sent_us, reservation, prompt_tokens, cached_prompt_tokens, generated_tokens, .. } => {
                if let Some((key, ticket)) = bare.live.remove(reservation) {
                    let counts = SettleCounts {
                        prompt_tokens: Some(*prompt_tokens),
                        cached_prompt_tokens: Some(*cached_prompt_tokens),
                        generated_tokens: Some(*generated_tokens),
                    };
                    bare.settle(Timestamp::from_micros(*sent_us), &key, &ticket, counts);
                }
            }
        }
    }
    found
}

fn add(sum: &mut [u64; 2], tokens: [u64; 2]) {
    for (sum, tokens) in sum.iter_mut().zip(tokens) {
        *sum += tokens;
    }
}
