//! Real time as a client sees it: how long its own calls take, and when the next one is due.
//!
//! The server's time is never taken from here. This is the binary's only look at a clock besides `serve`'s own.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Counts from its start on, monotonically.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts counting.
    #[expect(clippy::disallowed_methods, reason = "a client's own latency; no decision depends on it")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Nanoseconds since the start.
    pub(crate) fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Microseconds since the start.
    pub(crate) fn elapsed_us(&self) -> u64 {
        u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// This machine's wall clock, for `--expires-in`: the server compares the sum with its own.
#[expect(clippy::disallowed_methods, reason = "an operator's \"from now on\"")]
pub(crate) fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
