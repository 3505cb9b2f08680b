//! Keys on disk: not a row for each, but what a batch changed, in packs of some 128 KiB one after the other.
//!
//! A batch changes thousands of keys all over the table. As rows, each would cost a page of a tree, written twice; a pack costs
//! what is in it. Nothing is ever looked up on disk, as all of it is in memory: the newest record of a place counts, and the oldest
//! batches are removed once what still counts in them has been written again.

use super::batch::Table;

/// Most bytes of a pack, but for one record that is larger by itself. The engine gives room by powers of two, and takes some of
/// it itself.
const MOST_BYTES: usize = 130_000;

/// Packs of which room is kept: 8 MiB.
const MOST_SPARE: usize = 64;

/// The row of a pack: its batch, and its number in it.
pub(crate) fn row_of(batch: u32, pack: u32) -> [u8; 8] {
    let mut row = [0; 8];
    row[..4].copy_from_slice(&batch.to_be_bytes());
    row[4..].copy_from_slice(&pack.to_be_bytes());
    row
}

/// The batch and the number of a pack.
pub(crate) fn parse_row(row: &[u8]) -> Option<(u32, u32)> {
    let (batch, pack) = row.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*batch), u32::from_be_bytes(pack.try_into().ok()?)))
}

/// Packs that are being filled.
#[derive(Default)]
pub(crate) struct Packs {
    full: Vec<Vec<u8>>,
    last: Vec<u8>,
    records: usize,
    spare: Spare,
}

/// Room of packs that are on disk, for those to come: at most [`MOST_SPARE`]. Memory that is given back with each batch and
/// taken again costs a page fault for each 4 KiB, under the lock of a key, and a halt of every core to give it back.
#[derive(Default)]
pub(crate) struct Spare(Vec<Vec<u8>>);

impl Packs {
    /// Begins with this room.
    pub(crate) fn lend(&mut self, spare: &mut Spare) {
        self.spare = std::mem::take(spare);
    }

    /// Its room, empty.
    pub(crate) fn into_spare(self) -> Spare {
        let Self { full, last, spare: Spare(mut spare), .. } = self;
        let used =
            full.into_iter().chain([last]).filter(|pack| (MOST_BYTES..2 * MOST_BYTES).contains(&pack.capacity()));
        spare.extend(used.map(|mut pack| {
            pack.clear();
            pack
        }));
        spare.truncate(MOST_SPARE);
        Spare(spare)
    }

    /// Adds what `write` writes as the record at `place`; returns how long it is.
    pub(crate) fn put(&mut self, place: &[u8], write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let start = self.begin(place);
        write(&mut self.last);
        let length = self.last.len() - start;
        self.finish(start, u32::try_from(length).unwrap_or(u32::MAX));
        length
    }

    /// Adds that there is nothing at `place` any longer.
    pub(crate) fn remove(&mut self, place: &[u8]) {
        let start = self.begin(place);
        self.finish(start, NOTHING);
    }

    /// A record: one byte with the length of its place, the place, the length of what is there, and that.
    fn begin(&mut self, place: &[u8]) -> usize {
        self.records += 1;
        if self.last.capacity() == 0 {
            self.last = self.spare.0.pop().unwrap_or_else(|| Vec::with_capacity(MOST_BYTES));
        }
        self.last.push(u8::try_from(place.len()).unwrap_or(u8::MAX));
        self.last.extend_from_slice(place);
        self.last.extend_from_slice(&[0; 4]);
        self.last.len()
    }

    fn finish(&mut self, start: usize, length: u32) {
        self.last[start - 4..start].copy_from_slice(&length.to_be_bytes());
        if self.last.len() >= MOST_BYTES - ROOM {
            self.full.push(std::mem::take(&mut self.last));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes of all packs.
    pub(crate) fn bytes(&self) -> usize {
        self.last.len() + self.full.iter().map(Vec::len).sum::<usize>()
    }

    /// The packs in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.full.iter().chain([&self.last].into_iter().filter(|last| !last.is_empty())).map(Vec::as_slice)
    }

    pub(crate) const TABLE: Table = Table::Keys;
}

/// The length of a record that says that there is nothing.
const NOTHING: u32 = u32::MAX;
/// A pack is full when less than this is left: nearly all records fit.
const ROOM: usize = 4_000;

/// A record of a pack: its place, and what is there; `None` where nothing is any longer.
pub(crate) type Record<'a> = (&'a [u8], Option<&'a [u8]>);

/// The records of a pack in their order; `None` after the last one that can be read, if that is not the end.
pub(crate) fn records(mut pack: &[u8]) -> impl Iterator<Item = Option<Record<'_>>> {
    std::iter::from_fn(move || {
        if pack.is_empty() {
            return None;
        }
        let record = take_record(&mut pack);
        if record.is_none() {
            pack = &[];
        }
        Some(record)
    })
}

fn take_record<'a>(pack: &mut &'a [u8]) -> Option<Record<'a>> {
    let (length, rest) = pack.split_first()?;
    let (place, rest) = rest.split_at_checked((*length).into())?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length);
    let (value, rest) = if length == NOTHING {
        (None, rest)
    } else {
        let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        (Some(value), rest)
    };
    *pack = rest;
    Some((place, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_put_is_read_in_its_order(lengths in prop::collection::vec(prop::option::of(0_usize..9_000), 0..60)) {
            // In room in which others were before.
            let mut before = Packs::default();
            for _ in 0..40 {
                before.put(&[77; 16], |out| out.resize(out.len() + 8_000, 77));
            }
            let mut spare = before.into_spare();
            prop_assert!(!spare.0.is_empty());
            let mut packs = Packs::default();
            packs.lend(&mut spare);
            for (place, length) in (0_u8..).zip(&lengths) {
                match length {
                    Some(length) => drop(packs.put(&[place; 16], |out| out.resize(out.len() + length, place))),
                    None => packs.remove(&[place; 16]),
                }
            }
            let read: Vec<_> = packs.iter().flat_map(records).collect();
            prop_assert_eq!(read.len(), lengths.len());
            for ((place, length), record) in (0_u8..).zip(&lengths).zip(read) {
                let (at, value) = record.expect("whole");
                prop_assert_eq!(at, &[place; 16][..]);
                prop_assert_eq!(value.map(<[u8]>::len), *length);
                prop_assert!(value.is_none_or(|value| value.iter().all(|byte| *byte == place)));
            }
            prop_assert!(packs.iter().all(|pack| pack.len() <= MOST_BYTES + 9_000 - ROOM));
        }

        #[test]
        fn what_is_no_pack_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let read: Vec<_> = records(&bytes).collect();
            prop_assert!(read.iter().rev().skip(1).all(Option::is_some), "nothing is read after what cannot be");
        }
    }
}
