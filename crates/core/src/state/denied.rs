//! How much was denied in the trailing hour in windows at their ceiling: what tells operators whom a ceiling holds back.

use alloc::boxed::Box;

use minicbor::encode::Write;
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::record::Numbers;
use crate::time::Timestamp;
use crate::window::{PerWindow, Tokens, Window};

/// Minutes that are summed up.
const HOUR: u64 = 60;
/// Minutes that are kept: a list in pages counts the hour of its first page for as long as the difference.
const KEPT: u64 = HOUR + 15;
/// The same, as a length.
#[expect(clippy::cast_possible_truncation, reason = "75")]
const SLOTS: usize = KEPT as usize;

impl<C> Encode<C> for Denied {
    /// A row of numbers: minute and tokens of each minute in which something was denied.
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        let first = |minutes: &Minutes| (minutes.newest + 1).saturating_sub(KEPT);
        let minutes = self
            .0
            .iter()
            .flat_map(|minutes| (first(minutes)..=minutes.newest).map(|minute| (minute, minutes.tokens[slot(minute)])));
        let some = minutes.filter(|(_, tokens)| *tokens != Tokens::default());
        e.array(4 * some.clone().count() as u64)?;
        for (minute, tokens) in some {
            e.u64(minute)?;
            for (_, tokens) in tokens.iter() {
                e.u64(*tokens)?;
            }
        }
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Denied {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let (mut denied, mut numbers) = (Self::default(), Numbers::of(d)?);
        while !numbers.is_over() {
            let minute = Timestamp::from_seconds(numbers.take()?.saturating_mul(60));
            let tokens = Tokens::new(numbers.take()?, numbers.take()?, numbers.take()?);
            denied.add(minute, tokens);
        }
        Ok(denied)
    }
}

/// Tokens denied per minute of the clock. Takes memory from the first denial on.
#[derive(Clone, Debug, Default)]
pub(super) struct Denied(Option<Box<Minutes>>);

#[derive(Clone, Debug)]
struct Minutes {
    /// The latest minute in which something was denied.
    newest: u64,
    /// Of minute `m` at `m % KEPT`; those of the last `KEPT` minutes up to `newest`.
    tokens: [Tokens; SLOTS],
}

impl Denied {
    /// Adds `tokens` denied at `now`, which is not before the last call's.
    pub(super) fn add(&mut self, now: Timestamp, tokens: Tokens) {
        if tokens == Tokens::default() {
            return;
        }
        let now = minute(now);
        let minutes =
            self.0.get_or_insert_with(|| Box::new(Minutes { newest: now, tokens: [Tokens::default(); SLOTS] }));
        let skipped = now.saturating_sub(minutes.newest).min(KEPT);
        for passed in now.saturating_sub(skipped) + 1..=now {
            minutes.tokens[slot(passed)] = Tokens::default();
        }
        minutes.newest = minutes.newest.max(now);
        let sum = &mut minutes.tokens[slot(now)];
        for window in Window::ALL {
            sum[window] = sum[window].saturating_add(tokens[window]);
        }
    }

    /// What was denied in the 60 minutes of the clock that end with that of `as_of`; short of what is older than 75.
    pub(super) fn hour(&self, as_of: Timestamp) -> Tokens {
        let Some(minutes) = &self.0 else { return Tokens::default() };
        let last = minute(as_of);
        let first = (last + 1).saturating_sub(HOUR).max((minutes.newest + 1).saturating_sub(KEPT));
        let summed = (first..=last.min(minutes.newest)).map(|minute| &minutes.tokens[slot(minute)]);
        summed.fold(Tokens::default(), |sum, tokens| {
            PerWindow::from_fn(|window| sum[window].saturating_add(tokens[window]))
        })
    }
}

const fn minute(at: Timestamp) -> u64 {
    at.as_seconds() / 60
}

#[allow(clippy::cast_possible_truncation, reason = "less than 75")]
const fn slot(minute: u64) -> usize {
    (minute % KEPT) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Timestamp {
        Timestamp::from_seconds(minutes * 60 + 30)
    }

    fn tokens(prompt: u64) -> Tokens {
        Tokens::new(prompt, 0, 1)
    }

    #[test]
    fn an_hour_is_sixty_minutes_of_the_clock() {
        let mut denied = Denied::default();
        for minute in 1_000..1_200 {
            denied.add(at(minute), tokens(minute));
        }
        let sum: u64 = (1_140..1_200).sum();
        assert_eq!(denied.hour(at(1_199)), Tokens::new(sum, 0, 60));
        // The hour of a list's first page, a quarter of an hour later.
        let earlier: u64 = (1_125..1_185).sum();
        assert_eq!(denied.hour(at(1_184)).prompt, earlier);
        assert_eq!(denied.hour(at(1_258)), tokens(1_199));
        assert_eq!(denied.hour(at(1_259)), Tokens::default());
    }

    #[test]
    fn pauses_forget_what_they_must_and_nothing_else() {
        for pause in [1, 14, 15, 59, 60, 74, 75, 76, 10_000] {
            let mut denied = Denied::default();
            denied.add(at(500), tokens(3));
            denied.add(at(500), tokens(4));
            denied.add(at(500 + pause), tokens(100));
            let old = if pause < 60 { 7 } else { 0 };
            assert_eq!(denied.hour(at(500 + pause)).prompt, 100 + old, "{pause}");
        }
        assert!(Denied::default().0.is_none());
    }
}
