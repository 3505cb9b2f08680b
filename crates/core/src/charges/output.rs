//! Output tokens in the trailing 60 s: sub-buckets as those of [`super::Charges`], kept by the second.
//!
//! Output comes evenly over a stream's time, so nearly every sub-bucket of those seconds counts some; and the coming minute is
//! looked at second by second, so each knows its sum.

use alloc::collections::VecDeque;
use core::time::Duration;

use super::{SUB_BUCKET_MICROS, number_at, start_of};
use crate::time::{MICROS_PER_SECOND, Timestamp};
use crate::window::WINDOW;

/// Sub-buckets of a second.
const PARTS: usize = 8;

/// Of each sub-bucket of a second, its last microsecond.
const LAST_MICROS: [u32; PARTS] = [124_999, 249_999, 374_999, 499_999, 624_999, 749_999, 874_999, 999_999];

/// Output of a key in the trailing minute.
///
/// Holds at most 61 seconds of 112 bytes, none while idle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Ascending in time; those in which something was produced.
    seconds: VecDeque<Second>,
    sum: u64,
}

/// What was produced in one second and has not left the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Second {
    /// Since the epoch.
    number: u64,
    sum: u64,
    /// Of each sub-bucket.
    tokens: [u64; PARTS],
    /// Of each sub-bucket with tokens, its newest charge, in microseconds of the second.
    newest: [u32; PARTS],
}

impl Second {
    /// Tokens that leave the window within this second of departures.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.sum
    }

    /// The second since the epoch within which they leave: all at its beginning or later, and before it ends.
    #[must_use]
    pub const fn leaves_in(&self) -> u64 {
        self.number.saturating_add(WINDOW.as_secs())
    }

    /// The sub-buckets in the order in which they leave: the instant, and the tokens that leave then.
    pub fn departures(&self) -> impl Iterator<Item = (Timestamp, u64)> + use<> {
        let second = *self;
        (0..PARTS)
            .filter(move |part| second.tokens[*part] > 0)
            .map(move |part| (second.leaves_at(part), second.tokens[part]))
    }

    fn leaves_at(&self, part: usize) -> Timestamp {
        let charged = self.number.saturating_mul(MICROS_PER_SECOND).saturating_add(self.newest[part].into());
        Timestamp::from_micros(charged).after(WINDOW)
    }
}

impl Output {
    /// Drops what has left the window at `now`. The other methods count what was in the window at the last call.
    pub fn expire(&mut self, now: Timestamp) {
        while let Some(oldest) = self.seconds.front_mut().filter(|oldest| oldest.leaves_in() <= now.as_seconds()) {
            for part in 0..PARTS {
                let tokens = oldest.tokens[part];
                if tokens > 0 && oldest.leaves_at(part) <= now {
                    oldest.tokens[part] = 0;
                    oldest.sum = oldest.sum.saturating_sub(tokens);
                    self.sum = self.sum.saturating_sub(tokens);
                }
            }
            if oldest.tokens != [0; PARTS] {
                break;
            }
            self.seconds.pop_front();
        }
        if self.seconds.is_empty() {
            // An idle key keeps no room for what it may produce one day.
            self.seconds = VecDeque::new();
        }
    }

    /// Tokens in the window; saturates.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    /// Whether nothing is in the window.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seconds.is_empty()
    }

    /// Time from `now` until nothing is left in the window.
    #[must_use]
    pub fn empty_after(&self, now: Timestamp) -> Duration {
        let last = self.seconds.back().and_then(|newest| newest.departures().last());
        last.map_or(Duration::ZERO, |(at, _)| at.since(now))
    }

    /// The seconds of which something is in the window, in the order in which they leave it.
    pub fn seconds(&self) -> impl DoubleEndedIterator<Item = &Second> {
        self.seconds.iter()
    }

    /// Charges `tokens`, at most 2^40, that were produced evenly between `from` and `to` (contract C3): each sub-bucket gets
    /// what was complete by its end, the newest one the remainder. What falls more than 60 s before `to` is not counted.
    ///
    /// At most 481 steps, however long the span.
    pub fn spread(&mut self, from: Timestamp, to: Timestamp, tokens: u64) {
        if tokens == 0 {
            return;
        }
        let mut shares = Shares::new(from, to, tokens);
        let mut place = self.place_of(shares.second());
        while let Some((number, parts)) = shares.next_second() {
            let sum = parts.iter().sum();
            if sum > 0 {
                self.sum = self.sum.saturating_add(sum);
                let second = self.second(&mut place, number);
                second.sum = second.sum.saturating_add(sum);
                if parts.contains(&0) {
                    for (part, _) in parts.iter().enumerate().filter(|(_, tokens)| **tokens > 0) {
                        second.newest[part] = LAST_MICROS[part];
                    }
                } else {
                    second.newest = LAST_MICROS;
                }
                for (counted, tokens) in second.tokens.iter_mut().zip(parts) {
                    *counted += tokens;
                }
            }
        }
        if shares.left > 0 {
            let micros = u32::try_from(to.as_micros() % MICROS_PER_SECOND).unwrap_or(0);
            let part = LAST_MICROS.partition_point(|last| *last < micros);
            self.sum = self.sum.saturating_add(shares.left);
            // It may be the one that came last.
            place = place.saturating_sub(1);
            let second = self.second(&mut place, to.as_seconds());
            second.sum = second.sum.saturating_add(shares.left);
            second.newest[part] = if second.tokens[part] > 0 { second.newest[part].max(micros) } else { micros };
            second.tokens[part] += shares.left;
        }
    }

    /// How many seconds come before this one.
    fn place_of(&self, number: u64) -> usize {
        let back = self.seconds.back().and_then(|newest| usize::try_from(newest.number.checked_sub(number)?).ok());
        // Nearly always on a busy key, and much cheaper: each second since has its own.
        let place = back.and_then(|back| self.seconds.len().checked_sub(back.saturating_add(1)));
        let found = place.filter(|place| self.seconds[*place].number == number);
        found.unwrap_or_else(|| self.seconds.partition_point(|second| second.number < number))
    }

    /// The second of this number, which is not before the one at `place`; the next one is looked for behind it.
    fn second(&mut self, place: &mut usize, number: u64) -> &mut Second {
        // Nearly always on a busy key, and much cheaper.
        if self.seconds.get(*place).is_none_or(|second| second.number != number) {
            while self.seconds.get(*place).is_some_and(|second| second.number < number) {
                *place += 1;
            }
            if self.seconds.get(*place).is_none_or(|second| second.number != number) {
                let new = Second { number, sum: 0, tokens: [0; PARTS], newest: [0; PARTS] };
                self.seconds.insert(*place, new);
            }
        }
        *place += 1;
        &mut self.seconds[*place - 1]
    }
}

/// What each sub-bucket gets that ends before a stream's time does; the newest one gets what is left.
struct Shares {
    left: u64,
    /// The next sub-bucket, and the newest.
    number: u64,
    last: u64,
    /// What the next one gets, and the part of a token that is complete by its end, in 1/`span`.
    next: u64,
    rest: u64,
    span: u64,
    /// What comes within a sub-bucket.
    each: u64,
    each_rest: u64,
}

impl Shares {
    fn new(from: Timestamp, to: Timestamp, tokens: u64) -> Self {
        let since = |at: Timestamp| at.as_micros().saturating_sub(from.as_micros());
        let span = since(to).max(1);
        // tokens * elapsed / span, and what is left over.
        let by_elapsed = |elapsed: u64| {
            if let Some(product) = tokens.checked_mul(elapsed) {
                // Nearly always, and much cheaper.
                return (product / span, product % span);
            }
            let (product, span) = (u128::from(tokens) * u128::from(elapsed), u128::from(span));
            (u64::try_from(product / span).unwrap_or(u64::MAX), u64::try_from(product % span).unwrap_or(0))
        };
        let (number, last) = (number_at(from).max(number_at(to.before(WINDOW))), number_at(to));
        let (before, _) = by_elapsed(since(start_of(number)));
        let (by, rest) = by_elapsed(since(start_of(number + 1)));
        let (each, each_rest) = by_elapsed(SUB_BUCKET_MICROS);
        let mut shares =
            Self { left: tokens - before, number, last, next: by.saturating_sub(before), rest, span, each, each_rest };
        if number < last && start_of(number + 1).after(WINDOW).as_micros() <= to.as_micros() + 1 {
            // It leaves the window with `to`.
            shares.give(&mut [0]);
        }
        shares
    }

    /// Of the next sub-bucket.
    const fn second(&self) -> u64 {
        self.number / PARTS as u64
    }

    /// Gives so many sub-buckets what they get.
    fn give(&mut self, parts: &mut [u64]) {
        let Self { span, each, each_rest, .. } = *self;
        let (mut next, mut rest) = (self.next, self.rest);
        for part in &mut *parts {
            *part = next;
            rest += each_rest;
            // By arithmetic: nothing foresees which way a branch would go.
            let more = u64::from(rest >= span);
            rest -= span * more;
            next = each + more;
        }
        (self.next, self.rest) = (next, rest);
        self.number += parts.len() as u64;
        self.left -= parts.iter().sum::<u64>();
    }

    /// What the sub-buckets of the next second get.
    fn next_second(&mut self) -> Option<(u64, [u64; PARTS])> {
        let (second, mut parts) = (self.second(), [0; PARTS]);
        let first = usize::try_from(self.number % PARTS as u64).unwrap_or(0);
        match usize::try_from(self.last.checked_sub(self.number)?).unwrap_or(PARTS) {
            0 => return None,
            // Nearly always, and much cheaper.
            PARTS.. if first == 0 => self.give(&mut parts),
            count => self.give(&mut parts[first..PARTS.min(first.saturating_add(count))]),
        }
        Some((second, parts))
    }
}

#[cfg(test)]
mod tests;
