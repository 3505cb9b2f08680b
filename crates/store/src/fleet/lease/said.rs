//! A report, from when it is made until its answer comes.

use std::time::Duration;

use tidegate_core::fleet::{Report, Seen};
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens};

/// A report that was made, until its answer comes.
#[derive(Clone, Debug)]
pub(in crate::fleet) struct Said {
    pub(in crate::fleet) life: u64,
    pub(in crate::fleet) incarnation: u64,
    pub(super) sequence: u64,
    pub(super) acknowledged: u64,
    pub(super) phase_seconds: u64,
    pub(in crate::fleet) ttl: Duration,
    pub(super) needs: PerWindow<Vec<(u32, u64)>>,
    pub(super) wants: Tokens,
    pub(super) least: Tokens,
    pub(super) waits: bool,
    pub(super) seen: PerWindow<Seen>,
    pub(super) at: Timestamp,
}

/// All of it.
pub(super) fn sum(leaving: &[(u32, u64)]) -> u64 {
    leaving.iter().fold(0, |sum, (_, tokens)| sum.saturating_add(*tokens))
}

impl Said {
    /// What it says is needed, all together.
    pub(in crate::fleet) fn need(&self) -> Tokens {
        Tokens::from_fn(|window| sum(&self.needs[window]))
    }

    /// As the ledger takes it.
    pub(in crate::fleet) fn report(&self) -> Report<'_> {
        Report {
            life: self.life,
            incarnation: self.incarnation,
            sequence: self.sequence,
            acknowledged: self.acknowledged,
            phase_seconds: self.phase_seconds,
            ttl_ms: u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX),
            needs: PerWindow::from_fn(|window| self.needs[window].as_slice()),
            wants: self.wants,
            least: self.least,
            waits: self.waits,
            seen: self.seen,
        }
    }
}
