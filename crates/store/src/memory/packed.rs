//! A key in few bytes: its record, with what repeats itself left out.
//!
//! Names come first, as they are: lists read them, and no more. The rest is counts of which long runs are alike, and instants
//! that begin alike: what was there before, at most 255 bytes ago, is named by its length and how far back it is (as in Ziv and
//! Lempel, "A Universal Algorithm for Sequential Data Compression", 1977).
//!
//! Rejected: a general compressor, whose tables cost more than such a record.

use minicbor::decode;
use tidegate_core::key::KeyRef;

use crate::durable::layout::KeyRecord;

/// Fewest bytes that are named instead of repeated.
const FEWEST: usize = 3;
/// Most bytes of a run.
const MOST: usize = 128;
/// First byte of what was there before, less its length above [`FEWEST`], and how far back; what is below is the length of a run
/// of bytes that follow, less one.
const BEFORE: u8 = 128;

/// A record as it is on disk, packed.
pub(crate) struct Packed(Box<[u8]>);

impl Packed {
    /// `record`, which begins with `names` bytes of names.
    pub(super) fn of(record: &[u8], names: usize) -> Self {
        let (names, rest) = record.split_at(names);
        let mut out = names.to_vec();
        // Where three bytes were last, by a hash of them, from one on.
        let mut places = [0_u16; 256];
        let (mut at, mut new) = (0, 0);
        while let Some([one, two, three]) = rest.get(at..at + FEWEST) {
            let hash = usize::from(one.wrapping_mul(31).wrapping_add(*two).wrapping_mul(31).wrapping_add(*three));
            let here = u16::try_from(at + 1).unwrap_or(0);
            let back = usize::from(here.saturating_sub(std::mem::replace(&mut places[hash], here)));
            let known = match u8::try_from(back) {
                Ok(1..) if back <= at => rest[at..].iter().zip(&rest[at - back..]),
                _ => [].iter().zip(&[]),
            };
            let length = known.take(MOST + FEWEST - 1).take_while(|(here, before)| here == before).count();
            if length < FEWEST {
                at += 1;
                continue;
            }
            push_new(&mut out, &rest[new..at]);
            out.extend([BEFORE + byte(length - FEWEST), byte(back)]);
            at += length;
            new = at;
        }
        push_new(&mut out, &rest[new..]);
        Self(out.into())
    }

    /// The record.
    pub(crate) fn unpacked(&self) -> Result<Vec<u8>, decode::Error> {
        let names = KeyRecord::names(&self.0)?;
        let (names, mut packed) = self.0.split_at(names);
        let mut out = Vec::with_capacity(4 * self.0.len());
        out.extend_from_slice(names);
        let cut = || decode::Error::message("a packed record that is cut off");
        while let Some((first, rest)) = packed.split_first() {
            packed = if let Some(more) = first.checked_sub(BEFORE) {
                let (back, rest) = rest.split_first().ok_or_else(cut)?;
                for _ in 0..usize::from(more) + FEWEST {
                    let before = out.len().checked_sub((*back).into()).and_then(|place| out.get(place));
                    out.push(*before.ok_or_else(cut)?);
                }
                rest
            } else {
                let (new, rest) = rest.split_at_checked(usize::from(*first) + 1).ok_or_else(cut)?;
                out.extend_from_slice(new);
                rest
            };
        }
        Ok(out)
    }

    /// Whose it is.
    pub(super) fn key(&self) -> Result<KeyRef<'_>, decode::Error> {
        KeyRecord::read_key(&self.0)
    }
}

/// Bytes that were not there before.
fn push_new(out: &mut Vec<u8>, bytes: &[u8]) {
    for run in bytes.chunks(MOST) {
        out.push(byte(run.len() - 1));
        out.extend_from_slice(run);
    }
}

fn byte(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_core::key::KeyRef;

    use super::*;
    use crate::durable::layout::{KeyHead, encoded};
    use crate::memory::marks::OnDisk;

    proptest! {
        #[test]
        fn what_is_packed_comes_back(runs in prop::collection::vec((any::<u16>(), 0_usize..300), 0..20)) {
            let key = KeyRef::new("acme", "opus", "turbo").expect("well formed").to_owned();
            let mut record = encoded(&KeyHead::of(&key, &OnDisk::default()));
            let names = record.len();
            record.extend(runs.iter().flat_map(|(pair, length)| pair.to_le_bytes().into_iter().cycle().take(*length)));
            let packed = Packed::of(&record, names);
            prop_assert_eq!(packed.key().expect("names"), key.as_ref());
            prop_assert_eq!(packed.unpacked().expect("packed"), record);
        }
    }
}
