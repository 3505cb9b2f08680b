//! What happens at a key when nobody calls, and which keys leave the table.

use tidegate_core::decision::Bound;
use tidegate_core::state::Retention;
use tidegate_core::time::Timestamp;

use super::MemoryStore;
use super::entry::{Entry, Tally};
use super::room::Evicted;
use super::slot::Slot;
use crate::timers::Fingerprint;

impl MemoryStore {
    /// What is due at a key that is due; whether the key is to leave the table.
    pub(super) fn on_due(&self, now: Timestamp, fingerprint: Fingerprint, entry: &mut Entry) -> bool {
        self.refresh(now, entry);
        entry.due_at = Timestamp::MAX;
        let (retention, idle_after) = self.call(now, fingerprint, entry, |state, rules| {
            state.advance(now, rules);
            (state.retention(rules), state.idle_after(rules))
        });
        if retention == Retention::Default {
            return true;
        }
        if retention == Retention::Idle && !entry.queued {
            entry.queued = true;
            self.room.queue(fingerprint, entry.resolved.configured);
        }
        entry.rests = entry.state.rests();
        // What could not be done at once is done in the next round.
        let at = entry.state.next_timer().unwrap_or(Timestamp::MAX).min(idle_after).max(now);
        if at < entry.due_at {
            entry.due_at = at;
            self.timers.insert(at, fingerprint);
        }
        false
    }

    /// Takes a place in the table for a key, evicting one that may go where the table is full.
    pub(super) fn make_room(&self, now: Timestamp, configured: bool) -> Result<(), Bound> {
        self.room.take(configured, |fingerprint| {
            let mut outcome = Evicted::Gone;
            let evicted = self.keys.remove_if_mut(&fingerprint, |_, slot| {
                let entry = slot.awake(self);
                entry.queued = false;
                self.refresh(now, entry);
                let retention = self.call(now, fingerprint, entry, |state, rules| {
                    state.advance(now, rules);
                    state.retention(rules)
                });
                outcome = Evicted::Needed;
                retention != Retention::Needed
            });
            match evicted {
                Some((_, slot)) => Evicted::Yes { configured: self.on_evicted(fingerprint, slot) },
                None => outcome,
            }
        })
    }

    /// Counts what leaves with a key, and says whether its account is configured.
    pub(super) fn on_evicted(&self, key: Fingerprint, slot: Slot) -> bool {
        let mut entry = slot.into_awake(self);
        self.mark_gone(key, &entry);
        let before = Tally::of(&entry.state);
        while entry.state.forget_one() {}
        self.count(before, &mut entry.state);
        entry.resolved.configured
    }
}
