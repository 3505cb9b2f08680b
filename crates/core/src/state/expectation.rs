//! The generated window ahead: what is charged and has not left by then, what the live streams are expected to have produced
//! by then, and the safety margin of that sum (contract C1, C4), at every instant of the coming minute.
//!
//! Between two departures nothing leaves and expected output only grows, so the fullest instant is just before a departure or
//! at the end of the minute. Seconds are looked at first, as if all left with the end of it: 62 looks, whatever the number of
//! streams, and more only within seconds that are too full by that.

use core::time::Duration;

use super::{KeyState, Rules};
use crate::charges::Second;
use crate::forecast::{self, Course, FEWEST_STREAMS, Figures, ForecastDefaults};
use crate::holds::{Ahead, Expected};
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

/// A second of the coming minute within which something leaves; or, after all of them, the end of that minute.
#[derive(Clone, Copy)]
pub(super) struct Stretch<'a> {
    leaving: Option<&'a Second>,
    /// When the minute ends.
    end: Timestamp,
    /// What is charged at its beginning.
    charged: u64,
    /// From its beginning on.
    ahead: Ahead<'a>,
}

impl Stretch<'_> {
    /// What is charged at its end.
    fn left(&self) -> u64 {
        self.charged.saturating_sub(self.leaving.map_or(0, Second::tokens))
    }

    /// What is expected to have been produced by its end.
    fn expected(&self) -> Expected {
        let mut ahead = self.ahead;
        if self.leaving.is_some() { ahead.by_its_end() } else { ahead.by(self.end) }
    }

    /// The instants at which most is in the window, each just before a departure, and what is charged then.
    fn departures(&self) -> impl Iterator<Item = (Timestamp, u64)> {
        let mut charged = self.charged;
        let end = self.leaving.is_none().then_some((self.end, 0));
        self.leaving.into_iter().flat_map(Second::departures).chain(end).map(move |(at, leaving)| {
            let before = charged;
            charged = charged.saturating_sub(leaving);
            (at, before)
        })
    }

    /// The same, and what is expected to have been produced by then.
    pub(super) fn instants(&self) -> impl Iterator<Item = (Timestamp, u64, Expected)> {
        let mut ahead = self.ahead;
        self.departures().map(move |(at, charged)| (at, charged, ahead.by(at)))
    }
}

impl KeyState {
    /// Whether the ask fits at every instant of the coming minute.
    pub(super) fn generated_fits(&self, ask: GeneratedAsk, limit_tpm: u64, forecast: &ForecastDefaults) -> bool {
        if ask.tokens > 0 && self.holds.reach().saturating_add(ask.reach) > self.most_reach(limit_tpm, forecast) {
            return false;
        }
        let fits = |charged: u64, expected: Expected| {
            let sum = charged.saturating_add(expected.tokens).saturating_add(ask.tokens);
            forecast.fits(sum, expected.tokens, expected.variance, limit_tpm)
        };
        // Fast paths to ALLOW: everything charged now and everything that may or that is expected to come, ever.
        let charged = self.generated.sum();
        let ever = charged.saturating_add(self.holds.most()).saturating_add(ask.tokens);
        if ever <= limit_tpm || fits(charged, self.holds.in_the_end()) {
            return true;
        }
        let most = limit_tpm.checked_sub(ask.tokens.saturating_add(self.most_margin(forecast)));
        self.coming_minute(|stretch| {
            let expected = stretch.expected();
            most.is_some_and(|most| stretch.charged.saturating_add(expected.tokens) <= most)
                || fits(stretch.charged, expected)
                || stretch.instants().all(|(_, charged, expected)| fits(charged, expected))
        })
    }

    /// The largest ask that fits; `None` where not even nothing does.
    pub(super) fn generated_room(&self, limit_tpm: u64, forecast: &ForecastDefaults) -> Option<u64> {
        let room = limit_tpm.checked_sub(self.generated_peak(forecast))?;
        let most = self.most_reach(limit_tpm, forecast);
        let reach = most.saturating_sub(self.holds.reach());
        Some(if reach >= most / FEWEST_STREAMS { room } else { room.min(reach) })
    }

    /// The most at any instant of the coming minute, the margin included; no more than what is charged and was declared.
    pub(super) fn generated_peak(&self, forecast: &ForecastDefaults) -> u64 {
        let charged = self.generated.sum();
        if self.holds.is_empty() {
            return charged;
        }
        let fits =
            |sum: u64, expected: Expected, peak: u64| forecast.fits(sum, expected.tokens, expected.variance, peak);
        let sum_of = |stretch: &Stretch<'_>, expected: Expected| stretch.charged.saturating_add(expected.tokens);
        let raise = |peak: &mut u64, stretch: &Stretch<'_>| {
            let (end, mut ahead) = (stretch.expected(), stretch.ahead);
            for (at, charged) in stretch.departures() {
                // What is charged only falls.
                if fits(charged.saturating_add(end.tokens), end, *peak) {
                    break;
                }
                let expected = ahead.by(at);
                let sum = charged.saturating_add(expected.tokens);
                if !fits(sum, expected, *peak) {
                    *peak = sum.saturating_add(forecast.margin(expected.tokens, expected.variance));
                }
            }
        };
        let ever = self.holds.in_the_end();
        let most = ever.tokens.saturating_add(forecast.margin(ever.tokens, ever.variance));
        // The stretch that is fullest without a margin is looked at first, so that hardly any other has to be. Once all that is
        // expected has come, or less than that is left of what has been charged, none is fuller.
        let (mut peak, mut all_came) = (charged, false);
        let (mut fullest, mut which, mut next) = (0, None, 0);
        self.coming_minute(|stretch| {
            let expected = stretch.expected();
            let sum = sum_of(stretch, expected);
            if sum >= fullest {
                (next, fullest, which) = (fullest, sum, Some(*stretch));
            } else {
                next = next.max(sum);
            }
            let was_last = all_came || stretch.left().saturating_add(most) <= charged;
            all_came = expected.tokens >= ever.tokens && expected.variance >= ever.variance;
            !was_last
        });
        if let Some(stretch) = which {
            raise(&mut peak, &stretch);
        }
        // More than the margins of the other sums.
        if next.saturating_add(most - ever.tokens) > peak {
            self.coming_minute(|stretch| {
                let expected = stretch.expected();
                if !fits(sum_of(stretch, expected), expected, peak) {
                    raise(&mut peak, stretch);
                }
                stretch.left().saturating_add(most) > peak
            });
        }
        // What declared maxima rule out needs no margin.
        peak.min(charged.saturating_add(self.holds.most()))
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
        let most = self.most_reach(limit_tpm, forecast).saturating_sub(ask.reach);
        let unguarded = if ask.tokens > 0 { self.holds.reach_at_most_from(most) } else { Some(from) };
        let fit = from.max(unguarded.unwrap_or(latest));
        let fits = |charged: u64, expected: Expected| {
            let sum = charged.saturating_add(expected.tokens).saturating_add(ask.tokens);
            forecast.fits(sum, expected.tokens, expected.variance, limit_tpm)
        };
        // It does not fit before the last departure just before which it does not. A minute touches 61 seconds, and its end.
        let (mut candidates, mut place) = (0_u64, 0);
        self.coming_minute(|stretch| {
            candidates |= u64::from(!fits(stretch.charged, stretch.expected())) << place;
            place += 1;
            true
        });
        let mut full = None;
        while full.is_none() && candidates > 0 {
            let mut before = candidates.ilog2();
            candidates -= 1 << before;
            self.coming_minute(|stretch| {
                if before == 0 {
                    let instants = stretch.instants().filter(|&(_, charged, expected)| !fits(charged, expected));
                    full = instants.map(|(at, ..)| at).last();
                    return false;
                }
                before -= 1;
                true
            });
        }
        fit.max(full.unwrap_or(fit)).min(latest)
    }

    /// Looks at the coming minute, as of the last [`KeyState::advance`], stretch by stretch for as long as `look` answers `true`;
    /// whether it did to the end.
    pub(super) fn coming_minute<'a>(&'a self, mut look: impl FnMut(&Stretch<'a>) -> bool) -> bool {
        let (charged, ahead) = (self.generated.sum(), self.holds.ahead());
        let mut stretch = Stretch { leaving: None, end: self.now.after(WINDOW), charged, ahead };
        for second in self.generated.seconds() {
            stretch.leaving = Some(second);
            stretch.ahead.move_to(second.leaves_in());
            if !look(&stretch) {
                return false;
            }
            stretch.charged = stretch.left();
        }
        stretch.leaving = None;
        look(&stretch)
    }

    /// At least the margin at any instant.
    fn most_margin(&self, forecast: &ForecastDefaults) -> u64 {
        let Expected { tokens, variance } = self.holds.in_the_end();
        forecast.margin(tokens, variance)
    }

    /// What a stream that has produced `produced` tokens is expected to produce from here on, at this limit.
    pub(super) fn course(
        &self,
        produced: u64,
        declared: Option<u64>,
        micros_per_token: u64,
        limit_tpm: u64,
        rules: &Rules<'_>,
    ) -> Course {
        let most = most_of(produced, declared, limit_tpm);
        let mut course = self.lengths.course(&self.prior.hazards, produced, most, micros_per_token);
        course.reach = self.stream_reach(most, micros_per_token, limit_tpm, rules);
        course
    }

    /// What a stream that may produce `most` tokens counts for in the guard.
    pub(super) fn stream_reach(&self, most: u64, micros_per_token: u64, limit_tpm: u64, rules: &Rules<'_>) -> u64 {
        forecast::reach(micros_per_token).min(most).min(self.most_reach(limit_tpm, rules.forecast) / FEWEST_STREAMS)
    }

    /// The least limit whose guard lets streams be that could produce `reach` within a minute.
    pub(super) fn least_for(&self, reach: u64, forecast: &ForecastDefaults) -> u64 {
        forecast.least_for(reach, self.watch.is_on(self.now))
    }

    /// The guard: what the live streams may be able to produce within a minute.
    fn most_reach(&self, limit_tpm: u64, forecast: &ForecastDefaults) -> u64 {
        forecast.most_reach(limit_tpm, self.watch.is_on(self.now))
    }

    /// What the key's requests do, mixed with what its model's do while it has settled few.
    pub(super) fn expected_figures(&self, rules: &Rules<'_>) -> Figures {
        self.figures.or(&rules.fallback.figures)
    }

    /// The pace, in microseconds for a token, that a report of `generated` tokens shows: since the report before, where there
    /// is one. The first one cannot tell the wait for the first token from a slow pace: the faster of that and the usual
    /// pace. One that follows close shows nothing: the usual pace.
    pub(super) fn pace(&self, generated: u64, reported: u64, elapsed: Duration, rules: &Rules<'_>) -> u64 {
        let usual = self.expected_figures(rules).micros_per_token();
        if elapsed < forecast::CLOSE {
            return usual;
        }
        let own = forecast::micros_per_token(elapsed, generated.saturating_sub(reported));
        if reported > 0 { own } else { own.min(usual) }
    }
}

/// The most that a stream may still produce that has produced `produced` tokens.
pub(super) fn most_of(produced: u64, declared: Option<u64>, limit_tpm: u64) -> u64 {
    declared.map_or(u64::MAX, |declared| declared.saturating_sub(produced)).min(limit_tpm)
}
