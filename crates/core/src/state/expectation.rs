//! The generated window ahead: what is charged and has not left by then, what the live streams are expected to have produced
//! by then, and the safety margin of that sum (contract C1, C4), at every instant of the coming minute.
//!
//! Between two departures nothing leaves and expected output only grows, so the fullest instant is just before a departure or
//! at the end of the minute. Whole seconds are looked at first, as if all that leaves within one left at its end: 61 looks,
//! whatever the number of streams, and more only within seconds that are too full by that.

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

/// An instant just before a departure, or the end of the coming minute.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Timestamp,
    /// What is charged and has not left.
    charged: u64,
    /// What is expected to have been produced.
    expected: Expected,
    /// Whether this is that instant, or the end of a second with the charges of its beginning.
    exact: bool,
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
            || self.look_ahead(|look| match look {
                Look { exact: true, .. } if !fits(look.charged, look.expected) => None,
                _ => Some(fits(look.charged, look.expected)),
            })
    }

    /// The largest ask that fits; `None` where not even nothing does.
    pub(super) fn generated_room(&self, limit_tpm: u64, forecast: &ForecastDefaults) -> Option<u64> {
        let mut peak = self.generated.sum()[0];
        if !self.holds.is_empty() {
            self.look_ahead(|Look { charged, expected, exact, .. }| {
                let sum = charged.saturating_add(expected.tokens);
                let fits = forecast.fits(sum, expected.tokens, expected.variance, peak);
                if exact && !fits {
                    peak = sum.saturating_add(forecast.margin(expected.tokens, expected.variance));
                }
                Some(fits)
            });
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
        self.look_ahead(|Look { at, charged, expected, exact }| {
            let sum = charged.saturating_add(expected.tokens).saturating_add(ask.tokens);
            let fits = forecast.fits(sum, expected.tokens, expected.variance, limit_tpm);
            if exact && !fits {
                // Not before this departure.
                fit = fit.max(at);
            }
            Some(fits)
        });
        fit.min(latest)
    }

    /// Looks at the coming minute. `fits` says whether what it is shown is not too full, or `None` to look no further; it is
    /// shown a second as a whole, and where that does not fit, each instant within it. Whether it never said `None`.
    fn look_ahead(&self, mut fits: impl FnMut(Look) -> Option<bool>) -> bool {
        let mut charged = self.generated.sum()[0];
        let mut ahead = self.holds.ahead();
        for (buckets, last, [leaving]) in self.generated.departing_seconds() {
            let mut within = ahead.clone();
            match fits(Look { at: last, charged, expected: ahead.by(last), exact: false }) {
                None => return false,
                Some(true) => charged = charged.saturating_sub(leaving),
                Some(false) => {
                    for (at, [tokens]) in self.generated.departures_of(buckets) {
                        if fits(Look { at, charged, expected: within.by(at), exact: true }).is_none() {
                            return false;
                        }
                        charged = charged.saturating_sub(tokens);
                    }
                }
            }
        }
        let at = self.now.after(WINDOW);
        fits(Look { at, charged, expected: ahead.by(at), exact: true }).is_some()
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
