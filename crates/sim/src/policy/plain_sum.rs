//! tidegate's forecast under the check that others make: used + holds + ask <= limit. Counts an answer twice while it runs,
//! once as charges of the last minute and once as output still to come.

use tidegate_core::MAX_TOKENS;
use tidegate_core::forecast::Sample;
use tidegate_core::time::Timestamp;
use tidegate_core::window::{Tokens, Window};

use super::forecast::Forecast;
use super::{KeyRules, Limiter, Stream, Surroundings, Verdict, World};

pub(super) struct PlainSum<'a> {
    core: Forecast<'a>,
    rules: &'a KeyRules,
    /// Limits that deny nothing: the core forecasts, this file checks.
    unlimited: KeyRules,
    limits: Tokens,
}

impl<'a> PlainSum<'a> {
    pub(super) fn new(world: World<'a>) -> Self {
        Self {
            core: Forecast::new(world),
            rules: world.rules,
            unlimited: KeyRules::fixed(&Tokens::new(MAX_TOKENS, MAX_TOKENS, MAX_TOKENS)),
            limits: world.rules.floors(),
        }
    }
}

impl Limiter for PlainSum<'_> {
    fn decide(&mut self, now: Timestamp, stream: &Stream, around: &Surroundings<'_>) -> Verdict {
        let carried = self.core.carried(now, &self.unlimited, around);
        let Some(mut ask) = self.core.ask(now, stream, &self.unlimited, around) else { return Verdict::Overloaded };
        // A forecast alone never denies a request on an idle window.
        ask.generated = ask.generated.min(self.limits.generated);
        if Window::ALL.into_iter().any(|window| carried[window] + ask[window] > self.limits[window]) {
            return Verdict::RateLimited;
        }
        let admitted = self.core.reserve(now, stream, &self.unlimited, around);
        if admitted.is_ok() { Verdict::Admitted } else { Verdict::Overloaded }
    }

    fn on_progress(&mut self, now: Timestamp, stream: &Stream, generated: u64, around: &Surroundings<'_>) {
        self.core.report(now, stream, generated, self.rules, around);
    }

    fn on_end(&mut self, now: Timestamp, stream: &Stream, around: &Surroundings<'_>) -> Option<Sample> {
        self.core.settle(now, stream, self.rules, around)
    }

    fn stands_alone(&self) -> bool {
        self.core.stands_alone()
    }

    fn limits(&self) -> Tokens {
        self.limits
    }
}
