//! The generated window ahead: what is charged and has not left by then, what the live streams are expected to have produced
//! by then, and the safety margin of that sum (contract C1, C4), at every instant of the coming minute.
//!
//! Between two departures nothing leaves and expected output only grows, so the fullest instant is just before a departure or
//! at the end of the minute: 241 looks at most, whatever the number of streams.

use core::time::Duration;

use super::{KeyState, Rules};
use crate::forecast::{Course, Figures, ForecastDefaults};
use crate::holds::Expected;
use crate::time::Timestamp;
use crate::window::WINDOW;

/// What a request would add to the generated window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GeneratedAsk {
    /// Tokens it is expected to produce.
    pub(super) tokens: u64,
    /// Tokens that it could produce within a minute.
    pub(super) reach: u64,
}

impl KeyState {
    /// Whether the ask fits at every instant of the coming minute.
    pub(super) fn generated_fits(&self, ask: GeneratedAsk, limit_tpm: u64, forecast: &ForecastDefaults) -> bool {
        if ask.tokens > 0 && self.holds.reach().saturating_add(ask.reach) > forecast.most_reach(limit_tpm) {
            return false;
        }
        let fits = |charged: u64, expected: Expected| {
            let sum = charged.saturating_add(expected.tokens).saturating_add(ask.tokens);
            forecast.fits(sum, expected.tokens, expected.variance, limit_tpm)
        };
        // The plain sum, a fast path to ALLOW: everything charged now and everything expected ever.
        fits(self.generated.sum()[0], self.holds.in_the_end())
            || self.looks_ahead().all(|(_, charged, expected)| fits(charged, expected))
    }

    /// The largest ask that fits; `None` where not even nothing does.
    pub(super) fn generated_room(&self, limit_tpm: u64, forecast: &ForecastDefaults) -> Option<u64> {
        let mut peak = self.generated.sum()[0];
        if !self.holds.is_empty() {
            for (_, charged, expected) in self.looks_ahead() {
                let sum = charged.saturating_add(expected.tokens);
                if !forecast.fits(sum, expected.tokens, expected.variance, peak) {
                    peak = sum.saturating_add(forecast.margin(expected.tokens, expected.variance));
                }
            }
        }
        let room = limit_tpm.checked_sub(peak)?;
        let reach = forecast.most_reach(limit_tpm).saturating_sub(self.holds.reach());
        Some(if reach >= forecast.most_reach_of_one(limit_tpm) { room } else { room.min(reach) })
    }

    /// The first instant from `from` on at which the ask fits and stays within the limit for a minute, if nothing else is
    /// admitted and streams run as forecast; not after the end of the coming minute.
    pub(super) fn generated_fits_from(
        &self,
        from: Timestamp,
        ask: GeneratedAsk,
        limit_tpm: u64,
        forecast: &ForecastDefaults,
    ) -> Timestamp {
        let latest = self.now.after(WINDOW);
        let most = forecast.most_reach(limit_tpm).saturating_sub(ask.reach);
        let unguarded = if ask.tokens > 0 { self.holds.reach_at_most_from(most) } else { Some(from) };
        let mut fit = from.max(unguarded.unwrap_or(latest));
        for (at, charged, expected) in self.looks_ahead() {
            let sum = charged.saturating_add(expected.tokens).saturating_add(ask.tokens);
            if !forecast.fits(sum, expected.tokens, expected.variance, limit_tpm) {
                // Not before this departure.
                fit = fit.max(at);
            }
        }
        fit.min(latest)
    }

    /// Each instant just before a departure, and the end of the coming minute: what is charged then, and what is expected to
    /// have been produced.
    fn looks_ahead(&self) -> impl Iterator<Item = (Timestamp, u64, Expected)> + '_ {
        let mut charged = self.generated.sum()[0];
        let mut ahead = self.holds.ahead();
        let end = core::iter::once((self.now.after(WINDOW), [0]));
        self.generated.departures().chain(end).map(move |(at, [leaving])| {
            let look = (at, charged, ahead.by(at));
            charged = charged.saturating_sub(leaving);
            look
        })
    }

    /// What a stream that has produced `produced` tokens is expected to produce from here on.
    pub(super) fn course(
        &self,
        produced: u64,
        declared: Option<u64>,
        micros_per_token: u64,
        rules: &Rules<'_>,
    ) -> Course {
        let limit = self.limits(rules).generated;
        let most = declared.map_or(u64::MAX, |declared| declared.saturating_sub(produced)).min(limit);
        let mut course = self.lengths.course(&self.prior.hazards, produced, most, micros_per_token);
        course.reach = course.reach.min(rules.forecast.most_reach_of_one(limit));
        course
    }

    /// What the key's requests do, mixed with what its model's do while it has settled few.
    pub(super) fn expected_figures(&self, rules: &Rules<'_>) -> Figures {
        self.figures.or(&rules.fallback.figures)
    }

    /// The pace, in microseconds for a token, that a report of `generated` tokens shows: since the report before, where there
    /// is one. The first one cannot tell the wait for the first token from a slow pace, nor one that follows close the pace
    /// from chance: the faster of that and the usual pace.
    pub(super) fn pace(&self, generated: u64, reported: u64, elapsed: Duration, rules: &Rules<'_>) -> u64 {
        /// Reports closer than this follow close.
        const CLOSE: Duration = Duration::from_millis(500);
        let own = crate::forecast::micros_per_token(elapsed, generated.saturating_sub(reported));
        if reported > 0 && elapsed >= CLOSE { own } else { own.min(self.expected_figures(rules).micros_per_token()) }
    }
}
