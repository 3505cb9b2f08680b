//! tidegate's forecast under the check that others make: used + holds + ask <= limit. Counts an answer twice while it runs,
//! once as charges of the last minute and once as output still to come.

use tidegate_core::MAX_TOKENS;
use tidegate_core::time::Timestamp;
use tidegate_core::window::{Tokens, Window};

use super::forecast::Forecast;
use super::{KeyRules, Limiter, Stream, Verdict, World};

pub(super) struct PlainSum<'a> {
    core: Forecast<'a>,
    /// Limits that deny nothing: the core forecasts, this file checks.
    unlimited: KeyRules,
    limits: Vec<Tokens>,
}

impl<'a> PlainSum<'a> {
    pub(super) fn new(world: World<'a>) -> Self {
        Self {
            core: Forecast::new(world),
            unlimited: KeyRules::fixed(&Tokens::new(MAX_TOKENS, MAX_TOKENS, MAX_TOKENS)),
            limits: world.rules.iter().map(KeyRules::floors).collect(),
        }
    }
}

impl Limiter for PlainSum<'_> {
    fn decide(&mut self, now: Timestamp, stream: &Stream) -> Verdict {
        let key = stream.request.key;
        let limits = self.limits[key as usize];
        let carried = self.core.carried(now, key, &self.unlimited);
        let Some(mut ask) = self.core.ask(now, stream, &self.unlimited) else { return Verdict::Overloaded };
        // A forecast alone never denies a request on an idle window.
        ask.generated = ask.generated.min(limits.generated);
        if Window::ALL.into_iter().any(|window| carried[window] + ask[window] > limits[window]) {
            return Verdict::RateLimited;
        }
        let admitted = self.core.reserve(now, stream, &self.unlimited);
        if admitted.is_ok() { Verdict::Admitted } else { Verdict::Overloaded }
    }

    fn on_progress(&mut self, now: Timestamp, stream: &Stream, generated_tokens: u64) {
        let rules = self.core.rules(stream.request.key);
        self.core.report(now, stream, generated_tokens, rules);
    }

    fn on_end(&mut self, now: Timestamp, stream: &Stream) {
        let rules = self.core.rules(stream.request.key);
        self.core.settle(now, stream, rules);
    }

    fn limits(&self, key: u32) -> Tokens {
        self.limits[key as usize]
    }
}
