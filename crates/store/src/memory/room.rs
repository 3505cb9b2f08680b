//! Room in the table: how many keys there are, whose, and which may go when it is full (contract C14).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tidegate_core::decision::Bound;

use crate::timers::Fingerprint;

/// Keys looked at before a new one is refused. A queued key that was used since does not go; the timers queue it again.
const TRIES: usize = 16;

/// Places in the table. Keys of accounts that nobody configured take at most half, so strangers cannot lock customers out.
pub(super) struct Room {
    most: u64,
    keys: AtomicU64,
    unknown: AtomicU64,
    evicted: AtomicU64,
    /// Keys that may go, the longest idle first.
    idle_unknown: Mutex<VecDeque<Fingerprint>>,
    idle_configured: Mutex<VecDeque<Fingerprint>>,
}

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
            idle_unknown: Mutex::default(),
            idle_configured: Mutex::default(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts { keys: count(&self.keys), unknown: count(&self.unknown), evicted: count(&self.evicted) }
    }

    /// Takes a place. Where there is none, `evict` is asked to take idle keys out, the longest idle first, until one goes; it
    /// answers whether the account of the key that went is configured.
    pub(super) fn take(
        &self,
        configured: bool,
        mut evict: impl FnMut(Fingerprint) -> Option<bool>,
    ) -> Result<(), Bound> {
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
        let queue = if configured { &self.idle_configured } else { &self.idle_unknown };
        queue.lock().push_back(key);
    }

    fn evict_one(
        &self,
        queue: &Mutex<VecDeque<Fingerprint>>,
        evict: &mut impl FnMut(Fingerprint) -> Option<bool>,
    ) -> Option<()> {
        for _ in 0..TRIES {
            // The queue is not locked while the key is.
            let key = queue.lock().pop_front()?;
            if let Some(configured) = evict(key) {
                self.on_evicted(configured);
                return Some(());
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
