use proptest::prelude::*;
use std::vec::Vec;

use super::*;

/// Numbers of every length, and those at which it changes.
fn numbers() -> impl Strategy<Value = u64> {
    let near = (0_u32..64, 0_u64..3).prop_map(|(digits, more)| (1_u64 << digits).wrapping_add(more).wrapping_sub(1));
    let any = (any::<u64>(), 0_u32..64).prop_map(|(number, less)| number >> less);
    prop_oneof![near, any, 0_u64..30, 250_u64..260, 65_530_u64..65_540]
}

/// A record with holes, as the derived encoder writes them.
#[derive(Clone, Debug, Encode)]
struct Holes {
    #[n(0)]
    first: Option<u64>,
    #[n(1)]
    second: i64,
    #[n(2)]
    third: Option<bool>,
    #[n(3)]
    last: Option<Box<u32>>,
}

record!(Holes { first, second, third, last });

fn written(fill: impl FnOnce(Page<'_>) -> Page<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, fill);
    out
}

fn derived(record: impl Encode<()>) -> Vec<u8> {
    minicbor::to_vec(record).expect("memory takes everything")
}

proptest! {
    #[test]
    fn numbers_are_written_as_their_encoders_write_them(
        row in prop::collection::vec((numbers(), any::<bool>()), 0..300),
    ) {
        // More of them than fit a page.
        let unsigned: Vec<u64> = row.iter().map(|(number, _)| *number).collect();
        prop_assert_eq!(written(|page| unsigned.as_slice().put(page)), derived(&unsigned));
        let signed = |(number, negative): &(u64, bool)| {
            let number = (number >> 1).cast_signed();
            if *negative { !number } else { number }
        };
        let signed: Vec<i64> = row.iter().map(signed).collect();
        prop_assert_eq!(written(|page| signed.as_slice().put(page)), derived(&signed));
    }

    #[test]
    fn what_is_not_there_is_left_out_or_null_as_the_derived_encoder_has_it(
        first in prop::option::of(numbers()),
        second in any::<i64>(),
        third in prop::option::of(any::<bool>()),
        last in prop::option::of(any::<u32>()),
    ) {
        let holes = Holes { first, second, third, last: last.map(Box::new) };
        prop_assert_eq!(written(|page| holes.put(page)), derived(holes));
    }

    #[test]
    fn bytes_are_written_as_they_come_wherever_a_page_ends(
        pieces in prop::collection::vec((numbers(), 0_usize..2_100), 0..12),
    ) {
        let mut expected = Vec::new();
        let out = written(|mut page| {
            for (number, length) in &pieces {
                page = page.number(*number);
                let bytes = std::vec![number.to_le_bytes()[0]; *length];
                let Ok(()) = page.write_all(&bytes);
                expected.extend(derived(number));
                expected.extend(bytes);
            }
            page
        });
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn counts_and_hashes_are_written_as_their_encoders_write_them(
        counts in prop::collection::vec(any::<u16>(), 0..80),
        hash in any::<u128>(),
    ) {
        let mut all = [0; 80];
        all[..counts.len()].copy_from_slice(&counts);
        let mut expected = Vec::new();
        let mut encoder = minicbor::Encoder::new(&mut expected);
        crate::record::counts::encode(&all, &mut encoder, &mut ()).expect("memory takes everything");
        crate::record::hash::encode(&hash, &mut encoder, &mut ()).expect("memory takes everything");
        prop_assert_eq!(written(|page| page.counts(all.iter().copied()).hash(hash)), expected);
    }
}
