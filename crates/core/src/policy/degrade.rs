//! What decides while the store that a fleet shares is away: for everybody, or for a tier.

use minicbor::{Decode, Encode};

use super::Policy;
use crate::key::KeyRef;

/// What decides while the shared store does not answer, and no lease runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Degrade {
    /// Each sidecar has its share of every limit: an N-th, where N is the larger of the sidecars last seen and those that are
    /// expected. A sidecar that knows neither behaves as [`Degrade::Closed`].
    #[default]
    #[n(0)]
    Share,
    /// Nothing is admitted: 503.
    #[n(1)]
    Closed,
    /// Each sidecar has the whole of every limit for itself.
    #[n(2)]
    Open,
}

impl Policy {
    /// What the tier of the key's account says; `None`: nothing, so what holds for everybody.
    #[must_use]
    pub fn degrade(&self, key: KeyRef<'_>) -> Option<Degrade> {
        let tier = self.accounts.get(key.account()).map(|account| account.tier.as_str());
        let tier = tier.filter(|tier| !tier.is_empty()).unwrap_or(&self.default_tier);
        self.tiers.get(tier)?.degrade
    }
}
