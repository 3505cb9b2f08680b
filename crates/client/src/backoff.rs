//! How long to wait before the next attempt to connect, and before a call is repeated.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Before the first attempt after a break: a process that is replaced in place is back by then, or soon.
const FIRST: Duration = Duration::from_millis(20);
/// Between attempts while nobody answers: what a client adds, at most, to the time that tidegate was away.
const MOST: Duration = Duration::from_secs(1);

/// Waits of 20 ms, 40 ms and so on up to 1 s, each shortened by up to half at random, so that the clients of a server that comes back
/// do not all come at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self { next: FIRST }
    }

    /// The next wait.
    pub(crate) fn wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(MOST);
        whole / 2 + part(whole / 2, random())
    }

    /// A server has answered: the next wait is the first again.
    pub(crate) const fn reset(&mut self) {
        self.next = FIRST;
    }
}

/// What to wait before a call is repeated, where the server said `told`: never less, and up to a quarter more.
pub(crate) fn at_least(told: Duration) -> Duration {
    told.saturating_add(part(told / 4, random()))
}

/// A part of `whole`, from none to all of it, as `random` says.
fn part(whole: Duration, random: u32) -> Duration {
    whole.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Good enough to spread clients: the standard library's hashers start from the system's randomness.
fn random() -> u32 {
    let hash = RandomState::new().build_hasher().finish();
    u32::try_from(hash >> 32).expect("32 bits of 64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_second_and_start_again() {
        let mut backoff = Backoff::new();
        for whole_ms in [20, 40, 80, 160, 320, 640, 1_000, 1_000] {
            let (wait, whole) = (backoff.wait(), Duration::from_millis(whole_ms));
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= FIRST);
    }

    #[test]
    fn a_repeat_is_never_earlier_than_told() {
        let told = Duration::from_secs(4);
        assert_eq!((part(told, 0), part(told, u32::MAX)), (Duration::ZERO, told));
        let wait = at_least(told);
        assert!(wait >= told && wait <= told * 5 / 4);
    }
}
