//! Reading: the windows of a key, and pages of keys.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tidegate_core::decision::WindowStatus;
use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_core::pressure::Signal;
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens};

use super::MemoryStore;
use super::entry::Entry;
use crate::timers::Fingerprint;
use crate::{KeyLimits, ListPage, ListQuery, Place, sum};

impl MemoryStore {
    /// The key's windows, and how many of its reservations are live.
    pub(super) fn windows(&self, now: Timestamp, key: KeyRef<'_>) -> (PerWindow<WindowStatus>, usize) {
        let fingerprint = self.of_key(key);
        match self.known(fingerprint) {
            Some(mut entry) => {
                let windows = self.windows_of(now, fingerprint, &mut entry);
                (windows, entry.state.reservations())
            }
            None => {
                let mut fresh = self.fresh(now, key);
                let fallback = self.fallback(fresh.model);
                let rules = self.rules(&fresh.resolved, &fallback, self.pressure(now, fresh.model));
                fresh.state.advance(now, &rules);
                (fresh.state.windows(&rules), 0)
            }
        }
    }

    pub(super) fn windows_of(&self, now: Timestamp, key: Fingerprint, entry: &mut Entry) -> PerWindow<WindowStatus> {
        self.refresh(now, entry);
        self.call(now, key, entry, |state, rules| {
            state.advance(now, rules);
            state.windows(rules)
        })
    }

    pub(super) fn list(&self, now: Timestamp, query: &ListQuery) -> ListPage {
        // The first keys in order, without sorting the table: the largest of them is on top.
        let most = query.page_size.saturating_add(1);
        let mut first = BinaryHeap::<Place>::with_capacity(most.min(1_024));
        for mut slot in self.keys.iter_mut() {
            let fingerprint = *slot.key();
            let slot = slot.value_mut();
            let denied =
                if query.at_ceiling { sum(&slot.awake(self).state.denied_at_ceiling(query.denied_as_of)) } else { 0 };
            let key = slot.key();
            let place = (Reverse(denied), key);
            let wanted = query.account.as_deref().is_none_or(|account| account == key.account())
                && query.model.as_deref().is_none_or(|model| model == key.model())
                && query.variant.as_deref().is_none_or(|variant| variant == key.variant())
                && query.after.as_ref().is_none_or(|after| place > (after.denied, after.key.as_ref()))
                && (first.len() < most || first.peek().is_some_and(|last| place < (last.denied, last.key.as_ref())))
                && (!query.at_ceiling || at_ceiling(&self.windows_of(now, fingerprint, slot.awake(self))));
            if wanted {
                first.push(Place { denied: Reverse(denied), key: slot.key().to_owned() });
                if first.len() > most {
                    first.pop();
                }
            }
        }
        let mut places = first.into_sorted_vec();
        let more = places.len() > query.page_size;
        places.truncate(query.page_size);
        let rows = places.into_iter().map(|Place { key, .. }| self.row(now, key, query.denied_as_of));
        ListPage { rows: rows.collect(), more }
    }

    fn row(&self, now: Timestamp, key: LimitKey, denied_as_of: Timestamp) -> KeyLimits {
        let (windows, reservations) = self.windows(now, key.as_ref());
        let (denied_at_ceiling, denied_requests, enforcement) = match self.known(self.of_key(key.as_ref())) {
            Some(entry) => {
                (entry.state.denied_at_ceiling(denied_as_of), entry.denials.minute(now), entry.resolved.enforcement)
            }
            // It has just left the table.
            None => (Tokens::default(), 0, self.policy.load().resolve(key.as_ref(), now).enforcement),
        };
        let readings = self.pressure(now, self.of_model(key.as_ref()));
        let pressure = readings.iter().filter_map(|(_, reading)| match reading.signal() {
            Signal::Live(permille) => Some(permille),
            Signal::Off | Signal::Stale => None,
        });
        let pressure_permille = pressure.max();
        KeyLimits { key, windows, reservations, denied_at_ceiling, denied_requests, enforcement, pressure_permille }
    }
}

fn at_ceiling(windows: &PerWindow<WindowStatus>) -> bool {
    windows.iter().any(|(_, status)| status.limit_tpm >= status.ceiling_tpm && status.ceiling_tpm > status.floor_tpm)
}
