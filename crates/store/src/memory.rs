//! The memory store: a table of keys, one lock taken for each decision, nothing on disk.
//!
//! Keys are found by a keyed 128-bit fingerprint of their names, so that nobody can make two collide or fill one shard. The
//! shards are many and small: the longest lock is one key's work, or one shard's growth.

use std::future::{Future, ready};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;
use siphasher::sip128::{Hasher128, SipHasher13};
use tidegate_core::ask::Request;
use tidegate_core::decision::{Bound, SettleOutcome, WindowStatus};
use tidegate_core::forecast::{ForecastDefaults, Lengths, Model, Prior};
use tidegate_core::key::{KeyRef, MAX_NAME_BYTES};
use tidegate_core::law::history;
use tidegate_core::policy::{Policy, PolicyWrite};
use tidegate_core::pressure::{Deployment, Report};
use tidegate_core::reservation::Reservation;
use tidegate_core::state::SettleCounts;
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens};

use crate::durable::layout::Endings;
use crate::reservation_id::{ChecksumKey, ChecksumKeys};
use crate::timers::{Fingerprint, Timers};
use crate::{
    Author, Booked, ChangeLog, ChangePage, ChangeQuery, DeploymentPressure, EndError, KeyExplained, ListPage,
    ListQuery, NotDurable, PolicyError, PolicyWritten, ReportError, ReserveError, Reserved, Reset, ResetDone, Stats,
    Store,
};

mod denials;
mod end;
pub(crate) mod entry;
mod evict;
mod explain;
pub(crate) mod marks;
pub(crate) mod packed;
pub(crate) mod part;
pub(crate) mod policy;
mod pressure;
mod read;
mod reserve;
mod reset;
mod room;
mod shadow;
pub(crate) mod slot;
#[cfg(test)]
mod tests;
mod write;

use entry::Entry;
use marks::Marks;
use policy::PublishedPolicy;
use pressure::{Deployments, MOST_DEPLOYMENTS};
use room::Room;
use slot::Slot;

/// What the table takes for a key, beside its entry: its room is up to twice what is in it, and three times while it grows.
const TABLE_BYTES: u64 = 3 * (size_of::<(Fingerprint, Slot)>() as u64 + 1);
/// Shards of the table: at a million keys, one grows by a thousand.
const SHARDS: usize = 1_024;
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
    /// every reservation live, everything remembered, every deployment reported on by as many as may.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        // 512 sub-buckets of 24 bytes and 64 seconds of 136; the knots of live streams, and the course of one that begins; 75
        // minutes and 60 seconds of denials; the last changes of the limits; what is known of answers. Trees: nodes are at worst half empty.
        let names = 3 * MAX_NAME_BYTES as u64;
        let lazy = denials::MOST_BYTES as u64 + history::MOST_BYTES as u64;
        let forecast = Lengths::MOST_BYTES as u64 + size_of::<Prior>() as u64;
        let key = size_of::<Entry>() as u64
            + TABLE_BYTES
            + 512 * 24
            + 64 * 136
            + 1_024
            + 216
            + 75 * 24
            + lazy
            + forecast
            + names;
        // A reservation and its place in its tree, its three timers, and two knots of its fading; of one that ended, its last
        // state.
        let reservation = Reservation::MOST_BYTES as u64 + 860;
        let remembered = size_of::<Reservation>() as u64 + 300;
        let deployment = (Deployment::MOST_BYTES + 2 * MAX_NAME_BYTES) as u64;
        let sum = [
            (self.keys, key),
            (self.reservations, reservation),
            (self.remembered, remembered),
            (MOST_DEPLOYMENTS as u64, deployment),
        ];
        sum.into_iter().fold(0, |sum, (count, bytes)| sum.saturating_add(count.saturating_mul(bytes)))
    }
}

/// The fingerprint is a hash already.
#[derive(Default)]
pub(crate) struct Fingerprinted(u64);

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

/// What the requests of a model do.
pub(crate) struct KnownModel {
    pub(crate) figures: Model,
    /// Whether it changed since the disk was told.
    pub(crate) changed: bool,
}

/// 16 bytes that nobody can guess.
pub(crate) fn secret() -> Result<[u8; 16], getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map(|()| bytes)
}

/// The memory store.
pub struct MemoryStore {
    /// Boxed: a table has up to twice the room that its entries take, and moves them as it grows.
    pub(crate) keys: DashMap<Fingerprint, Slot, BuildHasherDefault<Fingerprinted>>,
    pub(crate) models: DashMap<Fingerprint, KnownModel, BuildHasherDefault<Fingerprinted>>,
    deployments: Deployments,
    pub(crate) policy: PublishedPolicy,
    /// Held while policy is written, so that no write is lost, and none is there without its record.
    pub(crate) writing: Mutex<ChangeLog>,
    timers: Timers,
    room: Room,
    bounds: MemoryBounds,
    forecast: ForecastDefaults,
    defaults: Prior,
    /// Whether the law's epochs are closed elsewhere.
    pub(crate) law_is_shared: bool,
    fingerprint_key: [u8; 16],
    pub(crate) checksum_keys: ArcSwap<ChecksumKeys>,
    pub(crate) incarnation: u64,
    /// Processes before this one that were killed.
    pub(crate) endings: Endings,
    next_sequence: AtomicU64,
    next_shadow: AtomicU64,
    reservations: AtomicU64,
    remembered: AtomicI64,
    held: AtomicI64,
    expired: AtomicU64,
    forgotten_early: AtomicU64,
    bound_reached: [AtomicU64; Bound::ALL.len()],
    floor_above_ceiling: AtomicU64,
    /// For the disk; `None` where there is none.
    pub(crate) marks: Option<Marks>,
    /// Bytes on disk that count.
    pub(crate) disk_live: AtomicU64,
}

impl MemoryStore {
    /// An empty store under `policy`, with secrets of its own.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn new(bounds: MemoryBounds, forecast: ForecastDefaults, policy: Policy) -> Result<Self, getrandom::Error> {
        Self::with_secrets(bounds, forecast, policy, (secret()?, ChecksumKey::new(secret()?)), 0)
    }

    /// As [`MemoryStore::new`], with the secrets of an earlier process, of fingerprints and of checksums, and room for about so
    /// many keys.
    pub(crate) fn with_secrets(
        bounds: MemoryBounds,
        forecast: ForecastDefaults,
        policy: Policy,
        (fingerprint_key, checksum_key): ([u8; 16], ChecksumKey),
        keys: usize,
    ) -> Result<Self, getrandom::Error> {
        Ok(Self {
            keys: DashMap::with_capacity_and_hasher_and_shard_amount(keys, BuildHasherDefault::default(), SHARDS),
            models: DashMap::with_hasher(BuildHasherDefault::default()),
            deployments: Deployments::default(),
            policy: PublishedPolicy::new(policy),
            writing: Mutex::default(),
            timers: Timers::default(),
            room: Room::new(bounds.keys),
            bounds,
            forecast,
            defaults: Prior::from_defaults(&forecast),
            law_is_shared: false,
            fingerprint_key,
            checksum_keys: ArcSwap::from_pointee(ChecksumKeys::from(checksum_key)),
            incarnation: getrandom::u64()?,
            next_sequence: AtomicU64::new(1),
            next_shadow: AtomicU64::new(1),
            reservations: AtomicU64::new(0),
            remembered: AtomicI64::new(0),
            held: AtomicI64::new(0),
            expired: AtomicU64::new(0),
            forgotten_early: AtomicU64::new(0),
            bound_reached: Default::default(),
            floor_above_ceiling: AtomicU64::new(0),
            marks: None,
            disk_live: AtomicU64::new(0),
            endings: Endings::default(),
        })
    }

    fn fingerprint(&self, names: [&str; 3]) -> Fingerprint {
        /// Names that are together no longer are hashed in one piece, which costs half as much.
        const SHORT: usize = 128;
        let mut hasher = SipHasher13::new_with_key(&self.fingerprint_key);
        let mut together = [0; SHORT];
        // No name contains a zero byte.
        let mut rest = Some(&mut together[..]);
        for name in names {
            rest = rest.and_then(|rest| {
                let (place, rest) = rest.split_at_mut_checked(name.len() + 1)?;
                place[..name.len()].copy_from_slice(name.as_bytes());
                Some(rest)
            });
        }
        if let Some(unused) = rest.map(|rest| rest.len()) {
            return hasher.hash(&together[..SHORT - unused]).as_u128();
        }
        for name in names {
            hasher.write(name.as_bytes());
            hasher.write_u8(0);
        }
        hasher.finish128().as_u128()
    }

    fn settled(&self, now: Timestamp, reservation_id: &str, counts: &SettleCounts) -> Result<Booked, EndError> {
        self.book(now, reservation_id, |state, rules, ticket| state.settle(now, rules, ticket, counts))
    }

    /// What is bounded.
    pub(crate) const fn bounds(&self) -> &MemoryBounds {
        &self.bounds
    }

    /// Keys in the table.
    pub(crate) fn keys_in_table(&self) -> u64 {
        self.room.counts().keys
    }

    pub(crate) fn of_key(&self, key: KeyRef<'_>) -> Fingerprint {
        self.fingerprint([key.account(), key.model(), key.variant()])
    }
}

impl Store for MemoryStore {
    fn check_and_reserve(
        &self,
        now: Timestamp,
        request: &Request<'_>,
    ) -> impl Future<Output = Result<Reserved, ReserveError>> + Send {
        ready(self.reserve(now, request))
    }

    fn check_and_reserve_now(&self, now: Timestamp, request: &Request<'_>) -> Option<Result<Reserved, ReserveError>> {
        Some(self.reserve(now, request))
    }

    fn settle_now(
        &self,
        now: Timestamp,
        reservation_id: &str,
        counts: SettleCounts,
    ) -> Option<Result<Booked, EndError>> {
        Some(self.settled(now, reservation_id, &counts))
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
        ready(self.settled(now, reservation_id, &counts))
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

    fn explain_limit(&self, now: Timestamp, key: KeyRef<'_>) -> impl Future<Output = KeyExplained> + Send {
        ready(self.explain(now, key))
    }

    fn list_limits(&self, now: Timestamp, query: &ListQuery) -> impl Future<Output = ListPage> + Send {
        ready(self.list(now, query))
    }

    fn report_pressure(
        &self,
        now: Timestamp,
        report: &Report<'_>,
    ) -> impl Future<Output = Result<(), ReportError>> + Send {
        ready(self.report(now, report))
    }

    fn deployments(&self, now: Timestamp, most: usize) -> Vec<DeploymentPressure> {
        self.busiest(now, most)
    }

    fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    fn write_policy(
        &self,
        now: Timestamp,
        write: PolicyWrite,
        author: Author,
        dry_run: bool,
    ) -> impl Future<Output = Result<PolicyWritten, PolicyError>> + Send {
        self.write(now, write, author, dry_run)
    }

    fn reset_limit(
        &self,
        now: Timestamp,
        reset: &Reset,
        author: Author,
        dry_run: bool,
    ) -> impl Future<Output = Result<Option<ResetDone>, NotDurable>> + Send {
        ready(Ok(self.reset(now, reset, author, dry_run)))
    }

    fn changes(&self, query: &ChangeQuery) -> impl Future<Output = ChangePage> + Send {
        ready(self.writing.lock().page(query))
    }

    fn on_tick(&self, now: Timestamp) {
        loop {
            let due = self.timers.take_due(now, TIMERS_AT_ONCE);
            if due.is_empty() {
                break;
            }
            for fingerprint in due {
                let gone = self.keys.remove_if_mut(&fingerprint, |_, slot| {
                    if !slot.is_due(now) {
                        return false;
                    }
                    let is_gone = self.on_due(now, fingerprint, slot.awake(self));
                    if !is_gone {
                        slot.lull(now);
                    }
                    is_gone
                });
                if let Some((_, slot)) = gone {
                    let queued = slot.is_queued();
                    let configured = self.on_evicted(fingerprint, slot);
                    self.room.on_evicted(configured);
                    if queued {
                        self.room.on_queued_gone(configured);
                    }
                }
            }
        }
        self.room.clear_gone(|fingerprint| self.keys.get(&fingerprint).is_some_and(|slot| slot.is_queued()));
        self.sweep_deployments(now);
    }

    fn stats(&self) -> Stats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let gauge = |gauge: &AtomicI64| u64::try_from(gauge.load(Ordering::Relaxed)).unwrap_or(0);
        let room = self.room.counts();
        let [deployments, deployments_full, reporters_full] = self.deployments.counts();
        Stats {
            deployments,
            deployments_full,
            reporters_full,
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
            disk: None,
            fleet: None,
        }
    }
}
