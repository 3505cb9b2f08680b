//! Writing one key down: its head whole, of its items what changed.
//!
//! Most keys have a few items, and they go into the head. A busy key has up to a hundred thousand: those are written in
//! pieces of which each batch adds one, with what changed; when these hold more than the key has, all are written anew. No
//! lock is held for longer than one piece takes.

use std::sync::atomic::Ordering;

use tidegate_core::state::Item;

use super::batch::{Batch, Table};
use super::layout::{KeyHead, encode_to, place_of_key, place_of_piece};
use crate::memory::MemoryStore;
use crate::memory::entry::Entry;
use crate::memory::slot::Slot;
use crate::timers::Fingerprint;

/// Most items that are in the head itself.
const MOST_IN_HEAD: usize = 12;
/// Most items of a piece: some 50 us under the lock.
const MOST_IN_PIECE: usize = 256;

/// A key of which not everything is in the batch that belongs to it.
pub(super) struct Unfinished {
    key: Fingerprint,
    left: Left,
}

/// Items that are to be written before what changed meanwhile, and before the head.
enum Left {
    /// All that the key has after this one.
    All { after: Option<Item> },
    /// These, of which some may be there more than once.
    These(Vec<Item>),
}

impl Left {
    /// Leaves each item once, where that is a matter of many: not under a lock.
    fn sort(&mut self) {
        if let Self::These(items) = self
            && !items.is_sorted()
        {
            items.sort_unstable();
            items.dedup();
        }
    }

    fn take(&mut self, entry: &Entry, most: usize) -> Vec<Item> {
        match self {
            Self::All { after } => {
                let items = entry.state.items_after(*after, most);
                *after = items.last().copied().or(*after);
                items
            }
            Self::These(items) => items.split_off(items.len().saturating_sub(most)),
        }
    }
}

impl MemoryStore {
    /// Adds what changed of a key to the batch of this number; all of it, where it was written before `oldest`. Nothing where
    /// it has left the table: it is among those that are gone.
    pub(crate) fn write_key(&self, key: Fingerprint, number: u32, oldest: u32, batch: &mut Batch) {
        let Some(mut slot) = self.keys.get_mut(&key) else { return };
        if let Slot::Asleep(asleep) = &mut *slot {
            // Nothing of it changed but its place.
            asleep.disk.forget_pieces(number);
            let record = asleep.record();
            batch.keys.put(&place_of_key(key), |out| out.extend_from_slice(&record));
            return;
        }
        let entry = slot.awake(self);
        entry.disk.changed = false;
        entry.disk.written = true;
        if entry.state.items() <= MOST_IN_HEAD {
            entry.state.note_nothing();
            entry.disk.forget_pieces(number);
            self.write_head(key, entry, batch, |entry, out| {
                entry.state.write_all_items(out);
            });
            return;
        }
        let worn = entry.disk.since > entry.disk.whole || entry.disk.oldest < oldest;
        match entry.state.take_noted().filter(|_| !worn && entry.disk.first < entry.disk.next) {
            Some(changed) => {
                entry.disk.since = entry.disk.since.saturating_add(count(changed.len()));
                if changed.len() > MOST_IN_PIECE {
                    batch.unfinished.push(Unfinished { key, left: Left::These(changed) });
                } else {
                    self.write_last(key, entry, changed, batch);
                }
            }
            None => {
                entry.state.note_items();
                entry.disk.forget_pieces(number);
                entry.disk.whole = count(entry.state.items());
                batch.unfinished.push(Unfinished { key, left: Left::All { after: None } });
            }
        }
    }

    /// Adds, of the keys of which [`MemoryStore::write_key`] could not add everything under one lock, a piece at a time, and
    /// then their heads, which are as of that instant. `rest` is called now and then, while no lock is held.
    pub(crate) fn write_unfinished(&self, batch: &mut Batch, mut rest: impl FnMut()) {
        for Unfinished { key, mut left } in std::mem::take(&mut batch.unfinished) {
            loop {
                rest();
                left.sort();
                let Some(mut entry) = self.known(key) else { break };
                let entry = &mut *entry;
                let items = left.take(entry, MOST_IN_PIECE);
                if !items.is_empty() {
                    write_piece(key, entry, batch, |entry, out| entry.state.write_items(&items, out));
                    continue;
                }
                // What changed meanwhile: less each time, as writing is faster than deciding.
                match entry.state.take_noted() {
                    Some(changed) if changed.len() > MOST_IN_PIECE => left = Left::These(changed),
                    Some(changed) => {
                        self.write_last(key, entry, changed, batch);
                        break;
                    }
                    None => {
                        entry.state.note_items();
                        left = Left::All { after: None };
                    }
                }
            }
        }
    }

    /// Adds the last items that changed, and the head.
    fn write_last(&self, key: Fingerprint, entry: &mut Entry, mut changed: Vec<Item>, batch: &mut Batch) {
        changed.sort_unstable();
        changed.dedup();
        if !changed.is_empty() {
            write_piece(key, entry, batch, |entry, out| entry.state.write_items(&changed, out));
        }
        self.write_head(key, entry, batch, |_, _| {});
    }

    fn write_head(
        &self,
        key: Fingerprint,
        entry: &mut Entry,
        batch: &mut Batch,
        items: impl FnOnce(&Entry, &mut Vec<u8>),
    ) {
        let head = batch.keys.put(&place_of_key(key), |out| {
            encode_to(&KeyHead::of(&entry.key, &entry.disk), out);
            entry.state.write_head(out);
            items(entry, out);
        });
        let bytes = entry.disk.pieces_bytes.saturating_add(count(head));
        let before = std::mem::replace(&mut entry.disk.bytes, bytes);
        self.disk_live.fetch_add(bytes.into(), Ordering::Relaxed);
        self.disk_live.fetch_sub(before.into(), Ordering::Relaxed);
    }

    /// Marks a key anew whose batch came to nothing: all of it is written again.
    pub(crate) fn write_again(&self, key: Fingerprint) {
        if let Some(mut entry) = self.known(key) {
            entry.state.note_nothing();
            entry.disk.changed = false;
            self.mark(key, &mut entry);
        }
    }

    /// Whether something of the key counts that was written in batches up to this one.
    pub(crate) fn counts_in(&self, key: Fingerprint, batch: u32) -> bool {
        self.keys.get(&key).is_some_and(|slot| slot.disk().written && slot.disk().oldest <= batch)
    }

    /// Adds the figures of models that changed.
    pub(crate) fn write_models(&self, batch: &mut Batch) {
        for mut known in self.models.iter_mut().filter(|known| known.changed) {
            known.changed = false;
            batch.put(Table::Models, &known.key().to_be_bytes(), |out| encode_to(&known.figures, out));
        }
    }

    /// Marks all models anew.
    pub(crate) fn write_models_again(&self) {
        self.models.iter_mut().for_each(|mut known| known.changed = true);
    }
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

fn write_piece(key: Fingerprint, entry: &mut Entry, batch: &mut Batch, items: impl FnOnce(&Entry, &mut Vec<u8>)) {
    let place = place_of_piece(key, entry.disk.next);
    entry.disk.next += 1;
    let bytes = batch.keys.put(&place, |out| items(entry, out));
    entry.disk.pieces_bytes = entry.disk.pieces_bytes.saturating_add(count(bytes));
}
