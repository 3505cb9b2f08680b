//! What a key's limits are or would be, asked of a copy of its law.

use super::KeyState;
use crate::law::Law;
use crate::policy::Resolved;
use crate::time::Timestamp;
use crate::window::PerWindow;

/// A copy of a key's law, cut off from the key: small, so that it can be looked at without the key's lock.
#[derive(Clone, Copy, Debug)]
pub struct Outlook {
    now: Timestamp,
    phase_seconds: u64,
    pub(super) law: Law,
}

impl KeyState {
    /// The key's law as of its last call.
    #[must_use]
    pub const fn outlook(&self) -> Outlook {
        Outlook { now: self.now, phase_seconds: self.phase_seconds, law: self.law }
    }
}

impl Outlook {
    /// That of a key in this phase, whose law of now is kept elsewhere.
    #[must_use]
    pub const fn of(now: Timestamp, phase_seconds: u64, law: Law) -> Self {
        Self { now, phase_seconds, law }
    }

    /// The law, as of the last [`Outlook::advance`].
    #[must_use]
    pub const fn law(&self) -> Law {
        self.law
    }

    /// Moves on as the key itself would under `resolved`. An earlier instant moves no time.
    pub fn advance(&mut self, now: Timestamp, resolved: &Resolved) {
        self.now = self.now.max(now);
        let Resolved { bounds, law, boosts, .. } = resolved;
        self.law.advance_boosted(self.now, self.phase_seconds, bounds, law, boosts);
    }

    /// The limits under `resolved`, TPM, as of the last [`Outlook::advance`].
    #[must_use]
    pub fn limits(&self, resolved: &Resolved) -> PerWindow<u64> {
        PerWindow::from_fn(|window| self.law.limit_tpm(window, &resolved.bounds[window]))
    }
}
