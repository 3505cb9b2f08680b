//! Rests of the thread that writes, so that nobody who decides waits for its core.
//!
//! A scheduler lets a thread go on for its slice, milliseconds, whoever wakes up meanwhile; one that sleeps every few dozen
//! microseconds is never in the way for longer than that. It is also marked as one that works through a batch: then it takes no
//! core from a thread that runs when it wakes up, and keeps its share of a busy machine. Rejected: a lower priority, with which
//! the thread is stopped while it holds the lock of a key, and for as long as others have work.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// How long a rest is asked to be. The system makes 0.13 ms of it.
const REST: Duration = Duration::from_micros(70);

/// Marks this thread as one that works through a batch (`SCHED_BATCH`, sched(7)), at about the priority of the others. Where the
/// system does not want that, it is scheduled like them.
pub(crate) fn stand_back() {
    // Of a hundred: a little below the middle, which would be above what a process may have.
    if let Ok(priority) = 45_u8.try_into() {
        let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
        let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(priority), policy);
    }
}

/// How many rests are left of a piece of work: what must be done in time is not kept off by its rests.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    left: AtomicU32,
}

impl Pace {
    /// From here on, so many rests.
    pub(crate) fn grant(&self, rests: u32) {
        self.left.store(rests, Ordering::Relaxed);
    }

    /// Rests, if a rest is left.
    pub(crate) fn rest(&self) {
        if self.left.load(Ordering::Relaxed) > 0 {
            self.left.fetch_sub(1, Ordering::Relaxed);
            std::thread::sleep(REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_rests_are_taken_than_were_granted() {
        let pace = Pace::default();
        pace.rest();
        assert_eq!(pace.left.load(Ordering::Relaxed), 0, "none was granted");
        pace.grant(2);
        for left in [1, 0, 0] {
            pace.rest();
            assert_eq!(pace.left.load(Ordering::Relaxed), left);
        }
    }
}
