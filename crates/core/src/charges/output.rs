//! Output tokens in the trailing 60 s: sub-buckets as those of [`super::Charges`], kept by the second.
//!
//! Output comes evenly over a stream's time, so nearly every sub-bucket of those seconds counts some; and the coming minute is
//! looked at second by second, so each knows its sum.

use alloc::collections::VecDeque;
use core::time::Duration;

use minicbor::{Decode, Decoder, decode};

use super::{SUB_BUCKET_MICROS, number_at, start_of};
use crate::record::{Numbers, Page, Record};
use crate::room::push_room;
use crate::time::{MICROS_PER_SECOND, Timestamp};
use crate::window::WINDOW;

/// Sub-buckets of a second.
const PARTS: usize = 8;

/// Of each sub-bucket of a second, its last microsecond.
const LAST_MICROS: [u32; PARTS] = [124_999, 249_999, 374_999, 499_999, 624_999, 749_999, 874_999, 999_999];

/// Sub-buckets of the first half of a second.
const HALF: usize = PARTS / 2;

/// Output of a key in the trailing minute.
///
/// Holds at most 61 seconds of 136 bytes, none while idle.
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
    /// By streams that produced in the whole second: of each sub-bucket alike, and of the last one of each half what could not be
    /// shared out.
    each: u64,
    rests: [u64; 2],
    /// Of each sub-bucket, by other streams.
    tokens: [u64; PARTS],
    /// Of each sub-bucket with such tokens, its newest charge, in microseconds of the second.
    newest: [u32; PARTS],
}

impl Second {
    const fn new(number: u64) -> Self {
        Self { number, sum: 0, each: 0, rests: [0; 2], tokens: [0; PARTS], newest: [0; PARTS] }
    }

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
        let Self { number, tokens, newest, .. } = self.by_part();
        let begins = Timestamp::from_seconds(number).after(WINDOW);
        (0..PARTS)
            .filter(move |part| tokens[*part] > 0)
            .map(move |part| (begins.after_micros(newest[part]), tokens[part]))
    }

    /// When the last of them leaves.
    fn last_leaves_at(&self) -> Option<Timestamp> {
        let evenly = |part: usize| self.each > 0 || (part % HALF == HALF - 1 && self.rests[part / HALF] > 0);
        let last = (0..PARTS).rfind(|part| self.tokens[*part] > 0 || evenly(*part))?;
        let micros = if evenly(last) { LAST_MICROS[last] } else { self.newest[last] };
        Some(Timestamp::from_seconds(self.number).after(WINDOW).after_micros(micros))
    }

    /// The same with all tokens at their sub-buckets.
    fn by_part(&self) -> Self {
        if (self.each, self.rests) == (0, [0; 2]) {
            return *self;
        }
        let mut second = Self { each: 0, rests: [0; 2], ..*self };
        for (part, tokens) in second.tokens.iter_mut().enumerate() {
            let rest = if part % HALF == HALF - 1 { self.rests[part / HALF] } else { 0 };
            let whole = self.each.saturating_add(rest);
            if whole > 0 {
                *tokens = tokens.saturating_add(whole);
                second.newest[part] = LAST_MICROS[part];
            }
        }
        second
    }

    fn leaves_at(&self, part: usize) -> Timestamp {
        Timestamp::from_seconds(self.number).after(WINDOW).after_micros(self.newest[part])
    }

    /// Charges what one stream produced evenly in the whole second. What cannot be shared out evenly goes to the ends of its
    /// halves: no token is charged before it was produced, and none a second later.
    fn charge_evenly(&mut self, tokens: u64) {
        self.sum = self.sum.saturating_add(tokens);
        self.each = self.each.saturating_add(tokens / PARTS as u64);
        let rest = tokens % PARTS as u64;
        self.rests[0] += rest / 2;
        self.rests[1] += rest - rest / 2;
    }

    /// Charges a sub-bucket at this microsecond of the second.
    fn charge(&mut self, part: usize, micros: u32, tokens: u64) {
        self.sum = self.sum.saturating_add(tokens);
        self.newest[part] = if self.tokens[part] > 0 { self.newest[part].max(micros) } else { micros };
        self.tokens[part] += tokens;
    }

    /// Charges each sub-bucket at its end.
    fn charge_parts(&mut self, parts: &[u64; PARTS]) {
        for (part, tokens) in parts.iter().enumerate().filter(|(_, tokens)| **tokens > 0) {
            self.sum = self.sum.saturating_add(*tokens);
            self.newest[part] = LAST_MICROS[part];
            self.tokens[part] += tokens;
        }
    }

    /// Drops what has left the window at `now`, and answers how much that is.
    fn expire(&mut self, now: Timestamp) -> u64 {
        let before = self.sum;
        if (self.each, self.rests) != (0, [0; 2]) {
            *self = self.by_part();
        }
        for part in 0..PARTS {
            if self.tokens[part] > 0 {
                if self.leaves_at(part) > now {
                    break;
                }
                self.sum = self.sum.saturating_sub(self.tokens[part]);
                self.tokens[part] = 0;
            }
        }
        before - self.sum
    }
}

impl Output {
    /// Drops what has left the window at `now`. The other methods count what was in the window at the last call.
    pub fn expire(&mut self, now: Timestamp) {
        while let Some(oldest) = self.seconds.front_mut().filter(|oldest| oldest.leaves_in() <= now.as_seconds()) {
            let left = if oldest.leaves_in() < now.as_seconds() { oldest.sum } else { oldest.expire(now) };
            self.sum = self.sum.saturating_sub(left);
            if oldest.leaves_in() == now.as_seconds() && oldest.sum > 0 {
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
        self.seconds.back().and_then(Second::last_leaves_at).map_or(Duration::ZERO, |at| at.since(now))
    }

    /// The seconds of which something is in the window, in the order in which they leave it.
    pub fn seconds(&self) -> impl DoubleEndedIterator<Item = &Second> {
        self.seconds.iter()
    }

    /// Charges `tokens`, at most 2^40, that were produced evenly between `from` and `to` (contract C3): each second gets what
    /// was complete by its end, the newest sub-bucket the remainder. What falls more than 60 s before `to` is not counted.
    ///
    /// At most 62 steps, however long the span.
    pub fn spread(&mut self, from: Timestamp, to: Timestamp, tokens: u64) {
        if tokens == 0 {
            return;
        }
        let mut shares = Shares::new(from, to, tokens);
        self.sum = self.sum.saturating_add(shares.left);
        let mut place = self.place_of(shares.second());
        while shares.ahead() > 0 {
            if !shares.is_whole() {
                let number = shares.second();
                let (parts, tokens) = shares.parts();
                if tokens > 0 {
                    self.second(&mut place, number).charge_parts(&parts);
                }
                continue;
            }
            // Nearly always on a busy key, and much cheaper: seconds that are there already.
            for second in self.seconds.range_mut(place..) {
                if second.number != shares.second() || !shares.is_whole() {
                    break;
                }
                second.charge_evenly(shares.whole());
                place += 1;
            }
            if shares.is_whole() {
                let number = shares.second();
                let tokens = shares.whole();
                if tokens > 0 {
                    self.second(&mut place, number).charge_evenly(tokens);
                }
            }
        }
        if shares.left > 0 {
            let micros = u32::try_from(to.as_micros() % MICROS_PER_SECOND).unwrap_or(0);
            let part = LAST_MICROS.partition_point(|last| *last < micros);
            // It may be the one that came last.
            place = place.saturating_sub(1);
            self.second(&mut place, to.as_seconds()).charge(part, micros, shares.left);
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
                push_room(&mut self.seconds);
                self.seconds.insert(*place, Second::new(number));
            }
        }
        *place += 1;
        &mut self.seconds[*place - 1]
    }
}

impl Record for Output {
    /// A row of numbers: of each second, how many seconds after the one before it, what came evenly, and a mask of the
    /// sub-buckets that have more, with the tokens and the newest charge of each of these.
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        let mask =
            |second: &Second| (0..PARTS).fold(0_u64, |mask, part| mask | u64::from(second.tokens[part] > 0) << part);
        let mut page = page.row(self.seconds.iter().map(|second| 5 + 2 * mask(second).count_ones() as usize).sum());
        let mut before = 0;
        for second in &self.seconds {
            page = page.number(second.number - before).number(second.each);
            before = second.number;
            page = page.number(second.rests[0]).number(second.rests[1]).number(mask(second));
            for (tokens, newest) in second.tokens.iter().zip(second.newest).filter(|(tokens, _)| **tokens > 0) {
                page = page.number(*tokens).number(newest.into());
            }
        }
        page
    }
}

impl<'b, C> Decode<'b, C> for Output {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let (mut output, mut numbers) = (Self::default(), Numbers::of(d)?);
        let mut number = 0_u64;
        while !numbers.is_over() {
            let ahead = numbers.take()?;
            number = number.saturating_add(ahead);
            if ahead == 0 && !output.seconds.is_empty() {
                return Err(decode::Error::message("a second that comes twice"));
            }
            let mut second = Second::new(number);
            (second.each, second.rests) = (numbers.take()?, [numbers.take()?, numbers.take()?]);
            let mask = numbers.take()?;
            for part in (0..PARTS).filter(|part| mask & (1 << part) != 0) {
                second.tokens[part] = numbers.take()?;
                let newest = u32::try_from(numbers.take()?).unwrap_or(u32::MAX);
                second.newest[part] = newest.clamp(LAST_MICROS[part] - 124_999, LAST_MICROS[part]);
            }
            let all = second.tokens.iter().chain(&second.rests).chain([&second.each; PARTS]);
            second.sum = all.fold(0, |sum: u64, tokens| sum.saturating_add(*tokens));
            output.sum = output.sum.saturating_add(second.sum);
            push_room(&mut output.seconds);
            output.seconds.push_back(second);
        }
        Ok(output)
    }
}

/// What comes within some time, and the part of a token beyond that, in 1/[`Shares::span`].
#[derive(Clone, Copy)]
struct Rate {
    tokens: u64,
    rest: u64,
}

/// What each second gets of the sub-buckets that end before a stream's time does; the newest one gets what is left.
struct Shares {
    left: u64,
    /// The next sub-bucket, and the newest.
    number: u64,
    last: u64,
    /// What the first one gets, of which the stream may have missed the beginning.
    first: Option<u64>,
    /// The part of a token that is complete by the end of the last one that got its share or of the first, in 1/`span`.
    rest: u64,
    span: u64,
    by_part: Rate,
    by_second: Rate,
}

impl Shares {
    fn new(from: Timestamp, to: Timestamp, tokens: u64) -> Self {
        let since = |at: Timestamp| at.as_micros().saturating_sub(from.as_micros());
        let span = since(to).max(1);
        // tokens * elapsed / span, and what is left over.
        let by_elapsed = |elapsed: u64| {
            let (tokens, rest) = if let Some(product) = tokens.checked_mul(elapsed) {
                // Nearly always, and much cheaper.
                (product / span, product % span)
            } else {
                let (product, span) = (u128::from(tokens) * u128::from(elapsed), u128::from(span));
                (u64::try_from(product / span).unwrap_or(u64::MAX), u64::try_from(product % span).unwrap_or(0))
            };
            Rate { tokens, rest }
        };
        let (number, last) = (number_at(from).max(number_at(to.before(WINDOW))), number_at(to));
        let before = by_elapsed(since(start_of(number))).tokens;
        let by_first = by_elapsed(since(start_of(number + 1)));
        let mut shares = Self {
            left: tokens - before,
            number,
            last,
            first: Some(by_first.tokens.saturating_sub(before)),
            rest: by_first.rest,
            span,
            by_part: by_elapsed(SUB_BUCKET_MICROS),
            by_second: by_elapsed(MICROS_PER_SECOND),
        };
        if number < last && start_of(number + 1).after(WINDOW).as_micros() <= to.as_micros() + 1 {
            // It leaves the window with `to`.
            shares.left -= shares.first.take().unwrap_or(0);
            shares.number += 1;
        }
        shares
    }

    /// Of the next sub-bucket.
    const fn second(&self) -> u64 {
        self.number / PARTS as u64
    }

    /// What comes within the next part or second.
    const fn step(&mut self, rate: Rate) -> u64 {
        self.rest += rate.rest;
        // By arithmetic: nothing foresees which way a branch would go.
        let more = (self.rest >= self.span) as u64;
        self.rest -= self.span * more;
        rate.tokens + more
    }

    /// How many sub-buckets come before the newest.
    const fn ahead(&self) -> u64 {
        self.last.saturating_sub(self.number)
    }

    /// Whether the stream produced in the whole of the next second.
    const fn is_whole(&self) -> bool {
        self.number.is_multiple_of(PARTS as u64) && self.ahead() >= PARTS as u64 && self.first.is_none()
    }

    /// What the next second gets, where the stream produced in all of it.
    const fn whole(&mut self) -> u64 {
        let tokens = self.step(self.by_second);
        self.number += PARTS as u64;
        self.left -= tokens;
        tokens
    }

    /// What the sub-buckets of the next second get, and the sum.
    fn parts(&mut self) -> ([u64; PARTS], u64) {
        let (mut parts, mut sum) = ([0; PARTS], 0);
        let first = self.number % PARTS as u64;
        let end = (first + self.ahead()).min(PARTS as u64);
        for part in first..end {
            let tokens = self.first.take().unwrap_or_else(|| self.step(self.by_part));
            parts[usize::try_from(part).unwrap_or(0)] = tokens;
            sum += tokens;
        }
        self.number += end - first;
        self.left -= sum;
        (parts, sum)
    }
}

#[cfg(test)]
mod tests;
