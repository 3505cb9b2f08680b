//! Writing one key down: its head whole, of its items what changed.
//!
//! Most keys have a few items, and they go into the head. A busy key has up to a hundred thousand: those are written in
//! pieces of which each batch adds one, with what changed; when these hold more than the key has, all are written anew. No
//! lock is held for longer than one piece takes.

use std::sync::atomic::Ordering;

use super::batch::{Batch, Table};
use super::layout::{KeyHead, encode_to, place_of_key, place_of_piece};
use crate::memory::MemoryStore;
use crate::memory::entry::Entry;
use crate::timers::Fingerprint;

/// Most items that are in the head itself.
const MOST_IN_HEAD: usize = 48;
/// Most items of a piece: some 50 us under the lock.
const MOST_IN_PIECE: usize = 256;

impl MemoryStore {
    /// Adds what changed of a key to the batch of this number; all of it, where it was written before `oldest`. Nothing where
    /// it has left the table: it is among those that are gone.
    pub(crate) fn write_key(&self, key: Fingerprint, number: u32, oldest: u32, batch: &mut Batch) {
        let Some(mut entry) = self.keys.get_mut(&key) else { return };
        let entry = &mut *entry;
        entry.disk.changed = false;
        entry.disk.written = true;
        if entry.state.items() <= MOST_IN_HEAD {
            entry.state.note_nothing();
            entry.disk.forget_pieces(number);
            self.write_head(key, entry, batch, |entry, out| {
                entry.state.write_items(&entry.state.items_after(None, MOST_IN_HEAD), out);
            });
            return;
        }
        let worn = entry.disk.since > entry.disk.whole || entry.disk.oldest < oldest;
        match entry.state.take_noted().filter(|_| !worn && entry.disk.first < entry.disk.next) {
            Some(changed) => {
                entry.disk.since = entry.disk.since.saturating_add(count(changed.len()));
                for changed in changed.chunks(MOST_IN_PIECE) {
                    write_piece(key, entry, batch, |entry, out| entry.state.write_items(changed, out));
                }
                self.write_head(key, entry, batch, |_, _| {});
            }
            None => {
                entry.state.note_items();
                entry.disk.forget_pieces(number);
                entry.disk.whole = count(entry.state.items());
                // Continued without the lock of this look at the key.
                batch.unfinished.push(key);
            }
        }
    }

    /// Adds all items of the keys of which [`MemoryStore::write_key`] could not add them under one lock, and then their heads,
    /// which are as of that instant.
    pub(crate) fn write_unfinished(&self, batch: &mut Batch) {
        for key in std::mem::take(&mut batch.unfinished) {
            let mut after = None;
            while let Some(mut entry) = self.keys.get_mut(&key) {
                let entry = &mut *entry;
                let items = entry.state.items_after(after, MOST_IN_PIECE);
                if let Some(last) = items.last() {
                    after = Some(*last);
                    write_piece(key, entry, batch, |entry, out| entry.state.write_items(&items, out));
                    continue;
                }
                // What changed meanwhile: as much as can in milliseconds, else once more.
                let Some(changed) = entry.state.take_noted() else {
                    entry.state.note_items();
                    after = None;
                    continue;
                };
                write_piece(key, entry, batch, |entry, out| entry.state.write_items(&changed, out));
                self.write_head(key, entry, batch, |_, _| {});
                break;
            }
        }
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
        if let Some(mut entry) = self.keys.get_mut(&key) {
            entry.state.note_nothing();
            entry.disk.changed = false;
            self.mark(key, &mut entry);
        }
    }

    /// Whether something of the key counts that was written in batches up to this one.
    pub(crate) fn counts_in(&self, key: Fingerprint, batch: u32) -> bool {
        self.keys.get(&key).is_some_and(|entry| entry.disk.written && entry.disk.oldest <= batch)
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
