//! The store that a fleet shares: each sidecar decides in its own memory, under what the shared ledger allots to it.
//!
//! Decisions are those of [`MemoryStore`]. What it may count of each limit is leased from a ledger on Redis or Valkey
//! (`crate::redis`): most decisions are local; one that does not fit the lease waits for one call, and no longer than
//! [`FleetSettings::timeout`]. `docs/decisions/0011-fleet-by-allotments.md` has the design, `docs/operations.md` what an operator
//! should know.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use tidegate_core::ask::Request;
use tidegate_core::decision::{ServiceTier, SettleOutcome, WindowStatus};
use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::key::KeyRef;
use tidegate_core::policy::{Degrade, Policy, PolicyWrite};
use tidegate_core::pressure::Report;
use tidegate_core::state::{Beyond, SettleCounts};
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Tokens};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::durable::Now;
use crate::memory::part::Part;
use crate::memory::{Fingerprinted, MemoryBounds, MemoryStore};
use crate::redis::{SLOTS, slot};
use crate::timers::Fingerprint;
use crate::{
    Author, Booked, ChangePage, ChangeQuery, DeploymentPressure, EndError, KeyExplained, ListPage, ListQuery,
    NotDurable, PolicyError, PolicyWritten, ReportError, ReserveError, Reserved, Reset, ResetDone, Stats, Store,
};

mod address;
mod clerk;
mod decision;
mod desk;
mod elsewhere;
mod lease;
mod link;
mod policy;
mod request_id;
mod reset;
mod stats;
#[cfg(test)]
mod tests;

pub use address::{NoAddress, StoreAddress};
pub use stats::FleetStats;

use clerk::Clerk;
use decision::Ledger;
use elsewhere::{Elsewhere, Errand, Verb};
use lease::Lease;
use link::Status;
use policy::{Job, SharedPolicy};
use request_id::RequestIds;
use request_id::claim::Write;
use stats::Counters;

/// Keys that wait for their report to be made; one more is decided without.
const MOST_QUEUED: usize = 8_192;
/// What changes without a decision is told so much later, together with what follows.
const SETTLED_LATER: Duration = Duration::from_millis(200);

/// When the ledger is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreMode {
    /// For what the next moments need: most decisions are local.
    #[default]
    Leased,
    /// For each decision.
    Strict,
}

/// How a sidecar shares limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetSettings {
    /// Where the ledger is.
    pub address: StoreAddress,
    /// PEM certificates of those who may sign the certificate of a server; default: those that the system trusts.
    pub roots: Option<Vec<u8>>,
    /// When it is asked; default leased.
    pub mode: StoreMode,
    /// Longest that a decision waits for it; default 5 ms, 1 ms to 1 s.
    pub timeout: Duration,
    /// What decides while it is away, for accounts whose tier says nothing; default share.
    pub degrade: Degrade,
    /// How many sidecars there are, at least; default 0: not known.
    pub expected_sidecars: u64,
}

impl FleetSettings {
    /// The defaults, with the ledger at `address`.
    #[must_use]
    pub fn at(address: StoreAddress) -> Self {
        Self {
            address,
            roots: None,
            mode: StoreMode::default(),
            timeout: Duration::from_millis(5),
            degrade: Degrade::default(),
            expected_sidecars: 0,
        }
    }
}

/// What the data of one slot are known to be.
#[derive(Debug, Default)]
struct Slot {
    life: AtomicU64,
    /// From when on anything is granted, microseconds; `u64::MAX`: the life is not known.
    ready_at: AtomicU64,
}

type Leases = DashMap<Fingerprint, Mutex<Lease>, BuildHasherDefault<Fingerprinted>>;

/// What decisions and the clerk share.
struct Desk {
    table: MemoryStore,
    settings: FleetSettings,
    leases: Leases,
    due: Mutex<BinaryHeap<Reverse<(Timestamp, Fingerprint)>>>,
    queue: mpsc::Sender<Fingerprint>,
    slots: Vec<Slot>,
    status: Status,
    /// Sidecars last seen.
    sidecars: AtomicU64,
    now: Now,
    counters: Counters,
    policy: SharedPolicy,
    elsewhere: Elsewhere,
    request_ids: RequestIds,
}

/// The store that a fleet shares.
pub struct FleetStore {
    desk: Arc<Desk>,
    clerk: Clerk,
}

/// What the clerk is told to do.
struct Orders {
    /// Keys whose reports are to be made.
    keys: mpsc::Receiver<Fingerprint>,
    /// Writes of policy.
    writes: mpsc::Receiver<Job>,
    /// Calls on reservations that others admitted.
    errands: mpsc::Receiver<Errand>,
    /// What is to be written of request ids.
    request_ids: mpsc::Receiver<Write>,
}

impl FleetStore {
    /// An empty store that shares its limits and its policy as `settings` say, at the time of `now`. `policy` is the file's: an
    /// empty ledger begins with it, and it decides until another one is found. Waits for the ledger for a
    /// while (`patience`), so that its first decision finds it; where it does not answer by then, [`Degrade`] decides.
    ///
    /// # Errors
    /// The system's: it has no randomness or no thread to give; or the address is none that can be opened.
    pub fn start(
        bounds: MemoryBounds,
        forecast: ForecastDefaults,
        policy: Policy,
        settings: FleetSettings,
        now: Now,
        patience: Duration,
    ) -> std::io::Result<Self> {
        let opener = settings
            .address
            .opener(settings.roots.as_deref())
            .map_err(|error| std::io::Error::other(link::described(&error)))?;
        let table = MemoryStore::new(bounds, forecast, policy.clone()).map_err(std::io::Error::other)?;
        let (desk, orders) = Desk::new(table, policy, settings, now);
        let desk = Arc::new(desk);
        let clerk = Clerk::start(Arc::clone(&desk), opener, orders, patience)?;
        Ok(Self { desk, clerk })
    }

    /// Tells the ledger what is left, gives back what is not used, and lets go of it. Waits for `patience` at most.
    pub fn stop(&self, patience: Duration) {
        self.clerk.stop(patience);
    }
}

fn soon(after: Duration) -> Instant {
    Instant::now() + after
}

impl Desk {
    /// A desk, and what is to be done for it.
    fn new(mut table: MemoryStore, described: Policy, settings: FleetSettings, now: Now) -> (Self, Orders) {
        table.law_is_shared = true;
        let (queue, keys) = mpsc::channel(MOST_QUEUED);
        let (policy, writes) = SharedPolicy::new(described);
        let (elsewhere, errands) = Elsewhere::new();
        let (request_ids, claims) = RequestIds::new();
        let slot = |_| Slot { life: AtomicU64::new(0), ready_at: AtomicU64::new(u64::MAX) };
        let desk = Self {
            table,
            settings,
            leases: DashMap::with_hasher_and_shard_amount(BuildHasherDefault::default(), 256),
            due: Mutex::default(),
            queue,
            slots: (0..SLOTS).map(slot).collect(),
            status: Status::default(),
            sidecars: AtomicU64::new(0),
            now,
            counters: Counters::default(),
            policy,
            elsewhere,
            request_ids,
        };
        (desk, Orders { keys, writes, errands, request_ids: claims })
    }

    /// Runs `step` on the key's lease, which is made where there is none. `None` where there are as many as there may be.
    fn on_lease<T>(
        &self,
        now: Timestamp,
        fingerprint: Fingerprint,
        key: KeyRef<'_>,
        step: impl FnOnce(&mut Lease) -> T,
    ) -> Option<T> {
        if let Some(lease) = self.leases.get(&fingerprint) {
            return Some(step(&mut lease.lock()));
        }
        let most = usize::try_from(self.table.bounds().keys).unwrap_or(usize::MAX);
        let is_known = self.table.policy().accounts().contains_key(key.account());
        if self.leases.len() >= if is_known { most } else { most / 2 } && !self.table.has(fingerprint) {
            return None;
        }
        let fresh = || Mutex::new(Lease::new(key.to_owned(), now));
        let lease = self.leases.entry(fingerprint).or_insert_with(fresh).downgrade();
        let result = step(&mut lease.lock());
        Some(result)
    }

    fn is_ready(&self, now: Timestamp, key: KeyRef<'_>) -> bool {
        let slot = usize::try_from(slot(key)).unwrap_or(0);
        self.status.answers() && self.slots[slot].ready_at.load(Ordering::Relaxed) <= now.as_micros()
    }

    /// The key's windows, as a request of this service tier meets them here.
    fn windows(&self, now: Timestamp, key: KeyRef<'_>, tier: ServiceTier) -> PerWindow<WindowStatus> {
        let part = match self.leases.get(&self.table.of_key(key)) {
            Some(lease) => {
                let lease = lease.lock();
                let ledger = if self.is_ready(now, key) { Ledger::HasNoMore } else { Ledger::Away };
                self.part(now, &lease, lease.allotted(now), ledger)
            }
            None => Part::of(Tokens::default(), Tokens::default(), Beyond::Ask),
        };
        self.table.windows_of_part(now, key, tier, &part)
    }

    /// Has the key's report made; `false` where too many wait for theirs.
    fn enqueue(&self, fingerprint: Fingerprint, lease: &mut Lease) -> bool {
        if self.queue.try_send(fingerprint).is_ok() {
            return true;
        }
        self.counters.queue_full.fetch_add(1, Ordering::Relaxed);
        drop(lease.finish((self.now)()));
        false
    }

    /// Something was booked on the reservation that `id` names: the ledger is to hear of it. In `strict` it has, when this returns, if it
    /// answers in time; else with what follows, or at once where more was used than was reserved.
    async fn on_booked(&self, id: &str, used: &Tokens) {
        let Some((key, ticket)) = self.table.named_by(id) else { return };
        let (now, key) = ((self.now)(), key.as_ref());
        let is_debt = used.iter().any(|(window, used)| *used > ticket.reserved[window]);
        self.on_news(now, key, if is_debt { Duration::ZERO } else { SETTLED_LATER });
        if self.settings.mode == StoreMode::Strict {
            self.tell(now, key, soon(self.settings.timeout)).await;
        }
    }

    /// Tells the ledger what has changed, and waits for its answer, if it comes by then.
    async fn tell(&self, now: Timestamp, key: KeyRef<'_>, until: Instant) {
        // A report that is on its way may have been made before.
        for _ in 0..2 {
            let Some(told) = self.question(now, key, Lease::has_news) else { return };
            if tokio::time::timeout_at(until, told).await.is_err() {
                return;
            }
        }
    }

    /// The ledger's next answer, where it is ready and the lease is one that `asks`; `None` also where too many wait for theirs.
    fn question(
        &self,
        now: Timestamp,
        key: KeyRef<'_>,
        asks: impl FnOnce(&Lease) -> bool,
    ) -> Option<oneshot::Receiver<()>> {
        if !self.is_ready(now, key) {
            return None;
        }
        let fingerprint = self.table.of_key(key);
        let asked = self.on_lease(now, fingerprint, key, |lease| {
            let (told, is_first) = asks(lease).then(|| lease.on_question())?;
            (!is_first || self.enqueue(fingerprint, lease)).then_some(told)
        });
        asked.flatten()
    }

    /// What the key has has changed without a decision.
    fn on_news(&self, now: Timestamp, key: KeyRef<'_>, wait: Duration) {
        let fingerprint = self.table.of_key(key);
        if let Some(Some(at)) = self.on_lease(now, fingerprint, key, |lease| lease.on_news(now, wait)) {
            self.due.lock().push(Reverse((at, fingerprint)));
        }
    }
}

impl Store for FleetStore {
    fn check_and_reserve(
        &self,
        now: Timestamp,
        request: &Request<'_>,
    ) -> impl Future<Output = Result<Reserved, ReserveError>> + Send {
        self.desk.check_and_reserve(now, request)
    }

    async fn report_progress(
        &self,
        now: Timestamp,
        reservation_id: &str,
        generated_tokens: u64,
    ) -> Result<Booked, EndError> {
        if let Some(done) = self.desk.elsewhere(now, reservation_id, Verb::Progress(generated_tokens)).await {
            return done;
        }
        let booked = self.desk.table.report_progress(now, reservation_id, generated_tokens).await?;
        self.desk.on_booked(reservation_id, &booked.tokens).await;
        Ok(booked)
    }

    async fn settle(&self, now: Timestamp, reservation_id: &str, counts: SettleCounts) -> Result<Booked, EndError> {
        let SettleCounts { prompt_tokens, cached_prompt_tokens, generated_tokens } = counts;
        let verb = Verb::Settle(prompt_tokens, cached_prompt_tokens, generated_tokens);
        if let Some(done) = self.desk.elsewhere(now, reservation_id, verb).await {
            return done;
        }
        let booked = self.desk.table.settle(now, reservation_id, counts).await?;
        self.desk.on_booked(reservation_id, &booked.tokens).await;
        Ok(booked)
    }

    async fn release(&self, now: Timestamp, reservation_id: &str) -> Result<SettleOutcome, EndError> {
        if let Some(done) = self.desk.elsewhere(now, reservation_id, Verb::Release).await {
            return done.map(|booked| booked.outcome);
        }
        let outcome = self.desk.table.release(now, reservation_id).await?;
        self.desk.on_booked(reservation_id, &Tokens::default()).await;
        Ok(outcome)
    }

    async fn limits(&self, now: Timestamp, key: KeyRef<'_>) -> PerWindow<WindowStatus> {
        self.desk.windows(now, key, ServiceTier::Standard)
    }

    fn explain_limit(&self, now: Timestamp, key: KeyRef<'_>) -> impl Future<Output = KeyExplained> + Send {
        self.desk.table.explain_limit(now, key)
    }

    fn list_limits(&self, now: Timestamp, query: &ListQuery) -> impl Future<Output = ListPage> + Send {
        self.desk.table.list_limits(now, query)
    }

    fn report_pressure(
        &self,
        now: Timestamp,
        report: &Report<'_>,
    ) -> impl Future<Output = Result<(), ReportError>> + Send {
        self.desk.table.report_pressure(now, report)
    }

    fn deployments(&self, now: Timestamp, most: usize) -> Vec<DeploymentPressure> {
        self.desk.table.deployments(now, most)
    }

    fn policy(&self) -> Arc<Policy> {
        self.desk.table.policy()
    }

    /// In the shared store first, and then here; the other sidecars look for it a few times a second.
    fn write_policy(
        &self,
        now: Timestamp,
        write: PolicyWrite,
        author: Author,
        dry_run: bool,
    ) -> impl Future<Output = Result<PolicyWritten, PolicyError>> + Send {
        self.desk.write_policy(now, write, author, dry_run)
    }

    /// For the whole fleet. Known is a key of which this sidecar knows, or of which the fleet's limits are above their floors;
    /// dropped tokens are those that were held on this sidecar.
    fn reset_limit(
        &self,
        now: Timestamp,
        reset: &Reset,
        author: Author,
        dry_run: bool,
    ) -> impl Future<Output = Result<Option<ResetDone>, NotDurable>> + Send {
        self.desk.reset_limit(now, reset, author, dry_run)
    }

    fn changes(&self, query: &ChangeQuery) -> impl Future<Output = ChangePage> + Send {
        self.desk.table.changes(query)
    }

    fn on_tick(&self, now: Timestamp) {
        self.desk.table.on_tick(now);
    }

    fn stats(&self) -> Stats {
        Stats { fleet: Some(self.desk.stats()), ..self.desk.table.stats() }
    }
}
