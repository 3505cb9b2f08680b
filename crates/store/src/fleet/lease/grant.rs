//! What a sidecar was granted, and for how long it relies on that.

use std::time::Duration;

use tidegate_core::time::Timestamp;
use tidegate_core::window::Tokens;

/// A lease is renewed once this share of it is left, permille.
const RENEW_BELOW: u32 = 450;
/// It is looked at whether it is to be given back when this share of it is over, permille.
const LOOKED_AT: u32 = 600;

/// What was granted, and until when it may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) allotted: Tokens,
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

/// For how long a lease of this length may be relied on: a clock may run wrong by one in a hundred.
pub(super) fn certain(lease: Duration) -> Duration {
    (lease - lease / 100).saturating_sub(Duration::from_millis(10))
}

impl Grant {
    fn length(&self) -> Duration {
        self.until.since(self.from)
    }

    /// Whether who uses it should ask for the next one.
    pub(super) fn is_ending(&self, now: Timestamp) -> bool {
        self.until.since(now) * 1_000 < self.length() * RENEW_BELOW
    }

    /// When it goes back, if nobody uses it.
    pub(super) fn looked_at(&self) -> Timestamp {
        self.from.after(self.length() * LOOKED_AT / 1_000)
    }
}
