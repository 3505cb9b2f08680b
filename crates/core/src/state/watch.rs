//! Giants after small answers overrun a limit once: a key that overran it by far is watched for a day, and the guard then
//! leaves its live streams no more than the limit (see [`crate::forecast::ForecastDefaults::most_reach`]).
//!
//! Rejected: as little room for every key from the start, which costs mixed traffic up to a fifth of its limit.

use core::time::Duration;

use minicbor::{Decode, Encode};

use crate::record::record;
use crate::time::Timestamp;

/// For how long a key is watched.
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Tokens in the window that nothing but giants after small answers has been seen to come to, permille of the limit.
const FAR_PERMILLE: u128 = 1_500;

/// A limit that was lowered says nothing yet about what was admitted under the higher one.
const LOWERED: Duration = Duration::from_secs(120);

/// Whether a key is watched.
#[derive(Clone, Copy, Debug, Default, Encode, Decode)]
pub(super) struct Watch {
    #[n(0)]
    until: Timestamp,
    /// The highest limit of late, and when it was seen.
    #[n(1)]
    limit_tpm: u64,
    #[n(2)]
    limit_at: Timestamp,
}

record!(Watch { until, limit_tpm, limit_at });

impl Watch {
    pub(super) fn is_on(&self, now: Timestamp) -> bool {
        now < self.until
    }

    /// Looks at what the generated window has come to by reported output.
    pub(super) fn on_output(&mut self, now: Timestamp, charged: u64, limit_tpm: u64) {
        if limit_tpm >= self.limit_tpm || now > self.limit_at.after(LOWERED) {
            (self.limit_tpm, self.limit_at) = (limit_tpm, now);
        }
        if u128::from(charged) * 1_000 > u128::from(self.limit_tpm) * FAR_PERMILLE {
            self.until = now.after(DAY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn a_key_is_watched_for_a_day_after_it_overran_its_limit_by_more_than_half() {
        let mut watch = Watch::default();
        watch.on_output(at(10), 1_500, 1_000);
        assert!(!watch.is_on(at(10)));
        watch.on_output(at(20), 1_501, 1_000);
        assert!(watch.is_on(at(20 + 86_399)));
        assert!(!watch.is_on(at(20 + 86_400)));
    }

    #[test]
    fn what_was_admitted_before_the_limit_was_lowered_is_not_held_against_the_key() {
        let mut watch = Watch::default();
        watch.on_output(at(10), 1_000, 1_000);
        watch.on_output(at(130), 900, 100);
        assert!(!watch.is_on(at(130)));
        watch.on_output(at(131), 900, 100);
        assert!(watch.is_on(at(131)), "two minutes later it is");
    }
}
