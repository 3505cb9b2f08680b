//! A table whose keys are shared with other processes: it counts a part of each limit, and tells what it has of it.

use std::time::Duration;

use tidegate_core::decision::{ServiceTier, WindowStatus};
use tidegate_core::fleet::KnownLaw;
use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_core::law::{EPOCH_SECONDS, Law};
use tidegate_core::policy::Resolved;
use tidegate_core::reservation::Ticket;
use tidegate_core::state::{Allotment, Beyond, KeyState, Rules, Sighted};
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens};

use super::MemoryStore;
use super::shadow::reserved_nothing;
use crate::timers::Fingerprint;

/// What this process may count of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) allotment: Allotment,
    /// At least the limit divided by this; 0: no more than is allotted.
    pub(crate) share_of: u64,
    /// The law that applies to a key which is not in the table yet.
    pub(crate) law: Option<Law>,
}

/// What a key has, for the ledger of its fleet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    pub(crate) needs: PerWindow<Vec<(u32, u64)>>,
    pub(crate) sighted: PerWindow<Sighted>,
    /// Live reservations.
    pub(crate) reservations: usize,
}

/// The rules of a process that may count `part` of the key.
pub(super) fn narrowed<'a>(part: Option<&Part>, state: &mut KeyState, now: Timestamp, rules: &Rules<'a>) -> Rules<'a> {
    let Some(part) = part else { return *rules };
    let mut allotment = part.allotment;
    if part.share_of > 0 {
        state.advance(now, rules);
        let limits = state.limits(rules);
        let share = limits.map(|limit| limit / part.share_of);
        allotment.allotted = Tokens::from_fn(|window| allotment.allotted[window].max(share[window]));
        allotment.elsewhere = Tokens::from_fn(|window| limits[window].saturating_sub(allotment.allotted[window]));
    }
    Rules { allotment: Some(allotment), ..*rules }
}

impl MemoryStore {
    /// What the key has now. What the law is to know is told once.
    pub(crate) fn account(&self, now: Timestamp, key: Fingerprint) -> Account {
        let Some(mut entry) = self.known(key) else { return Account::default() };
        self.refresh(now, &mut entry);
        self.call(now, key, &mut entry, |state, rules| {
            state.advance(now, rules);
            let (needs, sighted) = (state.needs(rules.forecast), state.take_sighted());
            Account { needs, sighted, reservations: state.reservations() }
        })
    }

    /// Takes over the fleet's law, where the key is in the table.
    pub(crate) fn follow(&self, now: Timestamp, key: Fingerprint, law: &Law) {
        if let Some(mut entry) = self.known(key) {
            self.refresh(now, &mut entry);
            self.call(now, key, &mut entry, |state, rules| state.follow_law(now, law, rules));
        }
    }

    /// The law that `known` comes to in `epoch`, under the policy of now (of this revision for the fleet), as the next version; and after how long it is the
    /// default again without a call. Without a known one, the default.
    pub(crate) fn next_law(
        &self,
        now: Timestamp,
        key: KeyRef<'_>,
        known: Option<&KnownLaw>,
        epoch: u64,
        revision: u64,
    ) -> (KnownLaw, Duration) {
        let resolved = self.policy.load().resolve(key, now);
        let (bounds, phase) = (&resolved.bounds, key.phase_seconds());
        let mut law = known.map_or_else(|| Law::new(epoch, bounds), |known| known.law);
        let begins = Timestamp::from_seconds(epoch.saturating_mul(EPOCH_SECONDS).saturating_sub(phase));
        law.advance_boosted(begins, phase, bounds, &resolved.law, &resolved.boosts);
        let limits = Tokens::from_fn(|window| law.limit_tpm(window, &bounds[window]));
        let version = known.map_or(0, |known| known.version) + 1;
        (KnownLaw { version, policy: revision, law, limits }, lasts(&law, &resolved))
    }

    /// After how long the law is the default again without a call.
    pub(crate) fn law_lasts(&self, now: Timestamp, key: KeyRef<'_>, law: &Law) -> Duration {
        lasts(law, &self.policy.load().resolve(key, now))
    }

    /// The key's windows, as a request of this service tier meets them in a process that may count `part` of it.
    pub(crate) fn windows_of_part(
        &self,
        now: Timestamp,
        key: KeyRef<'_>,
        tier: ServiceTier,
        part: &Part,
    ) -> PerWindow<WindowStatus> {
        let fingerprint = self.of_key(key);
        let windows = |state: &mut KeyState, rules: &Rules<'_>| {
            state.advance(now, rules);
            let rules = narrowed(Some(part), state, now, rules);
            state.windows_at(tier, &rules)
        };
        if let Some(mut entry) = self.known(fingerprint) {
            self.refresh(now, &mut entry);
            return self.call(now, fingerprint, &mut entry, windows);
        }
        let mut fresh = self.fresh(now, key);
        let fallback = self.fallback(fresh.model);
        let rules = self.rules(&fresh.resolved, &fallback, self.pressure(now, fresh.model));
        if let Some(law) = part.law {
            fresh.state.follow_law(now, &law, &rules);
        }
        windows(&mut fresh.state, &rules)
    }

    /// Whether the key is in the table.
    pub(crate) fn has(&self, key: Fingerprint) -> bool {
        self.keys.contains_key(&key)
    }

    /// The key that an id names, and its ticket, if it was made by this fleet.
    pub(crate) fn named_by(&self, id: &str) -> Option<(LimitKey, Ticket)> {
        self.checksum_keys.load().decode(id)
    }
}

impl MemoryStore {
    /// The reservation that `id` names, where another process admitted it and nothing of it is known here.
    pub(crate) fn of_another(&self, id: &str) -> Option<(LimitKey, Ticket)> {
        let (key, ticket) = self.checksum_keys.load().decode(id)?;
        if ticket.number.incarnation == self.incarnation || reserved_nothing(&ticket) {
            return None;
        }
        let is_known = self.known(self.of_key(key.as_ref())).is_some_and(|entry| entry.state.remembers(ticket.number));
        (!is_known).then_some((key, ticket))
    }

    /// Whether the reservation that `id` names is live here.
    pub(crate) fn is_live(&self, now: Timestamp, id: &str) -> bool {
        self.named_by(id).is_some_and(|(key, ticket)| {
            self.known(self.of_key(key.as_ref())).is_some_and(|entry| entry.state.is_live(now, ticket.number))
        })
    }
}

fn lasts(law: &Law, resolved: &Resolved) -> Duration {
    Duration::from_secs(law.epochs_to_default(&resolved.bounds, &resolved.law).saturating_mul(EPOCH_SECONDS))
}

impl Part {
    /// No more than this, whatever the limits.
    pub(crate) const fn of(allotted: Tokens, elsewhere: Tokens, beyond: Beyond) -> Self {
        let frees_in = PerWindow::new(Duration::ZERO, Duration::ZERO, Duration::ZERO);
        Self { allotment: Allotment { allotted, elsewhere, frees_in, beyond }, share_of: 0, law: None }
    }
}
