//! A key's place in the table: awake, or asleep as it is written down.
//!
//! As it is written down, a key takes an eighth of the memory with which it decides. A start reads a million keys, of which the
//! first second needs a few thousand; and of all keys few are called within a minute. So a key comes into the table like
//! that, wakes up when it is called or due, and falls asleep when it is due and idle.
//!
//! Rejected: all of them awake at once, of which half the time of a start was the system clearing gigabytes of memory.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::mapref::one::MappedRefMut;
use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_core::state::KeyState;
use tidegate_core::time::Timestamp;
use tidegate_core::window::PerWindow;

use super::MemoryStore;
use super::denials::Denials;
use super::entry::{Entry, Tally};
use super::marks::OnDisk;
use super::packed::Packed;
use crate::durable::layout::{KeyHead, KeyRecord, encoded};
use crate::timers::Fingerprint;

/// A key's place in the table.
pub(crate) enum Slot {
    Awake(Box<Entry>),
    Asleep(Box<Asleep>),
}

/// A key that is neither called nor due.
pub(crate) struct Asleep {
    /// All of it. It was read when the directory was opened, or written by this process, so it can be read again.
    packed: Packed,
    pub(crate) disk: OnDisk,
    /// When the timers look at it.
    due_at: Timestamp,
    /// Whether its account was configured when it was counted.
    configured: bool,
    /// Whether it stands in the queue of keys that may go.
    queued: bool,
    /// Whether a floor above a ceiling would be counted anew.
    floors_fit: bool,
}

/// Of what is kept of a key that sleeps.
const READABLE: &str = "it was read when the directory was opened, or written by this process";

/// A key that is awake, locked.
pub(crate) type KnownKey<'a> = MappedRefMut<'a, Fingerprint, Slot, Entry>;

impl Asleep {
    /// What [`KeyRecord`] reads of it.
    pub(crate) fn record(&self) -> Vec<u8> {
        self.packed.unpacked().expect(READABLE)
    }
}

impl Slot {
    /// Wakes the key up, if it is asleep.
    pub(crate) fn awake(&mut self, store: &MemoryStore) -> &mut Entry {
        if let Self::Asleep(asleep) = self {
            *self = Self::Awake(Box::new(store.woken(asleep)));
        }
        match self {
            Self::Awake(entry) => entry,
            Self::Asleep(_) => unreachable!("it was woken"),
        }
    }

    /// Puts a key to sleep that was just found idle. Who knows of the disk sleeps once the disk knows all of it.
    pub(super) fn lull(&mut self, now: Timestamp) {
        let Self::Awake(entry) = self else { return };
        /// One that has more stays awake: to write them down takes too long under a lock.
        const MOST_ITEMS: usize = 64;
        let written = !entry.disk.changed && entry.disk.first == entry.disk.next;
        if !entry.rests || !written || entry.state.items() > MOST_ITEMS || entry.denials.minute(now) > 0 {
            return;
        }
        let mut record = encoded(&KeyHead::of(&entry.key, &entry.disk));
        let names = record.len();
        entry.state.write_head(&mut record);
        entry.state.write_all_items(&mut record);
        *self = Self::Asleep(Box::new(Asleep {
            packed: Packed::of(&record, names),
            disk: entry.disk,
            due_at: entry.due_at,
            configured: entry.resolved.configured,
            queued: entry.queued,
            floors_fit: entry.resolved.floor_won == PerWindow::default(),
        }));
    }

    /// As [`Slot::awake`], of a key that has left the table.
    pub(super) fn into_awake(mut self, store: &MemoryStore) -> Box<Entry> {
        self.awake(store);
        match self {
            Self::Awake(entry) => entry,
            Self::Asleep(_) => unreachable!("it was woken"),
        }
    }

    /// Whose it is.
    pub(super) fn key(&self) -> KeyRef<'_> {
        match self {
            Self::Awake(entry) => entry.key.as_ref(),
            Self::Asleep(asleep) => asleep.packed.key().expect(READABLE),
        }
    }

    /// What of it is on disk.
    pub(crate) fn disk(&self) -> &OnDisk {
        match self {
            Self::Awake(entry) => &entry.disk,
            Self::Asleep(asleep) => &asleep.disk,
        }
    }

    /// Whether the timers have something to do at it.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        now >= match self {
            Self::Awake(entry) => entry.due_at,
            Self::Asleep(asleep) => asleep.due_at,
        }
    }

    /// Whether it stands in the queue of keys that may go.
    pub(super) fn is_queued(&self) -> bool {
        match self {
            Self::Awake(entry) => entry.queued,
            Self::Asleep(asleep) => asleep.queued,
        }
    }
}

impl MemoryStore {
    /// The key of this fingerprint, if the store holds it; wakes it up.
    pub(crate) fn known(&self, fingerprint: Fingerprint) -> Option<KnownKey<'_>> {
        Some(self.keys.get_mut(&fingerprint)?.map(|slot| slot.awake(self)))
    }

    /// Puts a key into the table that an earlier process had, whether it has room or not; asleep where `record` is all of it.
    pub(crate) fn restore(
        &self,
        now: Timestamp,
        fingerprint: Fingerprint,
        key: LimitKey,
        state: KeyState,
        disk: OnDisk,
        record: Option<&[u8]>,
    ) {
        /// All keys are looked at within ten minutes, as idle ones are, and not all in one second of them: that wakes them up.
        const PARTS: u128 = 600;
        let second = Duration::from_secs(u64::try_from(fingerprint % PARTS).unwrap_or(0));
        let due_at = state.next_timer().unwrap_or(Timestamp::MAX).min(now.after(second));
        self.count_restored(&state);
        self.disk_live.fetch_add(disk.bytes.into(), Ordering::Relaxed);
        self.timers.insert(due_at, fingerprint);
        let slot = match record {
            Some(record) => {
                let configured = self.policy.load().accounts().contains_key(key.as_ref().account());
                self.room.take_anyway(configured);
                let names = KeyRecord::names(record).expect(READABLE);
                let packed = Packed::of(record, names);
                Slot::Asleep(Box::new(Asleep { packed, disk, due_at, configured, queued: false, floors_fit: false }))
            }
            None => {
                let entry = self.restored(now, key, state, disk, due_at);
                self.room.take_anyway(entry.resolved.configured);
                Slot::Awake(Box::new(entry))
            }
        };
        self.keys.insert(fingerprint, slot);
    }

    fn count_restored(&self, state: &KeyState) {
        let Tally { reservations, remembered, held } = Tally::of(state);
        self.reservations.fetch_add(reservations as u64, Ordering::Relaxed);
        self.remembered.fetch_add(i64::try_from(remembered).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.held.fetch_add(i64::try_from(held).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// A key as it was written down, counted before, under the policy of that time: whoever calls takes over that of now.
    fn woken(&self, asleep: &Asleep) -> Entry {
        let record = asleep.record();
        let record = KeyRecord::read(&record).expect(READABLE);
        let state = record.restore().expect(READABLE);
        let then = state.now();
        let state = state.finish(record.key, &self.fallback(self.of_model(record.key)));
        let mut entry = self.restored(then, record.key.to_owned(), state, asleep.disk, asleep.due_at);
        entry.queued = asleep.queued;
        if asleep.floors_fit {
            self.count_floor_above_ceiling(&entry.resolved);
        }
        if entry.resolved.configured != asleep.configured {
            self.room.on_configured(entry.resolved.configured);
        }
        entry
    }

    fn restored(&self, now: Timestamp, key: LimitKey, state: KeyState, disk: OnDisk, due_at: Timestamp) -> Entry {
        let policy = self.policy.load();
        Entry {
            model: self.of_model(key.as_ref()),
            resolved: policy.resolve(key.as_ref(), now),
            revision: policy.revision(),
            key,
            state,
            denials: Denials::default(),
            due_at,
            queued: false,
            rests: false,
            disk,
        }
    }
}
