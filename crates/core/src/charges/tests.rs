use minicbor::encode::Write;
use minicbor::{Encode, Encoder, encode};
use proptest::prelude::*;
use std::vec::Vec;

use super::*;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + millis)
}

#[test]
fn a_charge_leaves_the_window_sixty_seconds_later_and_not_before() {
    let mut charges = Charges::<1>::default();
    charges.charge(at(250), [7]);
    charges.expire(Timestamp::from_micros(at(60_250).as_micros() - 1));
    assert_eq!(charges.sum(), [7]);
    charges.expire(at(60_250));
    assert_eq!(charges.sum(), [0]);
    assert!(charges.is_empty());
}

#[test]
fn a_sub_bucket_leaves_with_its_newest_charge() {
    let mut charges = Charges::<2>::default();
    charges.charge(at(100), [5, 1]);
    charges.charge(at(120), [5, 1]);
    charges.expire(at(60_119));
    assert_eq!(charges.sum(), [10, 2], "counted 0.02 s too long, never too short");
    charges.expire(at(60_120));
    assert_eq!(charges.sum(), [0, 0]);
}

#[test]
fn a_correction_reaches_the_admission_while_it_is_in_the_window_and_never_after() {
    let mut charges = Charges::<1>::default();
    charges.charge(at(0), [100]);
    charges.correct(at(0), [100], [40]);
    assert_eq!(charges.sum(), [40]);
    charges.correct(at(0), [40], [90]);
    assert_eq!(charges.sum(), [90]);
    charges.expire(at(60_000));
    charges.correct(at(0), [90], [200]);
    assert_eq!(charges.sum(), [0]);
}

proptest! {
    /// Whatever was charged before, a sub-bucket is found where it is, and a missing one goes where it belongs.
    #[test]
    fn sub_buckets_stay_in_order_and_each_token_is_in_its_own(charged in prop::collection::vec((0_u64..481, 1_u64..9), 1..200)) {
        let (mut charges, mut model) = (Charges::<1>::default(), std::collections::BTreeMap::<u64, u64>::new());
        for (eighth, tokens) in charged {
            charges.charge(at(eighth * 125), [tokens]);
            *model.entry(eighth).or_default() += tokens;
            prop_assert!(charges.correct(at(eighth * 125), [0], [1]));
            *model.entry(eighth).or_default() += 1;
        }
        let expected = model.into_iter().map(|(eighth, tokens)| (at(eighth * 125 + 60_000), [tokens]));
        prop_assert_eq!(charges.departures().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        prop_assert!(!charges.correct(at(481 * 125), [0], [1]));
    }
}

/// What the records of a key are compared with.
impl<C, const N: usize> Encode<C> for Charges<N> {
    /// A row of numbers: of each sub-bucket, the microseconds since the one before it, and its tokens.
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(((1 + N) * self.buckets.len()) as u64)?;
        let mut before = Timestamp::ZERO;
        for Bucket { newest, tokens } in &self.buckets {
            e.u64(newest.as_micros() - before.as_micros())?;
            before = *newest;
            for tokens in tokens {
                e.u64(*tokens)?;
            }
        }
        Ok(())
    }
}
