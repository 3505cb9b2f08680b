//! The generated window ahead: what is charged and has not left by then, what the live streams are expected to have produced
//! by then, and the safety margin of that sum (contract C1, C4), at every instant of the coming minute.
//!
//! Between two departures nothing leaves and expected output only grows, so the fullest instant is just before a departure or
//! at the end of the minute. Groups of sub-buckets are looked at first, as if all left with the last of them: 32 looks, whatever
//! the number of streams, and more only within groups that are too full by that.

use core::time::Duration;

use super::{KeyState, Rules};
use crate::charges::{Group, MOST_GROUPS};
use crate::forecast::{self, Course, FEWEST_STREAMS, Figures, ForecastDefaults};
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

/// The coming minute as it would be if nothing were admitted.
pub(super) struct Minute {
    /// Of each group of sub-buckets of the generated window, and of the end of the minute.
    stretches: [Stretch; MOST_GROUPS + 1],
    count: usize,
}

/// A stretch of the coming minute, up to a departure or to the end of the minute.
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    end: Timestamp,
    /// What is charged at its beginning, and just before its end.
    first_charged: u64,
    last_charged: u64,
    /// What is expected to have been produced by its end.
    expected: Expected,
    /// Sub-buckets that leave within it.
    start: usize,
    buckets: usize,
}

impl Minute {
    fn stretches(&self) -> &[Stretch] {
        &self.stretches[..self.count]
    }
}

impl KeyState {
    /// Whether the ask fits at every instant of the coming minute.
    /// Leaves that minute behind, if it had to be looked at.
    pub(super) fn generated_fits(
        &self,
        ask: GeneratedAsk,
        limit_tpm: u64,
        forecast: &ForecastDefaults,
        minute: &mut Option<Minute>,
    ) -> bool {
        if ask.tokens > 0 && self.holds.reach().saturating_add(ask.reach) > self.most_reach(limit_tpm, forecast) {
            return false;
        }
        let fits = |charged: u64, expected: Expected| {
            let sum = charged.saturating_add(expected.tokens).saturating_add(ask.tokens);
            forecast.fits(sum, expected.tokens, expected.variance, limit_tpm)
        };
        // Fast paths to ALLOW: everything charged now and everything that may or that is expected to come, ever.
        let charged = self.generated.sum()[0];
        let ever = charged.saturating_add(self.holds.most()).saturating_add(ask.tokens);
        if ever <= limit_tpm || fits(charged, self.holds.in_the_end()) {
            return true;
        }
        let minute = minute.get_or_insert_with(|| self.minute());
        minute.stretches().iter().all(|stretch| {
            fits(stretch.first_charged, stretch.expected)
                || fits(stretch.last_charged, stretch.expected)
                    && self.within(stretch).all(|(_, charged, expected)| fits(charged, expected))
        })
    }

    /// The largest ask that fits; `None` where not even nothing does.
    pub(super) fn generated_room(&self, limit_tpm: u64, forecast: &ForecastDefaults) -> Option<u64> {
        let charged = self.generated.sum()[0];
        let mut peak = charged;
        if !self.holds.is_empty() {
            let raised = |peak: u64, charged: u64, expected: Expected| {
                let sum = charged.saturating_add(expected.tokens);
                let fits = forecast.fits(sum, expected.tokens, expected.variance, peak);
                (!fits).then(|| sum.saturating_add(forecast.margin(expected.tokens, expected.variance)))
            };
            let minute = self.minute();
            for stretch in minute.stretches() {
                peak = raised(peak, stretch.last_charged, stretch.expected).unwrap_or(peak);
            }
            for stretch in minute.stretches() {
                if raised(peak, stretch.first_charged, stretch.expected).is_some() {
                    for (_, charged, expected) in self.within(stretch) {
                        peak = raised(peak, charged, expected).unwrap_or(peak);
                    }
                }
            }
        }
        // What declared maxima rule out needs no margin.
        let room = limit_tpm.checked_sub(peak.min(charged.saturating_add(self.holds.most())))?;
        let most = self.most_reach(limit_tpm, forecast);
        let reach = most.saturating_sub(self.holds.reach());
        Some(if reach >= most / FEWEST_STREAMS { room } else { room.min(reach) })
    }

    /// The first instant from `from` on at which the ask fits and stays within the limit for a minute, if nothing else is
    /// admitted and streams run as forecast; not after the end of the coming minute.
    pub(super) fn generated_fits_from(
        &self,
        from: Timestamp,
        ask: GeneratedAsk,
        limit_tpm: u64,
        forecast: &ForecastDefaults,
        minute: &Minute,
    ) -> Timestamp {
        let latest = self.now.after(WINDOW);
        let most = self.most_reach(limit_tpm, forecast).saturating_sub(ask.reach);
        let unguarded = if ask.tokens > 0 { self.holds.reach_at_most_from(most) } else { Some(from) };
        let fit = from.max(unguarded.unwrap_or(latest));
        let fits = |charged: u64, expected: Expected| {
            let sum = charged.saturating_add(expected.tokens).saturating_add(ask.tokens);
            forecast.fits(sum, expected.tokens, expected.variance, limit_tpm)
        };
        // It does not fit before the last departure just before which it does not.
        let full = minute.stretches().iter().rev().find_map(|stretch| {
            if !fits(stretch.last_charged, stretch.expected) {
                return Some(stretch.end);
            }
            if fits(stretch.first_charged, stretch.expected) {
                return None;
            }
            let full = self.within(stretch).filter(|&(_, charged, expected)| !fits(charged, expected));
            full.last().map(|(at, ..)| at)
        });
        fit.max(full.unwrap_or(fit)).min(latest)
    }

    /// The coming minute, as of the last [`KeyState::advance`].
    pub(super) fn minute(&self) -> Minute {
        let mut minute = Minute { stretches: [Stretch::default(); MOST_GROUPS + 1], count: 0 };
        let mut charged = self.generated.sum()[0];
        let mut ahead = self.holds.ahead();
        let end = Group { which: 0..0, last: self.now.after(WINDOW), tokens: [0], last_tokens: [0] };
        let groups = self.generated.departing_groups().chain(core::iter::once(end));
        for (stretch, group) in minute.stretches.iter_mut().zip(groups) {
            let left = charged.saturating_sub(group.tokens[0]);
            *stretch = Stretch {
                end: group.last,
                first_charged: charged,
                last_charged: left.saturating_add(group.last_tokens[0]),
                expected: ahead.by(group.last),
                start: group.which.start,
                buckets: group.which.len(),
            };
            charged = left;
            minute.count += 1;
        }
        minute
    }

    /// Each instant just before a departure within a stretch: what is charged then, and what is expected to have been produced.
    fn within(&self, stretch: &Stretch) -> impl Iterator<Item = (Timestamp, u64, Expected)> + '_ {
        let mut charged = stretch.first_charged;
        let mut ahead = self.holds.ahead();
        self.generated.departures_of(stretch.start..stretch.start + stretch.buckets).map(move |(at, [leaving])| {
            let look = (at, charged, ahead.by(at));
            charged = charged.saturating_sub(leaving);
            look
        })
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
