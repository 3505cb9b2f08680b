//! The durable store: the memory store, and a thread that writes what it holds behind to a directory.
//!
//! Decisions are those of [`MemoryStore`] and never touch the disk. What operators write is on disk before it acts. Keys are
//! written when they change, at most a second late; [`OpenDirectory`] reads them back.
//!
//! `docs/storage.md` says what is on disk, and what to do about it.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate_core::ask::Request;
use tidegate_core::decision::{SettleOutcome, WindowStatus};
use tidegate_core::forecast::ForecastDefaults;
use tidegate_core::key::KeyRef;
use tidegate_core::policy::{Policy, PolicyWrite};
use tidegate_core::pressure::Report;
use tidegate_core::state::SettleCounts;
use tidegate_core::time::Timestamp;
use tidegate_core::window::PerWindow;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use crate::memory::{MemoryBounds, MemoryStore, secret};
use crate::reservation_id::ChecksumKey;
use crate::{
    Author, Booked, Change, ChangePage, ChangeQuery, DeploymentPressure, EndError, KeyExplained, ListPage, ListQuery,
    NotDurable, PolicyError, PolicyWritten, ReportError, ReserveError, Reserved, Reset, ResetDone, Stats, Store,
};

mod batch;
mod directory;
mod engine;
mod keys;
pub(crate) mod layout;
mod pace;
mod packs;
mod recover;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

pub use directory::OpenError;

use batch::Batch;
use directory::{Directory, Newest};
use engine::Engine;
use layout::{Progress, Secrets};
use writer::{Done, Writer};

/// How long an operator's write waits for the disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time that the store shares with whoever serves it.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What is known of the disk, and what it has done since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Everything up to this instant is on disk.
    pub durable_at: Timestamp,
    /// How long ago that is.
    pub late: Duration,
    /// Whether it is more than two seconds ago, or the last attempt to write came to nothing.
    pub degraded: bool,
    /// Why it did.
    pub failure: Option<String>,
    /// Batches written.
    pub batches: u64,
    /// Keys in them; one counts in each batch that it is in.
    pub keys_written: u64,
    /// Bytes in them, before the engine makes more of them.
    pub bytes_written: u64,
    /// Attempts that came to nothing.
    pub failures: u64,
    /// How long the last batch took.
    pub last_batch: Duration,
    /// Bytes that the directory takes, as of the last batch.
    pub disk_bytes: u64,
}

/// A directory that was read.
pub struct OpenDirectory {
    table: Arc<MemoryStore>,
    engine: Engine,
    directory: Directory,
    /// Where the last process stopped; `None` where there was none.
    last: Option<Progress>,
    newest: Timestamp,
    differences: Vec<String>,
    note: Newest,
    missing: u64,
    batches: VecDeque<(u32, u64)>,
    /// The oldest record of the audit log on disk.
    first_change: u64,
}

impl OpenDirectory {
    /// Opens the directory at `path`, or makes it, and reads everything in it. `described` is the policy of the file: it seeds a
    /// new directory; of one that has a policy, it gives what nobody can write (law profiles, what happens to unknown
    /// accounts). `wall` is the wall clock.
    ///
    /// # Errors
    /// [`OpenError`]; nothing that was there has changed.
    pub fn open(
        path: &Path,
        bounds: MemoryBounds,
        forecast: ForecastDefaults,
        described: &Policy,
        wall: Timestamp,
    ) -> Result<Self, OpenError> {
        let directory = Directory::lock(path)?;
        let mut engine = directory.open_engine()?;
        let secrets = match recover::secrets(&engine)? {
            Some(secrets) => secrets,
            None if directory.is_known() => return Err(OpenError::Lost { path: path.to_owned() }),
            None => {
                let secrets = Secrets {
                    version: layout::VERSION,
                    fingerprint: secret().map_err(OpenError::Random)?,
                    checksum: secret().map_err(OpenError::Random)?,
                };
                recover::seed(&mut engine, &secrets, described)?;
                secrets
            }
        };
        directory.make_known()?;
        let policy = recover::policy(&engine, described)?;
        let differences = crate::policy_difference::between(described, &policy, "the data directory");
        let (log, first_change) = recover::changes(&engine)?;
        let (note, noted) = directory.newest()?;
        let (last, endings) = recover::endings(&mut engine)?;
        let missing = noted.saturating_sub(last.map_or(0, |last| last.batches));
        let checksum = ChecksumKey::new(secrets.checksum);
        let keys = last.map_or(0, |last| usize::try_from(last.keys.min(bounds.keys)).unwrap_or(0));
        let table = MemoryStore::with_secrets(bounds, forecast, policy, (secrets.fingerprint, checksum), keys);
        let mut table = table.map_err(OpenError::Random)?;
        (table.endings, table.marks) = (endings, Some(crate::memory::marks::Marks::default()));
        *table.writing.get_mut() = log;
        recover::models(&engine, &table)?;
        let durable_at = last.map_or(Timestamp::ZERO, |last| last.durable_at);
        let found = recover::keys(&engine, &table, wall.max(durable_at))?;
        let (newest, batches) = (found.newest.max(durable_at), found.batches);
        Ok(Self {
            table: Arc::new(table),
            engine,
            directory,
            last,
            newest,
            differences,
            note,
            missing,
            batches,
            first_change,
        })
    }

    /// The newest instant of which something is on disk: time goes on from there, if the wall clock is behind (C15).
    #[must_use]
    pub const fn newest(&self) -> Timestamp {
        self.newest
    }

    /// Whether another process was here before.
    #[must_use]
    pub const fn had_state(&self) -> bool {
        self.last.is_some()
    }

    /// Batches that were on disk once and are no longer: a file was cut off, altered or taken away. What is here is as it was
    /// before them.
    #[must_use]
    pub const fn missing_batches(&self) -> u64 {
        self.missing
    }

    /// Whether the last process stopped in good order, so that nothing is missing.
    #[must_use]
    pub fn was_stopped(&self) -> bool {
        self.last.is_none_or(|last| last.stopped)
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.table.policy.load_full()
    }

    /// What the file says otherwise than the policy in force, one line for each entry.
    #[must_use]
    pub fn differences(&self) -> &[String] {
        &self.differences
    }

    /// Keys, and live reservations.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let Stats { keys, reservations, .. } = self.table.stats();
        (keys, reservations)
    }

    /// Starts writing behind, at the time of `now`, which is never before [`OpenDirectory::newest`].
    ///
    /// # Errors
    /// The system's: there is no thread to be had.
    pub fn start(self, now: Now) -> std::io::Result<DurableStore> {
        let Self { table, engine, directory, last, newest, note, missing, batches: log, first_change, .. } = self;
        let batches = last.map_or(0, |last| last.batches) + missing;
        let progress =
            Progress { durable_at: newest, incarnation: table.incarnation, stopped: false, batches, keys: 0 };
        let path = directory.engine_path();
        let writer = Writer::start(Arc::clone(&table), engine, path, Arc::clone(&now), progress, note, log)?;
        let turn = Arc::new(Mutex::new(Turn { first_on_disk: first_change }));
        Ok(DurableStore { table, writer, turn, now, _directory: directory })
    }
}

/// Whoever has it writes policy; what is known to him alone.
struct Turn {
    /// The oldest record of the audit log that is on disk.
    first_on_disk: u64,
}

impl Turn {
    /// The records that the log no longer keeps and that are on disk.
    fn take_gone(&mut self, first: u64) -> Range<u64> {
        let gone = self.first_on_disk..first;
        self.first_on_disk = first;
        gone
    }
}

/// The durable store.
pub struct DurableStore {
    table: Arc<MemoryStore>,
    writer: Writer,
    turn: Arc<Mutex<Turn>>,
    now: Now,
    /// Locked for as long as this lives.
    _directory: Directory,
}

impl DurableStore {
    /// Writes what is left, and that nothing is missing. What is done afterwards is lost. Waits for `patience` at most.
    ///
    /// # Errors
    /// Why not everything is on disk, for people.
    pub fn stop(&self, patience: Duration) -> Result<(), String> {
        self.writer.stop(patience)
    }

    async fn turn(&self) -> Result<OwnedMutexGuard<Turn>, NotDurable> {
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.turn).lock_owned()).await;
        turn.map_err(|_| NotDurable::Nothing(format!("other writes have waited for the disk for {PATIENCE:?}")))
    }

    /// Waits until `writes` are on disk; then, on the disk's thread and whether somebody still waits or not, `then` is done.
    async fn commit(
        &self,
        writes: Batch,
        with_changes: bool,
        then: impl FnOnce() + Send + 'static,
    ) -> Result<(), NotDurable> {
        let (tell, told) = oneshot::channel();
        let wanted = Arc::new(AtomicBool::new(true));
        let done: Done = Box::new(move |result| {
            if result.is_ok() {
                then();
            }
            // Whoever asked may have given up.
            let _ = tell.send(result);
        });
        self.writer.write(writes, with_changes, Arc::clone(&wanted), done);
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(result)) => result.map_err(NotDurable::Nothing),
            Ok(Err(_)) => Err(NotDurable::Nothing("the disk thread has stopped".to_owned())),
            Err(_) if wanted.swap(false, Ordering::AcqRel) => {
                Err(NotDurable::Nothing(format!("the disk has not answered within {PATIENCE:?}")))
            }
            Err(_) => Err(NotDurable::Perhaps(PATIENCE)),
        }
    }

    async fn write(
        &self,
        now: Timestamp,
        write: PolicyWrite,
        author: Author,
        dry_run: bool,
    ) -> Result<PolicyWritten, PolicyError> {
        if dry_run {
            return self.table.write_policy(now, write, author, true).await;
        }
        let mut turn = self.turn().await?;
        let old = self.table.policy.load_full();
        let object = write.title();
        let (new, result) = old.apply(write, now)?;
        let effect = self.table.effect(now, &old, &new, &result).await;
        let (sequence, first) = {
            let log = self.table.writing.lock();
            (log.next(), log.first())
        };
        let (before, after) = (result.before.clone(), result.written.clone());
        let change = Change { sequence, time: now, author, object, before, after, limits: None };
        let writes = recover::policy_writes(&old, &new, &change, turn.take_gone(first));
        let table = Arc::clone(&self.table);
        // The next write waits for this one, even where nobody else does any longer.
        let publish = move || {
            table.publish(new, change);
            drop(turn);
        };
        self.commit(writes, false, publish).await?;
        Ok(PolicyWritten { result, persisted: true, effect })
    }

    async fn reset(
        &self,
        now: Timestamp,
        reset: &Reset,
        author: Author,
        dry_run: bool,
    ) -> Result<Option<ResetDone>, NotDurable> {
        if dry_run {
            return Ok(self.table.reset(now, reset, author, true));
        }
        let mut turn = self.turn().await?;
        if let Some(failure) = self.writer.stats(now).failure {
            return Err(NotDurable::Nothing(failure));
        }
        let Some(done) = self.table.reset(now, reset, author, false) else { return Ok(None) };
        let (change, first) = {
            let log = self.table.writing.lock();
            (log.newest().cloned(), log.first())
        };
        let mut writes = Batch::default();
        if let Some(change) = change {
            recover::change_writes(&change, turn.take_gone(first), &mut writes);
        }
        // The key itself is among what changed.
        let written = self.commit(writes, true, || drop(turn)).await;
        Ok(Some(ResetDone { persisted: written.is_ok(), ..done }))
    }
}

impl Store for DurableStore {
    fn check_and_reserve(
        &self,
        now: Timestamp,
        request: &Request<'_>,
    ) -> impl Future<Output = Result<Reserved, ReserveError>> + Send {
        self.table.check_and_reserve(now, request)
    }

    fn check_and_reserve_now(&self, now: Timestamp, request: &Request<'_>) -> Option<Result<Reserved, ReserveError>> {
        self.table.check_and_reserve_now(now, request)
    }

    fn settle_now(
        &self,
        now: Timestamp,
        reservation_id: &str,
        counts: SettleCounts,
    ) -> Option<Result<Booked, EndError>> {
        self.table.settle_now(now, reservation_id, counts)
    }

    fn report_progress(
        &self,
        now: Timestamp,
        reservation_id: &str,
        generated_tokens: u64,
    ) -> impl Future<Output = Result<Booked, EndError>> + Send {
        self.table.report_progress(now, reservation_id, generated_tokens)
    }

    fn settle(
        &self,
        now: Timestamp,
        reservation_id: &str,
        counts: SettleCounts,
    ) -> impl Future<Output = Result<Booked, EndError>> + Send {
        self.table.settle(now, reservation_id, counts)
    }

    fn release(
        &self,
        now: Timestamp,
        reservation_id: &str,
    ) -> impl Future<Output = Result<SettleOutcome, EndError>> + Send {
        self.table.release(now, reservation_id)
    }

    fn limits(&self, now: Timestamp, key: KeyRef<'_>) -> impl Future<Output = PerWindow<WindowStatus>> + Send {
        self.table.limits(now, key)
    }

    fn explain_limit(&self, now: Timestamp, key: KeyRef<'_>) -> impl Future<Output = KeyExplained> + Send {
        self.table.explain_limit(now, key)
    }

    fn list_limits(&self, now: Timestamp, query: &ListQuery) -> impl Future<Output = ListPage> + Send {
        self.table.list_limits(now, query)
    }

    fn report_pressure(
        &self,
        now: Timestamp,
        report: &Report<'_>,
    ) -> impl Future<Output = Result<(), ReportError>> + Send {
        self.table.report_pressure(now, report)
    }

    fn deployments(&self, now: Timestamp, most: usize) -> Vec<DeploymentPressure> {
        self.table.deployments(now, most)
    }

    fn policy(&self) -> Arc<Policy> {
        self.table.policy()
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
        self.reset(now, reset, author, dry_run)
    }

    fn changes(&self, query: &ChangeQuery) -> impl Future<Output = ChangePage> + Send {
        self.table.changes(query)
    }

    fn on_tick(&self, now: Timestamp) {
        self.table.on_tick(now);
    }

    fn stats(&self) -> Stats {
        Stats { disk: Some(self.writer.stats((self.now)())), ..self.table.stats() }
    }
}
