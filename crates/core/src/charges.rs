//! What a window counts: tokens charged in the trailing 60 s, in sub-buckets of an eighth of a second.
//!
//! Rejected: a token bucket of capacity = limit, which admits about twice the limit in its worst minute; two fixed minutes
//! with interpolation, which errs on both sides; a log of every charge, which grows with the request rate. A sub-bucket
//! leaves the window 60 s after its *newest* charge, so counting errs on the safe side only, by less than a sub-bucket.
//! Sub-buckets of a second kept evenly produced output for half a second too long: 0.8 % of the limit.

use alloc::collections::VecDeque;
use core::ops::Range;
use core::time::Duration;

use crate::time::{Timestamp, micros};
use crate::window::WINDOW;

/// Length of a sub-bucket.
const SUB_BUCKET_MICROS: u64 = 125_000;

/// Charges of `N` windows that are always charged at the same instants (the two prompt windows share theirs).
///
/// Holds at most 481 sub-buckets, none while idle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charges<const N: usize> {
    /// Ascending in time, at most one for each eighth of a second.
    buckets: VecDeque<Bucket<N>>,
    sum: [u64; N],
}

/// Sub-buckets in a group.
const GROUP: usize = 16;

/// Most groups.
pub const MOST_GROUPS: usize = 31;

/// Sub-buckets that leave one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group<const N: usize> {
    /// Which; for [`Charges::departures_of`].
    pub which: Range<usize>,
    /// When the last of them leaves.
    pub last: Timestamp,
    /// Tokens that leave with all of them.
    pub tokens: [u64; N],
    /// Tokens that leave with the last.
    pub last_tokens: [u64; N],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket<const N: usize> {
    /// Its newest charge.
    newest: Timestamp,
    tokens: [u64; N],
}

impl<const N: usize> Bucket<N> {
    fn number(&self) -> u64 {
        number_at(self.newest)
    }

    fn leaves_at(&self) -> Timestamp {
        self.newest.after(WINDOW)
    }
}

impl<const N: usize> Default for Charges<N> {
    fn default() -> Self {
        Self { buckets: VecDeque::new(), sum: [0; N] }
    }
}

impl<const N: usize> Charges<N> {
    /// Drops what has left the window at `now`. The other methods count what was in the window at the last call.
    pub fn expire(&mut self, now: Timestamp) {
        while let Some(oldest) = self.buckets.front().filter(|bucket| bucket.leaves_at() <= now) {
            subtract(&mut self.sum, oldest.tokens);
            self.buckets.pop_front();
        }
        if self.buckets.is_empty() {
            // An idle key keeps no room for what it may charge one day.
            self.buckets = VecDeque::new();
        }
    }

    /// Tokens in the window, per window; saturates.
    #[must_use]
    pub const fn sum(&self) -> [u64; N] {
        self.sum
    }

    /// Whether nothing is in the window.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Charges `tokens` at `at`, which may lie in the past but not before the window.
    pub fn charge(&mut self, at: Timestamp, tokens: [u64; N]) {
        let place = self.place_of(number_at(at));
        self.charge_from(place, at, tokens);
    }

    /// As [`Charges::charge`], where no sub-bucket before the one at `place` is meant; answers the place of the one that is.
    fn charge_from(&mut self, mut place: usize, at: Timestamp, tokens: [u64; N]) -> usize {
        let number = number_at(at);
        while self.buckets.get(place).is_some_and(|bucket| bucket.number() < number) {
            place += 1;
        }
        match self.buckets.get_mut(place).filter(|bucket| bucket.number() == number) {
            Some(bucket) => {
                bucket.newest = bucket.newest.max(at);
                add(&mut bucket.tokens, tokens);
            }
            None => self.buckets.insert(place, Bucket { newest: at, tokens }),
        }
        add(&mut self.sum, tokens);
        place
    }

    /// How many sub-buckets come before this one. O(1) where no eighth of a second between them went without a charge.
    fn place_of(&self, number: u64) -> usize {
        let (Some(oldest), Some(newest)) = (self.buckets.front(), self.buckets.back()) else { return 0 };
        let count = self.buckets.len();
        // Numbers are distinct, so there are no more between two than their difference.
        let distance = |far: u64| usize::try_from(far).unwrap_or(usize::MAX);
        let mut most = distance(number.saturating_sub(oldest.number())).min(count);
        let mut least = match newest.number().checked_sub(number) {
            Some(until_newest) => count.saturating_sub(distance(until_newest).saturating_add(1)),
            None => count,
        };
        while least < most {
            let middle = usize::midpoint(least, most);
            if self.buckets[middle].number() < number { least = middle + 1 } else { most = middle }
        }
        least
    }

    /// Corrects what was charged at `at` from `from` to `to`, where that sub-bucket is still in the window; else answers
    /// `false` and changes nothing. The time at which the sub-bucket leaves does not change.
    pub fn correct(&mut self, at: Timestamp, from: [u64; N], to: [u64; N]) -> bool {
        let number = number_at(at);
        let place = self.place_of(number);
        let Some(bucket) = self.buckets.get_mut(place).filter(|bucket| bucket.number() == number) else {
            return false;
        };
        // Both from the total, so that the sum stays the sum of its parts.
        subtract(&mut self.sum, bucket.tokens);
        subtract(&mut bucket.tokens, from);
        add(&mut bucket.tokens, to);
        add(&mut self.sum, bucket.tokens);
        true
    }

    /// The sub-buckets in the order in which they leave: the instant, and the tokens that leave then.
    pub fn departures(&self) -> impl Iterator<Item = (Timestamp, [u64; N])> + '_ {
        self.buckets.iter().map(|bucket| (bucket.leaves_at(), bucket.tokens))
    }

    /// The sub-buckets in the order in which they leave, some at a time.
    pub fn departing_groups(&self) -> impl Iterator<Item = Group<N>> + '_ {
        let starts = (0..self.buckets.len()).step_by(GROUP);
        starts.map(|start| {
            let which = start..self.buckets.len().min(start + GROUP);
            let mut group = Group { which: which.clone(), last: Timestamp::ZERO, tokens: [0; N], last_tokens: [0; N] };
            for bucket in self.buckets.range(which) {
                add(&mut group.tokens, bucket.tokens);
                group.last_tokens = bucket.tokens;
            }
            group.last = self.buckets.get(group.which.end - 1).map_or(Timestamp::ZERO, Bucket::leaves_at);
            group
        })
    }

    /// The sub-buckets of a group, as [`Charges::departures`].
    pub fn departures_of(&self, which: Range<usize>) -> impl Iterator<Item = (Timestamp, [u64; N])> + '_ {
        self.buckets.range(which).map(|bucket| (bucket.leaves_at(), bucket.tokens))
    }

    /// Time from `now` until window `index` would count nothing if nothing came; zero if it does.
    #[must_use]
    pub fn reset_after(&self, index: usize, now: Timestamp) -> Duration {
        let last = self.buckets.iter().rev().find(|bucket| bucket.tokens[index] > 0);
        last.map_or(Duration::ZERO, |bucket| bucket.leaves_at().since(now))
    }

    /// Time from `now` until nothing is left in the window, not even what was given back.
    #[must_use]
    pub fn empty_after(&self, now: Timestamp) -> Duration {
        self.buckets.back().map_or(Duration::ZERO, |newest| newest.leaves_at().since(now))
    }

    /// Time from `now` until at most `room` tokens of window `index` are left in the window.
    #[must_use]
    pub fn wait_until_at_most(&self, index: usize, room: u64, now: Timestamp) -> Duration {
        let mut left = self.sum[index];
        if left <= room {
            return Duration::ZERO;
        }
        for (at, tokens) in self.departures() {
            left = left.saturating_sub(tokens[index]);
            if left <= room {
                return at.since(now);
            }
        }
        WINDOW
    }
}

impl Charges<1> {
    /// Charges `tokens`, at most 2^40, that were produced evenly between `from` and `to` (contract C3): each sub-bucket gets
    /// what was complete by its end, the newest one the remainder. What falls more than 60 s before `to` is not counted.
    ///
    /// At most 481 steps, however long the span.
    pub fn spread(&mut self, from: Timestamp, to: Timestamp, tokens: u64) {
        if tokens == 0 {
            return;
        }
        let span = micros(to.since(from)).max(1);
        // tokens * elapsed / span, and what is left over.
        let by_elapsed = |elapsed: u64| {
            let (product, span) = (u128::from(tokens) * u128::from(elapsed), u128::from(span));
            (u64::try_from(product / span).unwrap_or(u64::MAX), u64::try_from(product % span).unwrap_or(0))
        };
        let (first, last) = (number_at(from).max(number_at(to.before(WINDOW))), number_at(to));
        let (mut before, _) = by_elapsed(micros(start_of(first).since(from)));
        let (mut by, mut rest) = by_elapsed(micros(start_of(first + 1).since(from)));
        let (each, each_rest) = by_elapsed(SUB_BUCKET_MICROS);
        // By the beginning of the newest sub-bucket.
        let (by_last, _) = if first < last { by_elapsed(micros(start_of(last).since(from))) } else { (before, 0) };
        let complete = (first..last).map(move |number| {
            let newest = Timestamp::from_micros(start_of(number + 1).as_micros() - 1);
            let charge = (newest, if newest.after(WINDOW) > to { by - before } else { 0 });
            before = by;
            // As by_elapsed an eighth of a second later, without its division.
            (by, rest) = (by + each, rest + each_rest);
            if rest >= span {
                (by, rest) = (by + 1, rest - span);
            }
            charge
        });
        let mut place = self.place_of(first);
        let count = usize::try_from(last - first).unwrap_or(usize::MAX);
        if count > 0 && self.is_gapless_from(place, first) {
            // Nearly always on a busy key, and much cheaper.
            let mut charged = 0;
            let mut complete = complete;
            let known = count.min(self.buckets.len() - place);
            for (bucket, (newest, tokens)) in self.buckets.range_mut(place..place + known).zip(&mut complete) {
                if tokens > 0 {
                    bucket.newest = bucket.newest.max(newest);
                    add(&mut bucket.tokens, [tokens]);
                }
                charged += tokens;
            }
            place += known;
            for (newest, tokens) in complete.filter(|(_, tokens)| *tokens > 0) {
                self.buckets.push_back(Bucket { newest, tokens: [tokens] });
                charged += tokens;
                place += 1;
            }
            add(&mut self.sum, [charged]);
        } else {
            for (newest, tokens) in complete.filter(|(_, tokens)| *tokens > 0) {
                place = self.charge_from(place, newest, [tokens]);
            }
        }
        if tokens > by_last {
            self.charge_from(place, to, [tokens - by_last]);
        }
    }
}

impl Charges<1> {
    /// Whether there is a sub-bucket for each eighth of a second from `number` on, the one at `place`, until the newest.
    fn is_gapless_from(&self, place: usize, number: u64) -> bool {
        let (Some(first), Some(newest)) = (self.buckets.get(place), self.buckets.back()) else { return false };
        let missing = (newest.number() - first.number() + 1) - (self.buckets.len() - place) as u64;
        first.number() == number && missing == 0
    }
}

/// The number of the sub-bucket that `at` falls into.
const fn number_at(at: Timestamp) -> u64 {
    at.as_micros() / SUB_BUCKET_MICROS
}

/// When a sub-bucket begins.
const fn start_of(number: u64) -> Timestamp {
    Timestamp::from_micros(number.saturating_mul(SUB_BUCKET_MICROS))
}

fn add<const N: usize>(sum: &mut [u64; N], tokens: [u64; N]) {
    for (sum, tokens) in sum.iter_mut().zip(tokens) {
        *sum = sum.saturating_add(tokens);
    }
}

fn subtract<const N: usize>(sum: &mut [u64; N], tokens: [u64; N]) {
    for (sum, tokens) in sum.iter_mut().zip(tokens) {
        *sum = sum.saturating_sub(tokens);
    }
}

#[cfg(test)]
mod tests;
