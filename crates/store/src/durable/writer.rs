//! The thread that writes behind: what changed goes to disk in batches, at most a second late, and what operators write goes
//! before they are answered. Nothing that decides ever waits for it.
//!
//! It starts a batch so that, if this one takes as long as the last, nothing in it is older than a second when it is on disk.
//! It copies a few keys at a time, writes a pack at a time, and rests in between ([`super::pace`]): all at once, it would keep
//! a core from those that decide for longer than a decision takes on a bad day.
//! A disk that refuses is opened anew now and then; what could not be written stays marked in memory, which is bounded by the
//! keys that there are.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_core::time::Timestamp;

use super::batch::{Batch, Table};
use super::directory::Newest;
use super::engine::{Engine, EngineError};
use super::layout::{Progress, encode_to, place};
use super::pace;
use super::packs::Spare;
use super::recover;
use super::{DiskStats, Now};
use crate::memory::MemoryStore;

mod changes;

#[cfg(test)]
pub(super) use changes::SLACK_BYTES;

/// How late what is on disk may be.
const MOST_LATE: Duration = Duration::from_millis(850);
/// Time between two batches, whatever they take: other work of the machine goes on.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// What is on disk is too late when it is older than this.
const TOO_LATE: Duration = Duration::from_secs(2);
/// A disk that refuses is tried again after this, then after twice as long, up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Told when a write is on disk, or why it is not.
pub(super) type Done = Box<dyn FnOnce(Result<(), String>) + Send>;

/// What somebody waits for.
enum Job {
    Write {
        writes: Box<Batch>,
        /// Whether what changed so far goes with it.
        with_changes: bool,
        /// Whether somebody still waits, as long as it has not begun.
        wanted: Arc<AtomicBool>,
        done: Done,
    },
    Stop(Done),
}

/// What is known of the disk without asking it.
#[derive(Debug)]
struct Shared {
    /// Everything up to this instant is on disk, microseconds.
    durable_at: AtomicU64,
    batches: AtomicU64,
    keys: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    last_batch_micros: AtomicU64,
    disk_bytes: AtomicU64,
    /// Of these, bytes of packs.
    packed: AtomicU64,
    /// Why the last attempt came to nothing; `None` where it did not.
    failure: Mutex<Option<String>>,
}

/// The thread. When this is dropped it stops with what it does, and writes nothing more: [`Writer::stop`] comes before.
pub(super) struct Writer {
    jobs: Option<Sender<Job>>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts it for `table`, whose marks there are, on a directory that is open.
    pub(super) fn start(
        table: Arc<MemoryStore>,
        engine: Engine,
        path: PathBuf,
        now: Now,
        progress: Progress,
        newest: Newest,
        log: VecDeque<(u32, u64)>,
    ) -> std::io::Result<Self> {
        // Nothing has changed since it was read.
        let progress = Progress { durable_at: now(), ..progress };
        let shared = Arc::new(Shared {
            durable_at: AtomicU64::new(progress.durable_at.as_micros()),
            batches: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_batch_micros: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(engine.disk_bytes()),
            packed: AtomicU64::new(0),
            failure: Mutex::new(None),
        });
        let (jobs, queue) = channel();
        let mut thread = Thread {
            table,
            engine: Some(engine),
            path,
            now,
            progress,
            newest,
            shared: Arc::clone(&shared),
            retry: FIRST_RETRY,
            retry_at: Timestamp::ZERO,
            number: log.back().map_or(0, |(last, _)| last + 1),
            log,
            spare: Spare::default(),
            copying: Duration::ZERO,
        };
        let thread = std::thread::Builder::new().name("disk".to_owned()).spawn(move || {
            pace::stand_back();
            thread.run(&queue);
        })?;
        Ok(Self { jobs: Some(jobs), shared, thread: Mutex::new(Some(thread)) })
    }

    /// Writes `writes`, with what changed so far where that is asked for, and tells `done`. Where nobody wants it any longer
    /// when its turn comes, it is not written.
    pub(super) fn write(&self, writes: Batch, with_changes: bool, wanted: Arc<AtomicBool>, done: Done) {
        let job = Job::Write { writes: Box::new(writes), with_changes, wanted, done };
        if let Some(Err(refused)) = self.jobs.as_ref().map(|jobs| jobs.send(job))
            && let Job::Write { done, .. } = refused.0
        {
            done(Err("the disk thread has stopped".to_owned()));
        }
    }

    /// A last batch, after which nothing is missing; then the thread stops. Waits for `patience` at most.
    ///
    /// # Errors
    /// Why what is in memory is not on disk.
    pub(super) fn stop(&self, patience: Duration) -> Result<(), String> {
        let Some(jobs) = &self.jobs else { return Ok(()) };
        let (tell, told) = channel();
        let done: Done = Box::new(move |result| {
            // Nobody may be waiting any longer.
            let _ = tell.send(result);
        });
        if jobs.send(Job::Stop(done)).is_err() {
            return Err("the disk thread has stopped".to_owned());
        }
        let Ok(result) = told.recv_timeout(patience) else {
            // It is not waited for any longer.
            drop(self.thread.lock().take());
            return Err(format!("the disk has not answered within {patience:?}"));
        };
        result
    }

    #[cfg(test)]
    pub(super) fn packed_bytes(&self) -> u64 {
        self.shared.packed.load(Ordering::Relaxed)
    }

    pub(super) fn stats(&self, now: Timestamp) -> DiskStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let durable_at = Timestamp::from_micros(count(&self.shared.durable_at));
        let failure = self.shared.failure.lock().clone();
        DiskStats {
            durable_at,
            late: now.since(durable_at),
            degraded: failure.is_some() || now.since(durable_at) > TOO_LATE,
            failure,
            batches: count(&self.shared.batches),
            keys_written: count(&self.shared.keys),
            bytes_written: count(&self.shared.bytes),
            failures: count(&self.shared.failures),
            last_batch: Duration::from_micros(count(&self.shared.last_batch_micros)),
            disk_bytes: count(&self.shared.disk_bytes),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.lock().take() {
            // It catches its panics; what it could not do, it has said.
            let _ = thread.join();
        }
    }
}

struct Thread {
    table: Arc<MemoryStore>,
    /// `None` while the disk refuses.
    engine: Option<Engine>,
    path: PathBuf,
    now: Now,
    progress: Progress,
    newest: Newest,
    shared: Arc<Shared>,
    retry: Duration,
    retry_at: Timestamp,
    /// Batches on disk that have keys, and the bytes of each.
    log: VecDeque<(u32, u64)>,
    /// Of the next batch that has keys.
    number: u32,
    /// Room for the packs of the next batch.
    spare: Spare,
    /// How long it took to copy a key of the last batch, without the rests.
    copying: Duration,
}

impl Thread {
    fn run(&mut self, queue: &Receiver<Job>) {
        let mut began = (self.now)();
        loop {
            let left = self.pause().saturating_sub((self.now)().since(began));
            // Not where a batch is due: many writes of operators must not keep it off.
            let job = if left.is_zero() { Err(RecvTimeoutError::Timeout) } else { queue.recv_timeout(left) };
            match job {
                Ok(Job::Write { writes, with_changes, wanted, done }) => {
                    if wanted.swap(false, Ordering::AcqRel) {
                        done(self.guarded(|thread| thread.write(*writes, with_changes)));
                    }
                }
                Ok(Job::Stop(done)) => {
                    self.retry_at = Timestamp::ZERO;
                    done(self.guarded(Self::finish));
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    began = (self.now)();
                    // It is in the metrics and in the log; the next one may do better.
                    let _ = self.guarded(|thread| thread.write(Batch::default(), true));
                }
            }
        }
    }

    /// How long after the beginning of the last batch the next one begins.
    fn pause(&self) -> Duration {
        let last = Duration::from_micros(self.shared.last_batch_micros.load(Ordering::Relaxed));
        MOST_LATE.saturating_sub(last).max(last + SHORTEST_PAUSE)
    }

    /// A panic of the engine is a failure like any other: it is closed, and opened anew.
    fn guarded(&mut self, step: impl FnOnce(&mut Self) -> Result<(), EngineError>) -> Result<(), String> {
        let result = catch_unwind(AssertUnwindSafe(|| step(self)));
        let failure = match result {
            Ok(Ok(())) => {
                self.retry = FIRST_RETRY;
                *self.shared.failure.lock() = None;
                return Ok(());
            }
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => "the storage engine panicked".to_owned(),
        };
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        *self.shared.failure.lock() = Some(failure.clone());
        // Its state is unknown; what is on disk is as of the last batch.
        if let Some(engine) = self.engine.take() {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(engine)));
            self.retry_at = (self.now)().after(self.retry);
            self.retry = (2 * self.retry).min(LONGEST_RETRY);
        }
        Err(failure)
    }

    /// The engine, opened anew where the disk refused and some time has passed.
    fn open(&mut self) -> Result<(), EngineError> {
        if self.engine.is_some() {
            return Ok(());
        }
        if (self.now)() < self.retry_at {
            let failure = self.shared.failure.lock().clone();
            return Err(EngineError::Refused(failure.unwrap_or_default()));
        }
        self.retry_at = (self.now)().after(self.retry);
        self.retry = (2 * self.retry).min(LONGEST_RETRY);
        let mut engine = Engine::open(&self.path)?;
        // What failed may be on disk all the same, and nobody was told that it took effect.
        let (policy, next) = (self.table.policy.load_full(), self.table.writing.lock().next());
        recover::take_back(&mut engine, &policy, next)?;
        self.engine = Some(engine);
        Ok(())
    }

    /// Writes `writes` and, with them, what changed so far.
    fn write(&mut self, writes: Batch, with_changes: bool) -> Result<(), EngineError> {
        self.open()?;
        if with_changes { self.write_changes(writes) } else { self.commit(writes) }
    }

    /// Writes `batch`, and how far that is.
    fn commit(&mut self, mut batch: Batch) -> Result<(), EngineError> {
        let number = self.number;
        let bytes = batch.seal(number);
        // Never used again: a batch that failed may be on disk all the same, and must not be taken for a later one.
        self.number += u32::from(bytes > 0);
        let engine = self.engine.as_mut().ok_or_else(|| EngineError::Refused("it is closed".to_owned()))?;
        let keys = self.table.keys_in_table();
        let progress = Progress { batches: self.progress.batches + 1, keys, ..self.progress };
        batch.put(Table::Meta, place::PROGRESS, |out| encode_to(&progress, out));
        engine.commit(&batch)?;
        self.progress = progress;
        let written = batch.bytes() as u64;
        self.spare = batch.keys.into_spare();
        if bytes > 0 {
            self.log.push_back((number, bytes));
        }
        self.shared.bytes.fetch_add(written, Ordering::Relaxed);
        // It may lag behind; it must only not be ahead.
        let _ = self.newest.note(progress.batches);
        Ok(())
    }

    /// All that is left, and that nothing is missing.
    fn finish(&mut self) -> Result<(), EngineError> {
        self.write(Batch::default(), true)?;
        self.progress.stopped = true;
        self.commit(Batch::default())?;
        self.engine = None;
        Ok(())
    }
}
