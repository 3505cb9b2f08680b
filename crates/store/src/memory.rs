//! The memory store: a table of keys, one lock taken for each decision, nothing on disk.
//!
//! Keys are found by a keyed 128-bit fingerprint of their names, so that nobody can make two collide or fill one shard. The
//! shards are many and small: the longest lock is one key's work, or one shard's growth.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::future::{Future, ready};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Slot;
use parking_lot::Mutex;
use siphasher::sip128::{Hasher128, SipHasher13};
use tidegate_core::ask::Request;
use tidegate_core::decision::{Answer, Bound, Denial, SettleOutcome, WindowStatus};
use tidegate_core::forecast::{Figures, ForecastDefaults};
use tidegate_core::key::{KeyRef, LimitKey, MAX_NAME_BYTES};
use tidegate_core::policy::{Policy, PolicyWrite, Resolved, WriteError};
use tidegate_core::reservation::{Number, Ticket};
use tidegate_core::state::{self, KeyState, Reserve, Retention, Rules, SettleCounts};
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens, WINDOW};

use crate::reservation_id::{self, ChecksumKey};
use crate::timers::{Fingerprint, Timers};
use crate::{Booked, EndError, KeyLimits, ListPage, ListQuery, PolicyWritten, ReserveError, Reserved, Stats, Store};

mod room;
#[cfg(test)]
mod tests;

use room::{Evicted, Room};

/// Shards of the table: at a million keys, one grows by a thousand.
const SHARDS: usize = 1_024;
/// Most models whose figures are kept for the forecast; requests of others fall back on the defaults. Accounts that nobody
/// configured bring in at most half of them.
const MOST_MODELS: usize = 10_000;
/// Keys that one round of [`Store::on_tick`] takes from the timers at a time.
const TIMERS_AT_ONCE: usize = 256;

/// Bounds of the memory store (contract C14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBounds {
    /// Most limit keys; default 1,000,000. Keys of accounts that nobody configured take at most half.
    pub keys: u64,
    /// Most live reservations; default 1,000,000.
    pub reservations: u64,
    /// Most live reservations of one key; default 100,000.
    pub reservations_per_key: u64,
    /// Most ended reservations and request ids that are remembered one by one; default 4,000,000. Beyond it a key forgets
    /// its oldest when it remembers a new one.
    pub remembered: u64,
}

impl Default for MemoryBounds {
    fn default() -> Self {
        Self { keys: 1_000_000, reservations: 1_000_000, reservations_per_key: 100_000, remembered: 4_000_000 }
    }
}

impl MemoryBounds {
    /// About the most memory, in bytes, that a store of these bounds takes: every key active in each second of the minute,
    /// every reservation live, everything remembered.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        // Sub-buckets: 64 of 32 and of 24 bytes. Trees: nodes are at worst half empty.
        let names = 3 * MAX_NAME_BYTES as u64;
        let key = size_of::<Entry>() as u64 + 64 * (32 + 24) + names;
        let (reservation, remembered) = (1_000, 400);
        let sum = [(self.keys, key), (self.reservations, reservation), (self.remembered, remembered)];
        sum.into_iter().fold(0, |sum, (count, bytes)| sum.saturating_add(count.saturating_mul(bytes)))
    }
}

/// The fingerprint is a hash already.
#[derive(Default)]
struct Fingerprinted(u64);

impl Hasher for Fingerprinted {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "any 64 of the 128 uniformly drawn bits will do")]
    fn write_u128(&mut self, fingerprint: u128) {
        self.0 = fingerprint as u64;
    }
}

/// A key in the table.
struct Entry {
    key: LimitKey,
    state: KeyState,
    /// What the policy of `revision` says about the key, until `resolved.valid_until`.
    resolved: Resolved,
    revision: u64,
    /// When the timers look at the key next.
    due_at: Timestamp,
    /// Whether it stands in the queue of keys that may go.
    queued: bool,
}

/// The memory store.
pub struct MemoryStore {
    keys: DashMap<Fingerprint, Entry, BuildHasherDefault<Fingerprinted>>,
    models: DashMap<Fingerprint, Figures, BuildHasherDefault<Fingerprinted>>,
    policy: ArcSwap<Policy>,
    /// Held while policy is written, so that no write is lost.
    writing: Mutex<()>,
    timers: Timers,
    room: Room,
    bounds: MemoryBounds,
    forecast: ForecastDefaults,
    defaults: Figures,
    fingerprint_key: [u8; 16],
    checksum_key: ChecksumKey,
    incarnation: u64,
    next_sequence: AtomicU64,
    reservations: AtomicU64,
    remembered: AtomicI64,
    held: AtomicI64,
    expired: AtomicU64,
    forgotten_early: AtomicU64,
    bound_reached: [AtomicU64; Bound::ALL.len()],
    floor_above_ceiling: AtomicU64,
}

/// What of a key's state the store counts.
#[derive(Clone, Copy)]
struct Tally {
    reservations: usize,
    remembered: usize,
    held: u64,
}

impl Tally {
    fn of(state: &KeyState) -> Self {
        Self { reservations: state.reservations(), remembered: state.remembered(), held: state.held_tokens() }
    }
}

impl MemoryStore {
    /// An empty store under `policy`, with secrets of its own.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn new(bounds: MemoryBounds, forecast: ForecastDefaults, policy: Policy) -> Result<Self, getrandom::Error> {
        let secret = || {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes).map(|()| bytes)
        };
        Ok(Self {
            keys: DashMap::with_capacity_and_hasher_and_shard_amount(0, BuildHasherDefault::default(), SHARDS),
            models: DashMap::with_hasher(BuildHasherDefault::default()),
            policy: ArcSwap::from_pointee(policy),
            writing: Mutex::new(()),
            timers: Timers::default(),
            room: Room::new(bounds.keys),
            bounds,
            forecast,
            defaults: Figures::from_defaults(&forecast),
            fingerprint_key: secret()?,
            checksum_key: ChecksumKey::new(secret()?),
            incarnation: getrandom::u64()?,
            next_sequence: AtomicU64::new(1),
            reservations: AtomicU64::new(0),
            remembered: AtomicI64::new(0),
            held: AtomicI64::new(0),
            expired: AtomicU64::new(0),
            forgotten_early: AtomicU64::new(0),
            bound_reached: Default::default(),
            floor_above_ceiling: AtomicU64::new(0),
        })
    }

    fn fingerprint(&self, names: [&str; 3]) -> Fingerprint {
        let mut hasher = SipHasher13::new_with_key(&self.fingerprint_key);
        for name in names {
            hasher.write(name.as_bytes());
            // No name contains a zero byte.
            hasher.write_u8(0);
        }
        hasher.finish128().as_u128()
    }

    fn of_key(&self, key: KeyRef<'_>) -> Fingerprint {
        self.fingerprint([key.account(), key.model(), key.variant()])
    }

    fn reserve(&self, now: Timestamp, request: &Request<'_>) -> Result<Reserved, ReserveError> {
        let fingerprint = self.of_key(request.key);
        let answer = match self.keys.get_mut(&fingerprint) {
            Some(mut entry) => self.decide(now, fingerprint, &mut entry, request),
            None => self.reserve_at_new_key(now, fingerprint, request),
        }?;
        if let Err(denied) = answer.outcome
            && let Denial::Capacity(bound) = denied.denial
        {
            self.bound_reached[bound as usize].fetch_add(1, Ordering::Relaxed);
        }
        let reservation_id = answer.outcome.ok().map(|allowed| {
            let ticket = Ticket {
                number: allowed.number,
                admitted_at: allowed.admitted_at,
                ttl: allowed.ttl,
                reserved: allowed.reserved,
            };
            reservation_id::encode(&self.checksum_key, request.key, &ticket)
        });
        Ok(Reserved { answer, reservation_id })
    }

    /// Only an ALLOW makes a key.
    fn reserve_at_new_key(
        &self,
        now: Timestamp,
        fingerprint: Fingerprint,
        request: &Request<'_>,
    ) -> Result<Answer, ReserveError> {
        let mut fresh = self.fresh(now, request.key);
        let configured = fresh.resolved.configured;
        // First without a place, which only an ALLOW needs: what is denied for another reason must evict nobody.
        let answer = self.probe(now, &mut fresh, request)?;
        if answer.outcome.is_err_and(|denied| denied.denial != Denial::Capacity(Bound::Keys)) {
            return Ok(answer);
        }
        // Before the slot is locked: making room locks other slots.
        if let Err(bound) = self.make_room(now, configured) {
            let rules = self.rules(&fresh.resolved, &self.defaults);
            return Ok(fresh.state.refuse(&rules, request, bound));
        }
        match self.keys.entry(fingerprint) {
            Slot::Occupied(mut entry) => {
                self.room.give_back(configured);
                self.decide(now, fingerprint, entry.get_mut(), request)
            }
            Slot::Vacant(slot) => {
                let answer = self.decide(now, fingerprint, &mut fresh, request)?;
                if answer.outcome.is_ok() {
                    // The first look at whether the key is idle; each look sets the next.
                    fresh.due_at = fresh.due_at.min(now.after(WINDOW));
                    self.timers.insert(fresh.due_at, fingerprint);
                    self.count_floor_above_ceiling(&fresh.resolved);
                    slot.insert(fresh);
                } else {
                    self.room.give_back(configured);
                }
                Ok(answer)
            }
        }
    }

    /// What a key without a place would answer: a denial, and CAPACITY where it would have been an ALLOW.
    fn probe(&self, now: Timestamp, fresh: &mut Entry, request: &Request<'_>) -> Result<Answer, ReserveError> {
        let rules = self.rules(&fresh.resolved, &self.defaults);
        if let Some(denial) = fresh.resolved.refused {
            return Ok(fresh.state.forbid(&rules, request, denial));
        }
        let reserve = Reserve { request, request_id: None, most_reservations: 1 };
        let answer = fresh.state.reserve(now, &rules, &reserve, || Err(Bound::Keys));
        answer.map_err(|state::RequestIdTaken| ReserveError::RequestIdTaken)
    }

    fn decide(
        &self,
        now: Timestamp,
        fingerprint: Fingerprint,
        entry: &mut Entry,
        request: &Request<'_>,
    ) -> Result<Answer, ReserveError> {
        self.refresh(now, entry);
        if let Some(denial) = entry.resolved.refused {
            return Ok(self.call(fingerprint, entry, |state, rules| {
                state.advance(now, rules);
                state.forbid(rules, request, denial)
            }));
        }
        let reserve = Reserve {
            request,
            request_id: request.request_id.map(|id| self.fingerprint([id, "", ""])),
            most_reservations: usize::try_from(self.bounds.reservations_per_key).unwrap_or(usize::MAX),
        };
        self.call(fingerprint, entry, |state, rules| state.reserve(now, rules, &reserve, || self.draw()))
            .map_err(|state::RequestIdTaken| ReserveError::RequestIdTaken)
    }

    /// Draws a reservation's number, unless too many are live. The live ones are counted by [`MemoryStore::call`]; threads
    /// that draw at the same instant may exceed the bound by one each.
    fn draw(&self) -> Result<Number, Bound> {
        if self.reservations.load(Ordering::Relaxed) >= self.bounds.reservations {
            return Err(Bound::Reservations);
        }
        Ok(Number { incarnation: self.incarnation, sequence: self.next_sequence.fetch_add(1, Ordering::Relaxed) })
    }

    /// Runs `step` on the key's state under its rules, and counts what it changed.
    fn call<T>(&self, key: Fingerprint, entry: &mut Entry, step: impl FnOnce(&mut KeyState, &Rules<'_>) -> T) -> T {
        let before = Tally::of(&entry.state);
        let fallback = if entry.state.needs_fallback() { self.fallback(entry.key.as_ref()) } else { self.defaults };
        let rules = self.rules(&entry.resolved, &fallback);
        let result = step(&mut entry.state, &rules);
        self.count(before, &mut entry.state);
        let next = entry.state.next_timer().unwrap_or(Timestamp::MAX);
        if next < entry.due_at {
            entry.due_at = next;
            self.timers.insert(next, key);
        }
        result
    }

    fn count(&self, before: Tally, state: &mut KeyState) {
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
        if after.reservations >= before.reservations {
            self.reservations.fetch_add((after.reservations - before.reservations) as u64, Ordering::Relaxed);
        } else {
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

    fn rules<'a>(&'a self, resolved: &'a Resolved, fallback: &'a Figures) -> Rules<'a> {
        Rules {
            bounds: &resolved.bounds,
            law: &resolved.law,
            fallback,
            forecast: &self.forecast,
            incarnation: self.incarnation,
        }
    }

    fn of_model(&self, key: KeyRef<'_>) -> Fingerprint {
        self.fingerprint([key.model(), key.variant(), ""])
    }

    /// What requests of the key's model do, or the defaults.
    fn fallback(&self, key: KeyRef<'_>) -> Figures {
        self.models.get(&self.of_model(key)).map_or(self.defaults, |model| model.or(&self.defaults))
    }

    /// A key never seen before; not in the table.
    fn fresh(&self, now: Timestamp, key: KeyRef<'_>) -> Entry {
        let policy = self.policy.load();
        let resolved = policy.resolve(key, now);
        Entry {
            key: key.to_owned(),
            state: KeyState::new(now, key.phase_seconds(), &resolved.bounds),
            revision: policy.revision(),
            resolved,
            due_at: Timestamp::MAX,
            queued: false,
        }
    }

    /// Takes over what the policy says now (C8). A policy older than the one that the key has seen changes nothing.
    fn refresh(&self, now: Timestamp, entry: &mut Entry) {
        let policy = self.policy.load();
        if policy.revision() > entry.revision || now >= entry.resolved.valid_until {
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

    fn count_floor_above_ceiling(&self, resolved: &Resolved) {
        if resolved.floor_won != PerWindow::default() {
            self.floor_above_ceiling.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs `step` on the reservation that `id` names. Returns its key too, and whether the account is configured.
    fn end<T>(
        &self,
        now: Timestamp,
        id: &str,
        step: impl FnOnce(&mut KeyState, &Rules<'_>, &Ticket) -> Result<T, state::EndError>,
    ) -> Result<(T, LimitKey, bool), EndError> {
        let (key, ticket) = reservation_id::decode(&self.checksum_key, id).ok_or(EndError::Forged)?;
        let fingerprint = self.of_key(key.as_ref());
        // Only this process could make the id, so a key that is not here was evicted, with all that it remembered.
        let mut entry = self.keys.get_mut(&fingerprint).ok_or(EndError::TooLate)?;
        self.refresh(now, &mut entry);
        let result = self.call(fingerprint, &mut entry, |state, rules| step(state, rules, &ticket));
        let configured = entry.resolved.configured;
        drop(entry);
        match result {
            Ok(done) => Ok((done, key, configured)),
            Err(state::EndError::Ended) => Err(EndError::Ended),
            Err(state::EndError::TooLate) => Err(EndError::TooLate),
        }
    }

    fn book(
        &self,
        now: Timestamp,
        id: &str,
        step: impl FnOnce(&mut KeyState, &Rules<'_>, &Ticket) -> Result<state::Booked, state::EndError>,
    ) -> Result<Booked, EndError> {
        let (booked, key, configured) = self.end(now, id, step)?;
        if let Some(sample) = &booked.sample {
            let model = self.of_model(key.as_ref());
            if let Some(mut figures) = self.models.get_mut(&model) {
                figures.on_settled(sample);
            } else if self.models.len() < if configured { MOST_MODELS } else { MOST_MODELS / 2 } {
                self.models.entry(model).or_default().on_settled(sample);
            }
        }
        Ok(Booked { outcome: booked.outcome, clamped: booked.clamped, tokens: booked.tokens })
    }

    /// The key's windows, and how many of its reservations are live.
    fn windows(&self, now: Timestamp, key: KeyRef<'_>) -> (PerWindow<WindowStatus>, usize) {
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

    fn windows_of(&self, now: Timestamp, key: Fingerprint, entry: &mut Entry) -> PerWindow<WindowStatus> {
        self.refresh(now, entry);
        self.call(key, entry, |state, rules| {
            state.advance(now, rules);
            state.windows(rules)
        })
    }

    fn list(&self, now: Timestamp, query: &ListQuery) -> ListPage {
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

    /// What is due at a key; whether the key is to leave the table.
    fn on_due(&self, now: Timestamp, fingerprint: Fingerprint, entry: &mut Entry) -> bool {
        if entry.due_at > now {
            return false;
        }
        self.refresh(now, entry);
        entry.due_at = Timestamp::MAX;
        let (retention, idle_after) = self.call(fingerprint, entry, |state, rules| {
            state.advance(now, rules);
            (state.retention(rules), state.idle_after(rules))
        });
        if retention == Retention::Default {
            return true;
        }
        if retention == Retention::Idle && !entry.queued {
            entry.queued = true;
            self.room.queue(fingerprint, entry.resolved.configured);
        }
        // What could not be done at once is done in the next round.
        let at = entry.state.next_timer().unwrap_or(Timestamp::MAX).min(idle_after).max(now);
        if at < entry.due_at {
            entry.due_at = at;
            self.timers.insert(at, fingerprint);
        }
        false
    }

    /// Takes a place in the table for a key, evicting one that may go where the table is full.
    fn make_room(&self, now: Timestamp, configured: bool) -> Result<(), Bound> {
        self.room.take(configured, |fingerprint| {
            let mut outcome = Evicted::Gone;
            let evicted = self.keys.remove_if_mut(&fingerprint, |_, entry| {
                entry.queued = false;
                self.refresh(now, entry);
                let retention = self.call(fingerprint, entry, |state, rules| {
                    state.advance(now, rules);
                    state.retention(rules)
                });
                outcome = Evicted::Needed;
                retention != Retention::Needed
            });
            match evicted {
                Some((_, entry)) => Evicted::Yes { configured: self.on_evicted(entry) },
                None => outcome,
            }
        })
    }

    /// Counts what leaves with a key, and says whether its account is configured.
    fn on_evicted(&self, mut entry: Entry) -> bool {
        let before = Tally::of(&entry.state);
        while entry.state.forget_one() {}
        self.count(before, &mut entry.state);
        entry.resolved.configured
    }
}

fn at_ceiling(windows: &PerWindow<WindowStatus>) -> bool {
    windows.iter().any(|(_, status)| status.limit_tpm >= status.ceiling_tpm && status.ceiling_tpm > status.floor_tpm)
}

impl Store for MemoryStore {
    fn check_and_reserve(
        &self,
        now: Timestamp,
        request: &Request<'_>,
    ) -> impl Future<Output = Result<Reserved, ReserveError>> + Send {
        ready(self.reserve(now, request))
    }

    fn report_progress(
        &self,
        now: Timestamp,
        reservation_id: &str,
        generated_tokens: u64,
    ) -> impl Future<Output = Result<Booked, EndError>> + Send {
        ready(self.book(now, reservation_id, |state, rules, ticket| {
            state.report_progress(now, rules, ticket, generated_tokens)
        }))
    }

    fn settle(
        &self,
        now: Timestamp,
        reservation_id: &str,
        counts: SettleCounts,
    ) -> impl Future<Output = Result<Booked, EndError>> + Send {
        ready(self.book(now, reservation_id, |state, rules, ticket| state.settle(now, rules, ticket, &counts)))
    }

    fn release(
        &self,
        now: Timestamp,
        reservation_id: &str,
    ) -> impl Future<Output = Result<SettleOutcome, EndError>> + Send {
        let released = self.end(now, reservation_id, |state, rules, ticket| state.release(now, rules, ticket));
        ready(released.map(|(outcome, _, _)| outcome))
    }

    fn limits(&self, now: Timestamp, key: KeyRef<'_>) -> impl Future<Output = PerWindow<WindowStatus>> + Send {
        ready(self.windows(now, key).0)
    }

    fn list_limits(&self, now: Timestamp, query: &ListQuery) -> impl Future<Output = ListPage> + Send {
        ready(self.list(now, query))
    }

    fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    fn write_policy(
        &self,
        now: Timestamp,
        write: PolicyWrite,
    ) -> impl Future<Output = Result<PolicyWritten, WriteError>> + Send {
        let _writing = self.writing.lock();
        let written = self.policy.load().apply(write, now).map(|(policy, result)| {
            self.policy.store(Arc::new(policy));
            PolicyWritten { result, persisted: false }
        });
        ready(written)
    }

    fn on_tick(&self, now: Timestamp) {
        loop {
            let due = self.timers.take_due(now, TIMERS_AT_ONCE);
            if due.is_empty() {
                break;
            }
            for fingerprint in due {
                let gone = self.keys.remove_if_mut(&fingerprint, |_, entry| self.on_due(now, fingerprint, entry));
                if let Some((_, entry)) = gone {
                    let queued = entry.queued;
                    let configured = self.on_evicted(entry);
                    self.room.on_evicted(configured);
                    if queued {
                        self.room.on_queued_gone(configured);
                    }
                }
            }
        }
        self.room.clear_gone(|fingerprint| self.keys.get(&fingerprint).is_some_and(|entry| entry.queued));
    }

    fn stats(&self) -> Stats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let gauge = |gauge: &AtomicI64| u64::try_from(gauge.load(Ordering::Relaxed)).unwrap_or(0);
        let room = self.room.counts();
        Stats {
            keys: room.keys,
            unknown_account_keys: room.unknown,
            keys_evicted: room.evicted,
            reservations: count(&self.reservations),
            remembered: gauge(&self.remembered),
            held: Tokens { generated: gauge(&self.held), ..Tokens::default() },
            expired: count(&self.expired),
            bound_reached: Bound::ALL.map(|bound| count(&self.bound_reached[bound as usize])),
            forgotten_early: count(&self.forgotten_early),
            floor_above_ceiling: count(&self.floor_above_ceiling),
        }
    }
}
