//! The one place that reads clocks (contract C15).
//!
//! Time is the wall clock read once at start plus elapsed boot time, so a step of the wall clock while serving is not
//! seen: no window empties, no limit freezes. Boot time (`CLOCK_BOOTTIME`), not monotonic time: a suspended machine's
//! windows age while it sleeps. Rejected: `Instant`, which is monotonic time on Linux, and a cached clock updated by a
//! timer, which would charge tokens to the wrong instant for as long as its thread is not scheduled.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tidegate_core::time::Timestamp;

#[cfg(feature = "test-clock")]
mod test;

/// The time of a serving process. Cheap to clone; all clones agree.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Boot {
        wall_at_start: Timestamp,
        boot_at_start: Duration,
    },
    #[cfg(feature = "test-clock")]
    Test(std::sync::Arc<test::TestTime>),
}

/// One reading: when something happened, and from when to measure how long it takes.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The instant, for decisions.
    pub now: Timestamp,
    boot: Duration,
}

impl Clock {
    /// The real clock, started now. A wall clock before 1970 counts as 1970.
    #[must_use]
    pub fn start() -> Self {
        Self::start_not_before(Timestamp::ZERO)
    }

    /// As [`Clock::start`], where `newest` was seen before: if the wall clock is behind it, time goes on from there, so that
    /// nothing expires early (C15).
    #[must_use]
    pub fn start_not_before(newest: Timestamp) -> Self {
        Self(Source::Boot { wall_at_start: wall_time().max(newest), boot_at_start: boot_time() })
    }

    /// Now. Never earlier than an earlier answer of the same clock. Costs one `clock_gettime` (vDSO, no system call).
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.read().now
    }

    /// Now, and the point from which [`Clock::seconds_since`] measures.
    #[must_use]
    pub fn read(&self) -> Reading {
        let boot = boot_time();
        let now = match &self.0 {
            Source::Boot { wall_at_start, boot_at_start } => wall_at_start.after(boot.saturating_sub(*boot_at_start)),
            #[cfg(feature = "test-clock")]
            Source::Test(time) => time.now(),
        };
        Reading { now, boot }
    }

    /// Real seconds since `reading`, on a test clock too: it measures the process, not the traffic.
    #[must_use]
    pub fn seconds_since(&self, reading: &Reading) -> f64 {
        boot_time().saturating_sub(reading.boot).as_secs_f64()
    }

    /// Whether time passes by itself; otherwise requests advance it, and the background work with it.
    #[must_use]
    pub const fn ticks(&self) -> bool {
        match self.0 {
            Source::Boot { .. } => true,
            #[cfg(feature = "test-clock")]
            Source::Test(_) => false,
        }
    }
}

#[cfg(feature = "test-clock")]
impl Clock {
    /// A clock that stands still at `start` until it is advanced.
    #[must_use]
    pub fn test(start: Timestamp) -> Self {
        Self(Source::Test(std::sync::Arc::new(test::TestTime::new(start))))
    }

    /// Advances a test clock to `to` in small steps, calling `on_tick` after each, the last one at `to`. Does nothing where
    /// it is already there or past it, and on the real clock. Concurrent calls take turns.
    pub fn advance_to(&self, to: Timestamp, on_tick: impl FnMut(Timestamp)) {
        match &self.0 {
            Source::Boot { .. } => {}
            Source::Test(time) => time.advance_to(to, on_tick),
        }
    }
}

/// The wall clock; 1970 where it is before that.
pub(crate) fn wall_time() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the one reading of the wall clock")]
    let wall = std::time::SystemTime::now();
    Timestamp::ZERO.after(wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default())
}

/// Time since the machine booted, suspension included.
fn boot_time() -> Duration {
    // A boot time is never negative: the conversion cannot fail.
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_at_the_wall_clock_and_never_goes_back() {
        let clock = Clock::start();
        let wall = Duration::try_from(clock_gettime(ClockId::Realtime)).expect("after 1970");
        let mut last = clock.now();
        assert!(wall.abs_diff(Duration::from_micros(last.as_micros())) < Duration::from_secs(5));
        for _ in 0..10_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn goes_on_from_the_newest_stored_time_where_the_wall_clock_is_behind() {
        let ahead = Clock::start().now().after(Duration::from_secs(3_600));
        let clock = Clock::start_not_before(ahead);
        assert!((ahead..ahead.after(Duration::from_secs(5))).contains(&clock.now()));
        let behind = Clock::start_not_before(Timestamp::from_seconds(1));
        assert!(behind.now() < ahead);
    }
}
