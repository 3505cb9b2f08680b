//! Explaining one key: what the core says of it, and what the policy says of its bounds, as of one instant.

use tidegate_core::key::KeyRef;
use tidegate_core::time::Timestamp;

use super::MemoryStore;
use super::entry::Entry;
use crate::KeyExplained;

impl MemoryStore {
    pub(super) fn explain(&self, now: Timestamp, key: KeyRef<'_>) -> KeyExplained {
        let fingerprint = self.of_key(key);
        if let Some(mut entry) = self.known(fingerprint) {
            self.refresh(now, &mut entry);
            let explained = self.call(now, fingerprint, &mut entry, |state, rules| {
                state.advance(now, rules);
                state.explain(rules)
            });
            return self.explained(now, &entry, explained, true);
        }
        let mut fresh = self.fresh(now, key);
        let fallback = self.fallback(fresh.model);
        let rules = self.rules(&fresh.resolved, &fallback, self.pressure(now, fresh.model));
        fresh.state.advance(now, &rules);
        let explained = fresh.state.explain(&rules);
        self.explained(now, &fresh, explained, false)
    }

    fn explained(
        &self,
        now: Timestamp,
        entry: &Entry,
        state: tidegate_core::state::Explained,
        known: bool,
    ) -> KeyExplained {
        let (origins, law_profile) = self.policy.load().origins(entry.key.as_ref(), now);
        KeyExplained {
            known,
            state,
            resolved: entry.resolved.clone(),
            origins,
            law_profile,
            pressure: self.pressure(now, entry.model),
            reservations: entry.state.reservations(),
        }
    }
}
