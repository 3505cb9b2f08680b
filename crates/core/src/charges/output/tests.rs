use minicbor::encode::Write;
use minicbor::{Encode, Encoder, encode};
use proptest::prelude::*;
use std::vec::Vec;

use super::*;
use crate::time::micros;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + millis)
}

fn departures(output: &Output) -> Vec<(Timestamp, u64)> {
    output.seconds().flat_map(Second::departures).collect()
}

#[test]
fn output_is_spread_evenly_and_the_remainder_is_newest() {
    let mut output = Output::default();
    output.spread(at(50), at(425), 100);
    let shares: Vec<_> = departures(&output).into_iter().map(|(_, tokens)| tokens).collect();
    assert_eq!(shares, [20, 33, 33, 14], "75 ms, two eighths of a second, 50 ms and the remainder");
}

#[test]
fn slow_output_is_spread_as_evenly_as_fast() {
    let mut output = Output::default();
    output.spread(at(0), at(30_000), 30);
    output.expire(at(75_000));
    assert_eq!(output.sum(), 15, "half of it is still in the window");
}

#[test]
fn output_older_than_a_minute_does_not_count() {
    let mut output = Output::default();
    output.spread(at(0), at(120_000), 1_200);
    assert_eq!(output.sum(), 600);
}

proptest! {
    /// The window never counts less than the true trailing minute, nor a charge an eighth of a second older, but for the up to four
    /// tokens of a second of a stream that wait for the end of its half.
    #[test]
    fn counting_errs_on_the_safe_side_by_less_than_a_sub_bucket(
        steps in prop::collection::vec((0_u64..3_000, 0_u64..1_000, 0_u64..90_000), 1..80),
    ) {
        let (mut output, mut now, mut log) = (Output::default(), 100_000, Vec::new());
        for (wait, tokens, back) in steps {
            now += wait;
            output.expire(at(now));
            let from = now - back;
            output.spread(at(from), at(now), tokens);
            // The model: each report's exact share, by the words of C3.
            log.push((from, now, tokens));
            let exact = |age: u64| -> f64 {
                log.iter().map(|&(from, to, tokens)| {
                    let cut = (now as f64) - (age as f64);
                    if to == from { return if (to as f64) > cut { tokens as f64 } else { 0.0 }; }
                    let inside = (to as f64 - cut.max(from as f64)).max(0.0);
                    tokens as f64 * inside / (to - from) as f64
                }).sum()
            };
            let counted = output.sum() as f64;
            // A token counts from when it is complete, so a report can leave one token uncounted at the window's far end.
            let rounding = log.len() as f64;
            prop_assert!(counted + rounding >= exact(60_000), "{counted} < {}", exact(60_000));
            prop_assert!(counted <= exact(60_125) + 5.0 * rounding, "{counted} > {}", exact(60_125));
            let parts: u64 = departures(&output).into_iter().map(|(_, tokens)| tokens).sum();
            prop_assert_eq!(parts, output.sum());
            // The seconds are in order, each once, and know what is in them.
            prop_assert!(output.seconds().is_sorted_by(|one, next| one.leaves_in() < next.leaves_in()));
            prop_assert!(output.seconds().count() <= 61);
            for second in output.seconds() {
                let leaving: Vec<_> = second.departures().collect();
                prop_assert_eq!(leaving.iter().map(|(_, tokens)| tokens).sum::<u64>(), second.tokens());
                prop_assert!(leaving.is_sorted_by(|(one, _), (next, _)| one < next));
                prop_assert!(leaving.iter().all(|(at, _)| at.as_seconds() == second.leaves_in() && *at > super::tests::at(now)));
            }
        }
    }

    /// Each second gets what was complete by its end, and no sub-bucket a token that was not; few wait for the end of a half.
    #[test]
    fn a_spread_is_exact_by_the_second(back in 1_u64..59_000, offset in 0_u64..1_000, tokens in 1_u64..1 << 40) {
        let (from, to) = (at(100_000 + offset - back), at(100_000 + offset));
        let mut output = Output::default();
        output.spread(from, to, tokens);
        let mut counted = 0;
        for (leaves_at, share) in departures(&output) {
            counted += share;
            let end = Timestamp::from_micros((number_at(leaves_at.before(WINDOW)) + 1) * SUB_BUCKET_MICROS).min(to);
            let by = u128::from(tokens) * u128::from(micros(end.since(from))) / u128::from(micros(to.since(from)));
            prop_assert!(u128::from(counted) <= by, "{counted} by {end:?}, not {by}");
            let late = by - u128::from(counted);
            let whole = end == to || end.as_micros().is_multiple_of(MICROS_PER_SECOND);
            prop_assert!(late <= if whole { 0 } else { 4 }, "{late} are missing by {end:?}");
        }
        prop_assert_eq!(counted, tokens);
    }

    /// Nothing is lost between the report and the window: a spread of at most a minute counts in full.
    #[test]
    fn a_spread_within_the_minute_counts_in_full(back in 0_u64..59_000, tokens in 0_u64..1 << 40) {
        let mut output = Output::default();
        output.spread(at(100_000 - back), at(100_000), tokens);
        prop_assert_eq!(output.sum(), tokens);
    }
}

/// What the records of a key are compared with.
impl<C> Encode<C> for Output {
    /// A row of numbers: of each second, how many seconds after the one before it, what came evenly, and a mask of the
    /// sub-buckets that have more, with the tokens and the newest charge of each of these.
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        let some = |second: &Second| second.tokens.iter().filter(|tokens| **tokens > 0).count();
        e.array(self.seconds.iter().map(|second| 5 + 2 * some(second) as u64).sum())?;
        let mut before = 0;
        for second in &self.seconds {
            e.u64(second.number - before)?.u64(second.each)?.u64(second.rests[0])?.u64(second.rests[1])?;
            before = second.number;
            e.u64((0..PARTS).filter(|part| second.tokens[*part] > 0).fold(0, |mask, part| mask | 1 << part))?;
            for (tokens, newest) in second.tokens.iter().zip(second.newest).filter(|(tokens, _)| **tokens > 0) {
                e.u64(*tokens)?.u32(newest)?;
            }
        }
        Ok(())
    }
}
