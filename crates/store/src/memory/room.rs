//! Room in the table: how many keys there are, whose, and which may go when it is full (contract C14).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tidegate_core::decision::Bound;

use crate::timers::Fingerprint;

/// Queued keys in use again that are looked at before a new key is refused. The timers queue them again.
const TRIES: usize = 64;
/// Queued keys that have gone that are passed over before a new key is refused.
const MOST_GONE: usize = 1_024;

/// What became of an attempt to take a queued key out of the table.
pub(super) enum Evicted {
    /// It went; whether its account is configured.
    Yes { configured: bool },
    /// It is in use again.
    Needed,
    /// It had gone before.
    Gone,
}

/// Places in the table. Keys of accounts that nobody configured take at most half, so strangers cannot lock customers out.
pub(super) struct Room {
    most: u64,
    keys: AtomicU64,
    unknown: AtomicU64,
    evicted: AtomicU64,
    idle_unknown: Idle,
    idle_configured: Idle,
}

/// Keys that may go, the longest idle first; among them some that have gone already.
#[derive(Default)]
struct Idle {
    queue: Mutex<VecDeque<Fingerprint>>,
    gone: AtomicU64,
}

/// A queue is cleared of keys that have gone when they are this many, and half of it.
const GONE_WORTH_CLEARING: u64 = 1_024;

/// How full the table is.
pub(super) struct Counts {
    pub(super) keys: u64,
    pub(super) unknown: u64,
    pub(super) evicted: u64,
}

impl Room {
    pub(super) fn new(most: u64) -> Self {
        Self {
            most,
            keys: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            idle_unknown: Idle::default(),
            idle_configured: Idle::default(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts { keys: count(&self.keys), unknown: count(&self.unknown), evicted: count(&self.evicted) }
    }

    /// Takes a place. Where there is none, `evict` is asked to take idle keys out, the longest idle first, until one goes.
    pub(super) fn take(&self, configured: bool, mut evict: impl FnMut(Fingerprint) -> Evicted) -> Result<(), Bound> {
        if !configured {
            while !take_below(&self.unknown, self.most / 2) {
                self.evict_one(&self.idle_unknown, &mut evict).ok_or(Bound::UnknownAccountKeys)?;
            }
        }
        while !take_below(&self.keys, self.most) {
            let evicted = self
                .evict_one(&self.idle_unknown, &mut evict)
                .or_else(|| self.evict_one(&self.idle_configured, &mut evict));
            if evicted.is_none() {
                if !configured {
                    self.unknown.fetch_sub(1, Ordering::Relaxed);
                }
                return Err(Bound::Keys);
            }
        }
        Ok(())
    }

    /// Takes a place where there may be none, for a key that must not be forgotten.
    pub(super) fn take_anyway(&self, configured: bool) {
        self.keys.fetch_add(1, Ordering::Relaxed);
        if !configured {
            self.unknown.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives a place back that was taken and not used.
    pub(super) fn give_back(&self, configured: bool) {
        self.keys.fetch_sub(1, Ordering::Relaxed);
        if !configured {
            self.unknown.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A key has left the table.
    pub(super) fn on_evicted(&self, configured: bool) {
        self.give_back(configured);
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    /// A key's account became configured, or ceased to be.
    pub(super) fn on_configured(&self, configured: bool) {
        if configured {
            self.unknown.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.unknown.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds a key that may go.
    pub(super) fn queue(&self, key: Fingerprint, configured: bool) {
        self.idle(configured).queue.lock().push_back(key);
    }

    /// A queued key has left the table by itself.
    pub(super) fn on_queued_gone(&self, configured: bool) {
        self.idle(configured).gone.fetch_add(1, Ordering::Relaxed);
    }

    /// Clears the queues of keys that have gone, now and then, so that they stay within twice the table. Called by the
    /// background thread; while it looks, a full table may refuse a new key that it would have made room for.
    pub(super) fn clear_gone(&self, is_queued: impl Fn(Fingerprint) -> bool) {
        for idle in [&self.idle_unknown, &self.idle_configured] {
            let gone = idle.gone.load(Ordering::Relaxed);
            if gone < GONE_WORTH_CLEARING || gone < idle.queue.lock().len() as u64 / 2 {
                continue;
            }
            // Not under the lock: `is_queued` locks a key, and a key that is locked queues itself.
            let mut keys = std::mem::take(&mut *idle.queue.lock());
            keys.retain(|key| is_queued(*key));
            let mut queue = idle.queue.lock();
            keys.append(&mut queue);
            *queue = keys;
            idle.gone.fetch_sub(gone, Ordering::Relaxed);
        }
    }

    /// Keys in the queues, those that have gone included.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.idle_unknown.queue.lock().len() + self.idle_configured.queue.lock().len()
    }

    const fn idle(&self, configured: bool) -> &Idle {
        if configured { &self.idle_configured } else { &self.idle_unknown }
    }

    fn evict_one(&self, idle: &Idle, evict: &mut impl FnMut(Fingerprint) -> Evicted) -> Option<()> {
        let (mut needed, mut gone) = (0, 0);
        while needed < TRIES && gone < MOST_GONE {
            // The queue is not locked while the key is.
            let key = idle.queue.lock().pop_front()?;
            match evict(key) {
                Evicted::Yes { configured } => {
                    self.on_evicted(configured);
                    return Some(());
                }
                Evicted::Needed => needed += 1,
                Evicted::Gone => gone += 1,
            }
        }
        None
    }
}

/// Adds one where that stays within `most`.
fn take_below(counter: &AtomicU64, most: u64) -> bool {
    let taken = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < most).then_some(count + 1));
    taken.is_ok()
}
