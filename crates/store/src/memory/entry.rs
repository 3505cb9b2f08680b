//! A key in the table, and one call on it: under the rules in force, counted, its timer set.

use std::sync::atomic::Ordering;

use tidegate_core::forecast::Prior;
use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_core::policy::Resolved;
use tidegate_core::pressure::Reading;
use tidegate_core::state::{KeyState, Rules};
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, WINDOW};

use super::MemoryStore;
use super::denials::Denials;
use super::marks::OnDisk;
use super::slot::{KnownKey, Slot};
use crate::timers::Fingerprint;

/// A key in the table.
pub(crate) struct Entry {
    pub(crate) key: LimitKey,
    /// The fingerprint of its (model, variant).
    pub(super) model: Fingerprint,
    pub(crate) state: KeyState,
    /// What the policy of `revision` says about the key, until `resolved.valid_until`.
    pub(super) resolved: Resolved,
    pub(super) revision: u64,
    pub(super) denials: Denials,
    /// When the timers look at the key next.
    pub(super) due_at: Timestamp,
    /// Whether it stands in the queue of keys that may go.
    pub(super) queued: bool,
    /// Whether it was idle when the timers looked at it last.
    pub(super) rests: bool,
    /// What of it is on disk.
    pub(crate) disk: OnDisk,
}

/// What of a key's state the store counts.
#[derive(Clone, Copy)]
pub(super) struct Tally {
    pub(super) reservations: usize,
    pub(super) remembered: usize,
    pub(super) held: u64,
}

impl Tally {
    pub(super) fn of(state: &KeyState) -> Self {
        Self { reservations: state.reservations(), remembered: state.remembered(), held: state.held_tokens() }
    }
}

impl MemoryStore {
    /// Runs `step` on the key's state under its rules, and counts what it changed.
    pub(super) fn call<T>(
        &self,
        now: Timestamp,
        key: Fingerprint,
        entry: &mut Entry,
        step: impl FnOnce(&mut KeyState, &Rules<'_>) -> T,
    ) -> T {
        let before = Tally::of(&entry.state);
        let of_model;
        let fallback = if entry.state.needs_fallback() {
            of_model = self.fallback(entry.model);
            &of_model
        } else {
            &self.defaults
        };
        let rules = self.rules(&entry.resolved, fallback, self.pressure(now, entry.model));
        let result = step(&mut entry.state, &rules);
        self.count(before, &mut entry.state);
        let next = entry.state.next_timer().unwrap_or(Timestamp::MAX);
        if next < entry.due_at {
            entry.due_at = next;
            self.timers.insert(next, key);
        }
        result
    }

    pub(super) fn count(&self, before: Tally, state: &mut KeyState) {
        if state.remembered() > before.remembered {
            let most = i64::try_from(self.bounds.remembered).unwrap_or(i64::MAX);
            while self.remembered.load(Ordering::Relaxed) >= most
                && state.remembered() > before.remembered
                && state.forget_one()
            {
                self.forgotten_early.fetch_add(1, Ordering::Relaxed);
            }
        }
        let after = Tally::of(state);
        if after.reservations > before.reservations {
            self.reservations.fetch_add((after.reservations - before.reservations) as u64, Ordering::Relaxed);
        } else if after.reservations < before.reservations {
            self.reservations.fetch_sub((before.reservations - after.reservations) as u64, Ordering::Relaxed);
        }
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let remembered = signed(after.remembered as u64) - signed(before.remembered as u64);
        if remembered != 0 {
            self.remembered.fetch_add(remembered, Ordering::Relaxed);
        }
        let held = signed(after.held).saturating_sub(signed(before.held));
        if held != 0 {
            self.held.fetch_add(held, Ordering::Relaxed);
        }
        let expired = state.take_expired();
        if expired > 0 {
            self.expired.fetch_add(expired, Ordering::Relaxed);
        }
    }

    pub(super) fn rules<'a>(
        &'a self,
        resolved: &'a Resolved,
        fallback: &'a Prior,
        pressure: PerWindow<Reading>,
    ) -> Rules<'a> {
        Rules {
            bounds: &resolved.bounds,
            law: &resolved.law,
            boosts: &resolved.boosts,
            fallback,
            forecast: &self.forecast,
            pressure,
            incarnation: self.incarnation,
            allotment: None,
            law_is_shared: self.law_is_shared,
        }
    }

    pub(crate) fn of_model(&self, key: KeyRef<'_>) -> Fingerprint {
        self.fingerprint([key.model(), key.variant(), ""])
    }

    /// What requests of this model do, or the defaults.
    pub(crate) fn fallback(&self, model: Fingerprint) -> Prior {
        self.models.get(&model).map_or(self.defaults, |model| *model.figures.prior())
    }

    /// A key never seen before; not in the table.
    pub(super) fn fresh(&self, now: Timestamp, key: KeyRef<'_>) -> Entry {
        let policy = self.policy.load();
        let resolved = policy.resolve(key, now);
        Entry {
            key: key.to_owned(),
            model: self.of_model(key),
            state: KeyState::new(now, key.phase_seconds(), &resolved.bounds, &self.defaults),
            revision: policy.revision(),
            resolved,
            denials: Denials::default(),
            due_at: Timestamp::MAX,
            queued: false,
            rests: false,
            disk: OnDisk::default(),
        }
    }

    /// A key that is put into the table whether it has room or not: what an earlier process admitted counts.
    pub(super) fn key_anew(&self, now: Timestamp, fingerprint: Fingerprint, key: KeyRef<'_>) -> KnownKey<'_> {
        let slot = self.keys.entry(fingerprint).or_insert_with(|| {
            let mut fresh = self.fresh(now, key);
            fresh.due_at = now.after(WINDOW);
            self.timers.insert(fresh.due_at, fingerprint);
            self.room.take_anyway(fresh.resolved.configured);
            Slot::Awake(Box::new(fresh))
        });
        slot.map(|slot| slot.awake(self))
    }

    /// Takes over what the policy says now (C8). A policy older than the one that the key has seen changes nothing.
    pub(super) fn refresh(&self, now: Timestamp, entry: &mut Entry) {
        if self.policy.revision() > entry.revision || now >= entry.resolved.valid_until {
            let policy = self.policy.load();
            let resolved = policy.resolve(entry.key.as_ref(), now);
            if resolved.configured != entry.resolved.configured {
                self.room.on_configured(resolved.configured);
            }
            if entry.resolved.floor_won == PerWindow::default() {
                self.count_floor_above_ceiling(&resolved);
            }
            entry.resolved = resolved;
            entry.revision = policy.revision();
        }
    }

    /// Each key takes over what the policy says at its next call, also where that is no newer than the one it has seen.
    pub(crate) fn look_at_policy_again(&self) {
        for mut slot in self.keys.iter_mut() {
            let entry = slot.value_mut().awake(self);
            (entry.revision, entry.resolved.valid_until) = (0, Timestamp::ZERO);
        }
    }

    pub(super) fn count_floor_above_ceiling(&self, resolved: &Resolved) {
        if resolved.floor_won != PerWindow::default() {
            self.floor_above_ceiling.fetch_add(1, Ordering::Relaxed);
        }
    }
}
