//! What the clerk does at the desk: the reports that it takes from there, and the answers that it brings.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::RedisError;
use tidegate_core::fleet::{Granted, KnownLaw, SILENCE_MS};
use tidegate_core::key::{KeyRef, LimitKey};
use tidegate_core::law::Law;
use tidegate_core::time::Timestamp;
use tidegate_core::window::{Tokens, Window};
use tokio::sync::oneshot;

use super::lease::{Due, Said};
use super::link::described;
use super::{Desk, StoreMode, stats};
use crate::redis::slot as slot_of;
use crate::timers::Fingerprint;

/// All look again. Whoever gave up does not hear it.
pub(super) fn answer(waiters: Vec<oneshot::Sender<()>>) {
    for waiter in waiters {
        let _ = waiter.send(());
    }
}

impl Desk {
    /// Nobody knows whether the key's report has arrived, or it was not made.
    pub(super) fn give_up(&self, key: Fingerprint) {
        let Some(lease) = self.leases.get(&key) else { return };
        let (due, waiters) = {
            let mut lease = lease.lock();
            let now = (self.now)();
            (lease.on_lost(now), lease.finish(now))
        };
        drop(lease);
        if let Some(at) = due {
            self.due.lock().push(Reverse((at, key)));
        }
        answer(waiters);
    }

    /// Looks at the leases that are due.
    pub(super) fn look(&self) {
        let now = (self.now)();
        loop {
            let key = {
                let mut due = self.due.lock();
                let Some(&Reverse((at, key))) = due.peek() else { return };
                if at > now {
                    return;
                }
                due.pop();
                key
            };
            let Some(next) = self.look_at(now, key) else { continue };
            match next {
                // No lease is held here: one is taken out of the table.
                (Due::Forget, _) if !self.table.has(key) => {
                    self.leases.remove_if_mut(&key, |_, lease| lease.get_mut().is_idle());
                }
                (_, due_at) if due_at < Timestamp::MAX => self.due.lock().push(Reverse((due_at, key))),
                _ => {}
            }
        }
    }

    /// What is to become of a lease, and when it is due again; `None` where it was put off meanwhile, and has another entry.
    fn look_at(&self, now: Timestamp, key: Fingerprint) -> Option<(Due, Timestamp)> {
        let lease = self.leases.get(&key)?;
        let mut lease = lease.lock();
        if lease.due_at > now {
            return None;
        }
        let next = lease.on_due(now);
        if next == Due::Ask && !self.enqueue(key, &mut lease) {
            lease.put_off(now);
        }
        Some((next, lease.due_at))
    }

    /// Makes the key's report, of what it has now.
    pub(super) fn say(&self, fingerprint: Fingerprint) -> Option<(LimitKey, Said)> {
        let lease = self.leases.get(&fingerprint)?;
        let mut lease = lease.lock();
        let now = (self.now)();
        let life = self.life(slot_of(lease.key.as_ref()));
        let account = self.table.account(now, fingerprint);
        let exact = self.settings.mode == StoreMode::Strict;
        let said = lease.say(now, account, (life, self.table.incarnation), exact);
        Some((lease.key.clone(), said))
    }

    /// Takes in an answer. Where the law is to be moved on first, the version that is there and the law to go on from.
    pub(super) fn on_answer(
        &self,
        fingerprint: Fingerprint,
        said: &Said,
        granted: &Granted,
    ) -> Option<(u64, Option<KnownLaw>)> {
        let lease = self.leases.get(&fingerprint)?;
        let mut lease = lease.lock();
        let now = (self.now)();
        if let Some(at) = lease.on_answer(now, said, granted) {
            self.due.lock().push(Reverse((at, fingerprint)));
        }
        let to_move = lease.law_to_move(granted).or_else(|| self.outdated(now, lease.key.as_ref(), granted));
        if let (None, Some(known)) = (&to_move, granted.law) {
            let levels = |law: &Law| law.windows.map(|window| (window.p, window.v, window.q));
            let is_new = lease
                .law
                .is_none_or(|before| before.law.epoch != known.law.epoch || levels(&before.law) != levels(&known.law));
            lease.law = Some(known);
            if is_new {
                self.table.follow(now, fingerprint, &known.law);
            }
            let need = said.need();
            let over = |window: Window| {
                need[window].saturating_add(granted.elsewhere[window]).saturating_sub(known.limits[window])
            };
            let over = Window::ALL.into_iter().map(over).max().unwrap_or(0);
            self.counters.most_over.fetch_max(over, Ordering::Relaxed);
            let on_top = Tokens::from_fn(|window| granted.allotted[window].saturating_sub(need[window]));
            stats::add(&self.counters.granted, &on_top);
        }
        to_move
    }

    /// The law and its version, where the policy of now makes other limits of it: somebody wrote policy.
    fn outdated(&self, now: Timestamp, key: KeyRef<'_>, granted: &Granted) -> Option<(u64, Option<KnownLaw>)> {
        let revision = self.policy_revision();
        let known = granted.law.filter(|known| self.policy.is_shared() && revision >= known.policy)?;
        let (next, _) = self.table.next_law(now, key, Some(&known), granted.epoch, revision);
        (next.limits != known.limits).then_some((known.version, Some(known)))
    }

    /// Of the policy that decides here; 0 where it is not the fleet's, as far as is known.
    pub(super) fn policy_revision(&self) -> u64 {
        if self.policy.is_shared() { self.table.policy.load().revision() } else { 0 }
    }

    pub(super) fn life(&self, slot: u64) -> u64 {
        self.slots[usize::try_from(slot).unwrap_or(0)].life.load(Ordering::Relaxed)
    }

    /// Of a Cluster, the data of a slot cannot be reached: nothing is waited for there until its life is learned anew.
    pub(super) fn on_slot_away(&self, slot: u64, why: &RedisError) {
        self.slots[usize::try_from(slot).unwrap_or(0)].ready_at.store(u64::MAX, Ordering::Relaxed);
        self.status.on_slot_away(slot, described(why));
    }

    /// The data of a slot are in this life, which began so long before `now`.
    pub(super) fn on_life(&self, now: Timestamp, slot: u64, life: u64, age_ms: u64) {
        let known = &self.slots[usize::try_from(slot).unwrap_or(0)];
        self.status.on_slot_answer(slot);
        // A call that comes at once finds the silence over.
        let silence = Duration::from_millis(SILENCE_MS.saturating_sub(age_ms).saturating_mul(101) / 100);
        known.ready_at.store(now.after(silence).as_micros(), Ordering::Relaxed);
        let before = known.life.swap(life, Ordering::Relaxed);
        if before == life {
            return;
        }
        if before != 0 {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
        }
        let mut due = Vec::new();
        for lease in &self.leases {
            let fingerprint = *lease.key();
            let mut lease = lease.lock();
            if slot_of(lease.key.as_ref()) == slot
                && let Some(at) = lease.on_data_lost(now)
            {
                due.push(Reverse((at, fingerprint)));
            }
        }
        self.due.lock().extend(due);
    }

    /// The store's clock was stepped: what it was told to let go of in so many seconds goes too soon, or too late.
    pub(super) fn on_clock_step(&self, now: Timestamp) {
        let mut due = Vec::new();
        for lease in &self.leases {
            due.extend(lease.lock().on_news(now, Duration::ZERO).map(|at| Reverse((at, *lease.key()))));
        }
        self.due.lock().extend(due);
    }

    /// Ends all leases; the keys whose last report is to be made.
    pub(super) fn close_all(&self) -> Vec<Fingerprint> {
        self.leases.iter().filter(|lease| lease.lock().close()).map(|lease| *lease.key()).collect()
    }
}
