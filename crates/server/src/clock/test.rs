//! A clock that stands still until a request advances it, so that an hour of traffic replays in a minute with true windows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tidegate_core::time::Timestamp;

/// The background work runs at least this often in test time, as it does by timer in real time.
const TICK: Duration = Duration::from_millis(250);
/// No advance runs the background work more often than this: a jump of an hour ticks every 3.6 s of it.
const MAX_TICKS: u32 = 1_000;

#[derive(Debug)]
pub(super) struct TestTime {
    now_micros: AtomicU64,
    /// Held while time advances, so that ticks come in order. Readers do not wait for it.
    advancing: Mutex<()>,
}

impl TestTime {
    pub(super) const fn new(start: Timestamp) -> Self {
        Self { now_micros: AtomicU64::new(start.as_micros()), advancing: Mutex::new(()) }
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.now_micros.load(Ordering::Acquire))
    }

    pub(super) fn advance_to(&self, to: Timestamp, mut on_tick: impl FnMut(Timestamp)) {
        if to <= self.now() {
            return;
        }
        // A panicking tick leaves the time consistent: it is one number.
        let _turn = self.advancing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = self.now();
        let step = TICK.max(to.since(at) / MAX_TICKS);
        while at < to {
            at = at.after(step).min(to);
            self.now_micros.store(at.as_micros(), Ordering::Release);
            on_tick(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advances_in_ticks_and_never_back() {
        let time = TestTime::new(Timestamp::from_seconds(100));
        let mut ticks = Vec::new();
        time.advance_to(Timestamp::from_millis(100_600), |at| ticks.push(at.as_micros() / 1_000));
        assert_eq!(ticks, [100_250, 100_500, 100_600]);
        time.advance_to(Timestamp::from_seconds(50), |_| panic!("time went back"));
        assert_eq!(time.now(), Timestamp::from_millis(100_600));

        let mut ticks = 0;
        time.advance_to(Timestamp::from_seconds(100_000), |_| ticks += 1);
        assert!((1_000..=1_001).contains(&ticks), "{ticks}");
    }
}
