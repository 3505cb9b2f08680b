//! Reading: the windows of a key, and pages of keys.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;

use tidegate_core::decision::WindowStatus;
use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_core::time::Timestamp;
use tidegate_core::window::PerWindow;

use super::MemoryStore;
use super::entry::Entry;
use crate::timers::Fingerprint;
use crate::{KeyLimits, ListPage, ListQuery};

impl MemoryStore {
    /// The key's windows, and how many of its reservations are live.
    pub(super) fn windows(&self, now: Timestamp, key: KeyRef<'_>) -> (PerWindow<WindowStatus>, usize) {
        let fingerprint = self.of_key(key);
        match self.keys.get_mut(&fingerprint) {
            Some(mut entry) => {
                let windows = self.windows_of(now, fingerprint, &mut entry);
                (windows, entry.state.reservations())
            }
            None => {
                let mut fresh = self.fresh(now, key);
                let fallback = self.fallback(key);
                let rules = self.rules(&fresh.resolved, &fallback);
                fresh.state.advance(now, &rules);
                (fresh.state.windows(&rules), 0)
            }
        }
    }

    pub(super) fn windows_of(&self, now: Timestamp, key: Fingerprint, entry: &mut Entry) -> PerWindow<WindowStatus> {
        self.refresh(now, entry);
        self.call(key, entry, |state, rules| {
            state.advance(now, rules);
            state.windows(rules)
        })
    }

    pub(super) fn list(&self, now: Timestamp, query: &ListQuery) -> ListPage {
        // The first keys in order, without sorting the table: the largest of them is on top.
        let most = query.page_size.saturating_add(1);
        let mut first = BinaryHeap::<LimitKey>::with_capacity(most.min(1_024));
        for mut entry in self.keys.iter_mut() {
            let fingerprint = *entry.key();
            let entry = entry.value_mut();
            let key = entry.key.as_ref();
            let wanted = query.account.as_deref().is_none_or(|account| account == key.account())
                && query.model.as_deref().is_none_or(|model| model == key.model())
                && query.variant.as_deref().is_none_or(|variant| variant == key.variant())
                && query.after.as_ref().is_none_or(|after| key.cmp(&after.as_ref()) == Order::Greater)
                && (first.len() < most || first.peek().is_some_and(|last| key < last.as_ref()))
                && (!query.at_ceiling || at_ceiling(&self.windows_of(now, fingerprint, entry)));
            if wanted {
                first.push(entry.key.clone());
                if first.len() > most {
                    first.pop();
                }
            }
        }
        let mut keys = first.into_sorted_vec();
        let more = keys.len() > query.page_size;
        keys.truncate(query.page_size);
        let rows = keys.into_iter().map(|key| {
            let (windows, reservations) = self.windows(now, key.as_ref());
            KeyLimits { key, windows, reservations }
        });
        ListPage { rows: rows.collect(), more }
    }
}

fn at_ceiling(windows: &PerWindow<WindowStatus>) -> bool {
    windows.iter().any(|(_, status)| status.limit_tpm >= status.ceiling_tpm && status.ceiling_tpm > status.floor_tpm)
}
