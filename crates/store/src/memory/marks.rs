//! Marks: which keys changed since the disk was told. A store without a disk keeps none.

use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tidegate_core::decision::Answer;

use super::MemoryStore;
use super::entry::Entry;
use crate::timers::Fingerprint;

/// What of a key is on disk: a head, and the pieces `first..next` with its items, where they do not fit the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OnDisk {
    /// Whether it changed since it was last written.
    pub(crate) changed: bool,
    /// Whether it was ever written.
    pub(crate) written: bool,
    pub(crate) first: u32,
    pub(crate) next: u32,
    /// Items in the pieces when all were written, and items written since.
    pub(crate) whole: u32,
    pub(crate) since: u32,
    /// The batch that has the oldest of them.
    pub(crate) oldest: u32,
    /// Bytes of all, and of the pieces.
    pub(crate) bytes: u32,
    pub(crate) pieces_bytes: u32,
}

impl OnDisk {
    /// From the batch of this number on, nothing that was written before counts.
    pub(crate) const fn forget_pieces(&mut self, batch: u32) {
        self.oldest = batch;
        self.first = self.next;
        (self.whole, self.since, self.pieces_bytes) = (0, 0, 0);
    }
}

/// Most keys that left the table and are noted while the disk takes nothing. One beyond comes back with the next start, idle as it
/// was, and leaves again.
const MOST_GONE: usize = 1 << 20;

/// Keys that changed, each once, and keys that are on disk and left the table.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    changed: Mutex<Vec<Fingerprint>>,
    gone: Mutex<Vec<Fingerprint>>,
}

impl Marks {
    /// Takes the keys that changed.
    pub(crate) fn take_changed(&self) -> Vec<Fingerprint> {
        // As many are to come, and no decision is to wait while the list grows.
        let room = self.changed.lock().len();
        let next = Vec::with_capacity(room + room / 8);
        std::mem::replace(&mut *self.changed.lock(), next)
    }

    /// Takes the keys that are on disk and left the table.
    pub(crate) fn take_gone(&self) -> Vec<Fingerprint> {
        std::mem::take(&mut *self.gone.lock())
    }

    /// Puts back what was taken and could not be done.
    pub(crate) fn put_back_gone(&self, gone: Vec<Fingerprint>) {
        self.gone.lock().extend(gone);
    }
}

impl MemoryStore {
    /// The disk is to be told of this key.
    pub(crate) fn mark(&self, key: Fingerprint, entry: &mut Entry) {
        if let Some(marks) = self.marks.as_ref().filter(|_| !entry.disk.changed) {
            entry.disk.changed = true;
            marks.changed.lock().push(key);
        }
    }

    /// As [`MemoryStore::mark`], where the answer says that something changed: a reservation, or the law's denial mark.
    pub(super) fn mark_decided(&self, key: Fingerprint, entry: &mut Entry, answer: &Answer) {
        if answer.outcome.as_ref().map_or_else(|denied| denied.denial.is_by_limit(), |allowed| !allowed.replayed) {
            self.mark(key, entry);
        }
    }

    /// The disk is to forget this key.
    pub(super) fn mark_gone(&self, key: Fingerprint, entry: &Entry) {
        if let Some(marks) = self.marks.as_ref().filter(|_| entry.disk.written) {
            let mut gone = marks.gone.lock();
            if gone.len() < MOST_GONE {
                gone.push(key);
            }
            self.disk_live.fetch_sub(entry.disk.bytes.into(), Ordering::Relaxed);
        }
    }
}
