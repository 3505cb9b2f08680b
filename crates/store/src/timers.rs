//! Which key has something to do when no call comes: a wheel of seconds, so that nobody ever sweeps the table.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tidegate_core::time::Timestamp;

/// A key in the table.
pub(crate) type Fingerprint = u128;

/// Keys by the second in which they are due. A key may stand in it more than once; whoever takes it out checks whether it is
/// really due.
#[derive(Default)]
pub(crate) struct Timers {
    seconds: Mutex<BTreeMap<u64, Vec<Fingerprint>>>,
}

impl Timers {
    /// Adds `key`, due in the second after `at`.
    pub(crate) fn insert(&self, at: Timestamp, key: Fingerprint) {
        self.seconds.lock().entry(at.as_seconds().saturating_add(1)).or_default().push(key);
    }

    /// Takes out at most `most` keys that are due at `now`.
    pub(crate) fn take_due(&self, now: Timestamp, most: usize) -> Vec<Fingerprint> {
        let mut seconds = self.seconds.lock();
        let Some(mut first) = seconds.first_entry().filter(|first| *first.key() <= now.as_seconds()) else {
            return Vec::new();
        };
        let keys = first.get_mut();
        let taken = keys.split_off(keys.len().saturating_sub(most));
        if keys.is_empty() {
            first.remove();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_out_once_when_its_second_has_passed() {
        let timers = Timers::default();
        for key in 0..5 {
            timers.insert(Timestamp::from_seconds(10), key);
        }
        timers.insert(Timestamp::from_seconds(20), 9);
        assert!(timers.take_due(Timestamp::from_seconds(10), 3).is_empty());
        assert_eq!(timers.take_due(Timestamp::from_seconds(12), 3), [2, 3, 4]);
        assert_eq!(timers.take_due(Timestamp::from_seconds(12), 3), [0, 1]);
        assert!(timers.take_due(Timestamp::from_seconds(12), 3).is_empty());
        assert_eq!(timers.take_due(Timestamp::from_seconds(99), 3), [9]);
    }
}
