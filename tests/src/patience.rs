//! Waiting for what a real process does: in real time, with an end.

use std::thread;
use std::time::{Duration, Instant};

/// Longest that a start, an end or a change may take. Generous: a loaded machine is not a broken server.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

#[expect(clippy::disallowed_methods, reason = "a real process is waited for in real time")]
fn now() -> Instant {
    Instant::now()
}

/// Looks every few milliseconds until `look` gives `Ok`: its value, and how long that took. Blocks its thread.
///
/// # Panics
/// After [`PATIENCE`], with the `Err` of the last look: `what` did not come to be, and why not.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> (T, Duration) {
    let began = now();
    loop {
        let reason = match look() {
            Ok(value) => return (value, now() - began),
            Err(reason) => reason,
        };
        assert!(now() - began < PATIENCE, "not within {PATIENCE:?}: {what}: {reason}");
        thread::sleep(PAUSE);
    }
}
