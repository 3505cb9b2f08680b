//! How state is written down: CBOR, by the numbers of the fields.
//!
//! What a store keeps on disk are the types of this crate themselves. A field keeps its number for good; a new one takes the
//! next number and is optional, so that older records are read and older programs pass over what they do not know. Sums,
//! heaps and lines that follow from the rest are not written, but made again when it is read.
//!
//! Rejected: records of their own beside each type, which would have to be kept alike by hand; formats that write fields in
//! the order of the source, where moving a line is a new format.

use minicbor::encode::Write;
use minicbor::{Decoder, Encoder, decode, encode};

mod page;

pub(crate) use page::{Page, Record, record, write};

/// Counts of which most are zero, or all from one on: two bytes each, without the zeros at the end.
pub(crate) mod counts {
    use super::*;

    pub(crate) fn encode<C, W: Write, const N: usize>(
        counts: &[u16; N],
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        let used = counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        e.bytes_len(2 * used as u64)?;
        for count in &counts[..used] {
            e.writer_mut().write_all(&count.to_le_bytes()).map_err(encode::Error::write)?;
        }
        Ok(())
    }

    pub(crate) fn decode<C, const N: usize>(d: &mut Decoder<'_>, _: &mut C) -> Result<[u16; N], decode::Error> {
        let (pairs, rest) = d.bytes()?.as_chunks::<2>();
        if pairs.len() > N || !rest.is_empty() {
            return Err(decode::Error::message("too many counts"));
        }
        let mut counts = [0; N];
        for (count, pair) in counts.iter_mut().zip(pairs) {
            *count = u16::from_le_bytes(*pair);
        }
        Ok(counts)
    }
}

/// Hashes of 128 bits.
pub(crate) mod hash {
    use super::*;

    #[cfg(test)]
    pub(crate) fn encode<C, W: Write>(
        hash: &u128,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.bytes(&hash.to_be_bytes())?.ok()
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<u128, decode::Error> {
        let bytes = d.bytes()?.try_into().map_err(|_| decode::Error::message("a hash has 16 bytes"))?;
        Ok(u128::from_be_bytes(bytes))
    }
}

/// Numbers in a row, as many as there are.
pub(crate) struct Numbers<'a, 'b> {
    decoder: &'a mut Decoder<'b>,
    left: u64,
}

impl<'a, 'b> Numbers<'a, 'b> {
    pub(crate) fn of(decoder: &'a mut Decoder<'b>) -> Result<Self, decode::Error> {
        let left = decoder.array()?.ok_or_else(|| decode::Error::message("a list without its length"))?;
        Ok(Self { decoder, left })
    }

    pub(crate) const fn is_over(&self) -> bool {
        self.left == 0
    }

    pub(crate) fn take(&mut self) -> Result<u64, decode::Error> {
        self.left = self.left.checked_sub(1).ok_or_else(|| decode::Error::message("a list ends within an entry"))?;
        self.decoder.u64()
    }
}
