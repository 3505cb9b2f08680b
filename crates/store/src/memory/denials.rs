//! How many requests of a key were denied in the trailing minute, for people who watch it.

use tidegate_core::time::Timestamp;

const SECONDS: u64 = 60;
/// The same, as a length.
#[expect(clippy::cast_possible_truncation, reason = "60")]
const SLOTS: usize = SECONDS as usize;

/// Most memory of one key's counts, in bytes.
pub(super) const MOST_BYTES: usize = size_of::<Seconds>();

/// Requests denied by a limit or by pressure, in shadow too, second by second. Takes memory from the first one on.
#[derive(Clone, Debug, Default)]
pub(super) struct Denials(Option<Box<Seconds>>);

#[derive(Clone, Debug)]
struct Seconds {
    /// The latest second in which something was denied.
    newest: u64,
    /// Of second `s` at `s % SECONDS`; those of the minute up to `newest`.
    requests: [u32; SLOTS],
}

impl Denials {
    /// Counts one at `now`; what comes out of order counts in the latest second.
    pub(super) fn add(&mut self, now: Timestamp) {
        let now = now.as_seconds();
        let seconds = self.0.get_or_insert_with(|| Box::new(Seconds { newest: now, requests: [0; SLOTS] }));
        let skipped = now.saturating_sub(seconds.newest).min(SECONDS);
        for passed in now.saturating_sub(skipped) + 1..=now {
            seconds.requests[slot(passed)] = 0;
        }
        seconds.newest = seconds.newest.max(now);
        let count = &mut seconds.requests[slot(seconds.newest)];
        *count = count.saturating_add(1);
    }

    /// Those of the 60 seconds of the clock that end with that of `now`.
    pub(super) fn minute(&self, now: Timestamp) -> u64 {
        let Some(seconds) = &self.0 else { return 0 };
        let last = now.as_seconds().max(seconds.newest);
        let first = (last + 1).saturating_sub(SECONDS);
        (first..=seconds.newest).map(|second| u64::from(seconds.requests[slot(second)])).sum()
    }
}

#[allow(clippy::cast_possible_truncation, reason = "less than 60")]
const fn slot(second: u64) -> usize {
    (second % SECONDS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn a_minute_is_sixty_seconds_of_the_clock() {
        let mut denials = Denials::default();
        assert_eq!(denials.minute(at(1_000)), 0);
        (1_000..1_200).for_each(|second| denials.add(at(second)));
        denials.add(at(1_199));
        assert_eq!((denials.minute(at(1_199)), denials.minute(at(1_229)), denials.minute(at(1_258))), (61, 31, 2));
        assert_eq!(denials.minute(at(1_259)), 0);
        denials.add(at(1_100));
        assert_eq!(denials.minute(at(1_199)), 62, "late, but counted");
    }

    #[test]
    fn pauses_forget_what_they_must_and_nothing_else() {
        for pause in [1, 59, 60, 61, 10_000] {
            let mut denials = Denials::default();
            denials.add(at(500));
            denials.add(at(500 + pause));
            assert_eq!(denials.minute(at(500 + pause)), 1 + u64::from(pause < 60), "{pause}");
        }
    }
}
