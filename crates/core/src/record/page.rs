//! Records on their way into memory: a few thousand keys are written down every second, each some hundred and fifty numbers.
//!
//! The bytes are those that the derived encoders of `minicbor` write, field by field; a test compares them. Rejected: these
//! encoders themselves, which make room in the memory that grows for each number, and hand a result up from each: twice the
//! time for a key whose parts are in the caches.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::time::Duration;

use minicbor::Encode;
use minicbor::encode::Write;

use crate::time::Timestamp;
use crate::window::PerWindow;

/// Bytes that are put together before they go to where there may be no room for them: most keys with all their items.
const PAGE: usize = 1_024;
/// Most bytes of a number: what it is, and 64 bits.
const LONGEST: usize = 9;

/// What comes first of each piece: its kind in the upper three bits.
mod kind {
    pub(super) const UNSIGNED: u8 = 0;
    pub(super) const SIGNED: u8 = 1 << 5;
    pub(super) const BYTES: u8 = 2 << 5;
    pub(super) const ARRAY: u8 = 4 << 5;
}
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;

/// A page that is being filled, handed from one field to the next.
pub(crate) struct Page<'a> {
    sheet: &'a mut Sheet,
    used: usize,
}

struct Sheet {
    bytes: [u8; PAGE],
    out: Vec<u8>,
}

/// Adds to `out` what `fill` writes.
pub(crate) fn write(out: &mut Vec<u8>, fill: impl FnOnce(Page<'_>) -> Page<'_>) {
    let mut sheet = Sheet { bytes: [0; PAGE], out: core::mem::take(out) };
    fill(Page { sheet: &mut sheet, used: 0 }).turn();
    *out = sheet.out;
}

impl Page<'_> {
    /// Goes on with an empty page.
    fn turn(&mut self) {
        self.sheet.out.extend_from_slice(&self.sheet.bytes[..self.used]);
        self.used = 0;
    }

    /// Room for so many bytes, at most a page, that come next.
    fn room(&mut self, length: usize) -> &mut [u8] {
        if length > PAGE - self.used {
            self.turn();
        }
        let start = self.used;
        self.used += length;
        &mut self.sheet.bytes[start..start + length]
    }

    /// What comes next, and its number in the fewest bytes that hold it.
    #[inline]
    fn head(mut self, kind: u8, number: u64) -> Self {
        if self.used > PAGE - LONGEST {
            self.turn();
        }
        // One, two, four or eight bytes; none of a small number. By arithmetic: nothing foresees which way a branch would go.
        let class = u8::from(number >> 8 > 0) + u8::from(number >> 16 > 0) + u8::from(number >> 32 > 0);
        let (first, length) = if number < 24 { (number.to_le_bytes()[0], 0) } else { (24 + class, 1 << class) };
        let room = &mut self.sheet.bytes[self.used..self.used + LONGEST];
        room[0] = kind | first;
        // All eight are written, and those count that are of its length.
        room[1..].copy_from_slice(&number.wrapping_shl(64 - 8 * length).to_be_bytes());
        self.used += 1 + length as usize;
        self
    }

    #[inline]
    fn byte(mut self, byte: u8) -> Self {
        self.room(1)[0] = byte;
        self
    }

    #[inline]
    pub(crate) fn number(self, number: u64) -> Self {
        self.head(kind::UNSIGNED, number)
    }

    /// Begins a row of so many.
    #[inline]
    pub(crate) fn row(self, length: usize) -> Self {
        self.head(kind::ARRAY, length as u64)
    }

    /// Begins the variant of this number, with so many fields.
    #[inline]
    pub(crate) fn variant(self, number: u64, fields: usize) -> Self {
        self.row(2).number(number).row(fields)
    }

    /// As [`super::counts`]; at most a page.
    #[inline]
    pub(crate) fn counts(self, mut counts: impl DoubleEndedIterator<Item = u16> + ExactSizeIterator + Clone) -> Self {
        let used = counts.clone().rposition(|count| count > 0).map_or(0, |last| last + 1);
        let mut page = self.head(kind::BYTES, 2 * used as u64);
        let (pairs, _) = page.room(2 * used).as_chunks_mut::<2>();
        for (pair, count) in pairs.iter_mut().zip(&mut counts) {
            *pair = count.to_le_bytes();
        }
        page
    }

    /// As [`super::hash`].
    pub(crate) fn hash(self, hash: u128) -> Self {
        let mut page = self.head(kind::BYTES, 16);
        page.room(16).copy_from_slice(&hash.to_be_bytes());
        page
    }

    /// What is seldom there, by its own encoder.
    pub(crate) fn other(mut self, record: &impl Encode<()>) -> Self {
        minicbor::encode(record, &mut self).expect("memory takes everything, and no type here refuses");
        self
    }
}

impl Write for Page<'_> {
    type Error = Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        for part in bytes.chunks(PAGE) {
            self.room(part.len()).copy_from_slice(part);
        }
        Ok(())
    }
}

/// What is written as its derived encoder would.
pub(crate) trait Record {
    fn put<'a>(&self, page: Page<'a>) -> Page<'a>;

    /// Whether it is left out at the end of a row.
    #[inline]
    fn is_none(&self) -> bool {
        false
    }
}

/// The fields of a record in the order of their numbers, and one that is not written. None can be missing: it would not compile.
macro_rules! record {
    ($record:ident { $($field:ident),+ } $(without $other:ident)?) => {
        impl $crate::record::Record for $record {
            #[inline]
            fn put<'a>(&self, page: $crate::record::Page<'a>) -> $crate::record::Page<'a> {
                use $crate::record::Record;
                let Self { $($field,)+ $($other: _)? } = self;
                let none = [$(Record::is_none($field)),+];
                let mut left = none.iter().rposition(|none| !none).map_or(0, |last| last + 1);
                let mut page = page.row(left);
                $(
                    if left > 0 {
                        page = Record::put($field, page);
                        left -= 1;
                    }
                )+
                debug_assert!(left == 0);
                page
            }
        }
    };
}
pub(crate) use record;

macro_rules! numbers {
    ($($number:ty)+) => {
        $(impl Record for $number {
            #[inline]
            fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
                page.number((*self).into())
            }
        })+
    };
}

numbers!(u16 u32 u64);

impl Record for i64 {
    #[inline]
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        // Of -1 - n, the digits of n.
        let (kind, number) = if *self < 0 { (kind::SIGNED, !*self) } else { (kind::UNSIGNED, *self) };
        page.head(kind, number.cast_unsigned())
    }
}

impl Record for i32 {
    #[inline]
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        i64::from(*self).put(page)
    }
}

impl Record for bool {
    #[inline]
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        page.byte(if *self { TRUE } else { FALSE })
    }
}

impl Record for Timestamp {
    #[inline]
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        page.number(self.as_micros())
    }
}

impl Record for Duration {
    #[inline]
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        page.row(2).number(self.as_secs()).number(self.subsec_nanos().into())
    }
}

impl<T: Record> Record for Option<T> {
    #[inline]
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        match self {
            Some(record) => record.put(page),
            None => page.byte(NULL),
        }
    }

    #[inline]
    fn is_none(&self) -> bool {
        self.is_none()
    }
}

impl<T: Record + ?Sized> Record for &T {
    #[inline]
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        (**self).put(page)
    }
}

impl<T: Record> Record for Box<T> {
    #[inline]
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        (**self).put(page)
    }
}

impl<T: Record> Record for [T] {
    #[inline]
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        self.iter().fold(page.row(self.len()), |page, record| record.put(page))
    }
}

impl<T: Record, const N: usize> Record for [T; N] {
    #[inline]
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        self.as_slice().put(page)
    }
}

impl<T: Record> Record for PerWindow<T> {
    #[inline]
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        self.generated.put(self.uncached_prompt.put(self.prompt.put(page.row(3))))
    }
}

#[cfg(test)]
mod tests;
