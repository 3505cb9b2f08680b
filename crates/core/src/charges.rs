//! What a window counts: tokens charged in the trailing 60 s, in sub-buckets of an eighth of a second.
//!
//! Rejected: a token bucket of capacity = limit, which admits about twice the limit in its worst minute; two fixed minutes
//! with interpolation, which errs on both sides; a log of every charge, which grows with the request rate. A sub-bucket
//! leaves the window 60 s after its *newest* charge, so counting errs on the safe side only, by less than a sub-bucket.
//! Sub-buckets of a second kept evenly produced output for half a second too long: 0.8 % of the limit.

use alloc::collections::VecDeque;
use core::time::Duration;

use minicbor::{Decode, Decoder, decode};

use crate::record::{Numbers, Page, Record};
use crate::room::push_room;
use crate::time::Timestamp;
use crate::window::WINDOW;

mod output;

pub use output::{Output, Second};

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
        let number = number_at(at);
        let place = self.place_of(number);
        match self.buckets.get_mut(place).filter(|bucket| bucket.number() == number) {
            Some(bucket) => {
                bucket.newest = bucket.newest.max(at);
                add(&mut bucket.tokens, tokens);
            }
            None => {
                push_room(&mut self.buckets);
                self.buckets.insert(place, Bucket { newest: at, tokens });
            }
        }
        add(&mut self.sum, tokens);
    }

    /// How many sub-buckets come before this one. Nearly always it is the last one, or the next.
    fn place_of(&self, number: u64) -> usize {
        let length = self.buckets.len();
        match self.buckets.back().map(Bucket::number) {
            None => 0,
            Some(last) if last < number => length,
            Some(last) if last == number => length - 1,
            Some(_) => self.place_among(number),
        }
    }

    fn place_among(&self, number: u64) -> usize {
        self.buckets.partition_point(|bucket| bucket.number() < number)
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
    pub(crate) fn departures(&self) -> impl Iterator<Item = (Timestamp, [u64; N])> + '_ {
        self.buckets.iter().map(|bucket| (bucket.leaves_at(), bucket.tokens))
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

impl<const N: usize> Record for Charges<N> {
    /// A row of numbers: of each sub-bucket, the microseconds since the one before it, and its tokens.
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        let mut page = page.row((1 + N) * self.buckets.len());
        let mut before = Timestamp::ZERO;
        for Bucket { newest, tokens } in &self.buckets {
            page = page.number(newest.as_micros() - before.as_micros());
            before = *newest;
            page = tokens.iter().fold(page, |page, tokens| page.number(*tokens));
        }
        page
    }
}

impl<'b, C, const N: usize> Decode<'b, C> for Charges<N> {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let (mut charges, mut numbers) = (Self::default(), Numbers::of(d)?);
        let mut newest = Timestamp::ZERO;
        while !numbers.is_over() {
            newest = Timestamp::from_micros(newest.as_micros().saturating_add(numbers.take()?));
            let mut tokens = [0; N];
            for tokens in &mut tokens {
                *tokens = numbers.take()?;
            }
            if charges.buckets.back().is_some_and(|before| before.number() >= number_at(newest)) {
                return Err(decode::Error::message("two sub-buckets at one place"));
            }
            add(&mut charges.sum, tokens);
            push_room(&mut charges.buckets);
            charges.buckets.push_back(Bucket { newest, tokens });
        }
        Ok(charges)
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
