//! The thread that writes behind: what changed goes to disk in batches, at most a second late, and what operators write goes
//! before they are answered. Nothing that decides ever waits for it.
//!
//! It starts a batch so that, if this one takes as long as the last, nothing in it is older than a second when it is on disk.
//! A disk that refuses is opened anew now and then; what could not be written stays marked in memory, which is bounded by the
//! keys that there are.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_core::time::{Timestamp, micros};

use super::batch::{Batch, Table};
use super::engine::{Engine, EngineError};
use super::layout::{Progress, encode_to, place};
use super::{DiskStats, Now};
use crate::memory::MemoryStore;
use crate::memory::marks::{Marks, OnDisk};
use crate::timers::Fingerprint;

/// How late what is on disk may be.
const MOST_LATE: Duration = Duration::from_millis(900);
/// Time between two batches, whatever they take: other work of the machine goes on.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// After this much of a batch, it is written, and the rest is another one.
const MOST_BATCH_BYTES: usize = 64 << 20;
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
        writes: Batch,
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
    /// Why the last attempt came to nothing; `None` where it did not.
    failure: Mutex<Option<String>>,
}

/// The thread. It stops when this is dropped, after a last batch.
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
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            durable_at: AtomicU64::new(progress.durable_at.as_micros()),
            batches: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_batch_micros: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(engine.disk_bytes()),
            failure: Mutex::new(None),
        });
        let (jobs, queue) = channel();
        let mut thread = Thread {
            table,
            engine: Some(engine),
            path,
            now,
            progress,
            shared: Arc::clone(&shared),
            retry: FIRST_RETRY,
            retry_at: Timestamp::ZERO,
            batch: Batch::default(),
        };
        let thread = std::thread::Builder::new().name("disk".to_owned()).spawn(move || {
            super::engine::yield_to_others();
            thread.run(&queue);
        })?;
        Ok(Self { jobs: Some(jobs), shared, thread: Mutex::new(Some(thread)) })
    }

    /// Writes `writes`, with what changed so far where that is asked for, and tells `done`. Where nobody wants it any longer
    /// when its turn comes, it is not written.
    pub(super) fn write(&self, writes: Batch, with_changes: bool, wanted: Arc<AtomicBool>, done: Done) {
        let job = Job::Write { writes, with_changes, wanted, done };
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
        let result =
            told.recv_timeout(patience).map_err(|_| format!("the disk has not answered within {patience:?}"))?;
        if let Some(thread) = self.thread.lock().take() {
            // It catches its panics; what it could not do, it has said.
            let _ = thread.join();
        }
        result
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

/// What a batch was made of, to be marked anew where it comes to nothing.
#[derive(Default)]
struct Taken {
    keys: Vec<Fingerprint>,
    gone: Vec<(Fingerprint, OnDisk)>,
}

struct Thread {
    table: Arc<MemoryStore>,
    /// `None` while the disk refuses.
    engine: Option<Engine>,
    path: PathBuf,
    now: Now,
    progress: Progress,
    shared: Arc<Shared>,
    retry: Duration,
    retry_at: Timestamp,
    batch: Batch,
}

impl Thread {
    fn run(&mut self, queue: &Receiver<Job>) {
        let mut began = (self.now)();
        loop {
            let since = (self.now)().since(began);
            match queue.recv_timeout(self.pause().saturating_sub(since)) {
                Ok(Job::Write { writes, with_changes, wanted, done }) => {
                    if !wanted.swap(false, Ordering::AcqRel) {
                        continue;
                    }
                    done(self.guarded(|thread| thread.write(&writes, with_changes)));
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
                    let _ = self.guarded(|thread| thread.write(&Batch::default(), true));
                }
            }
        }
    }

    /// How long after the beginning of the last batch the next one begins.
    fn pause(&self) -> Duration {
        let last = Duration::from_micros(self.shared.last_batch_micros.load(Ordering::Relaxed));
        MOST_LATE.saturating_sub(2 * last).max(last + SHORTEST_PAUSE)
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
        self.engine = Some(Engine::open(&self.path)?);
        Ok(())
    }

    fn marks(&self) -> &Marks {
        self.table.marks.as_ref().expect("a durable store's table has marks")
    }

    /// Writes `writes` and, with them, what changed so far.
    fn write(&mut self, writes: &Batch, with_changes: bool) -> Result<(), EngineError> {
        self.open()?;
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        batch.append(writes);
        let result = if with_changes { self.write_changes(&mut batch) } else { self.commit(&batch) };
        self.batch = batch;
        result
    }

    fn write_changes(&mut self, batch: &mut Batch) -> Result<(), EngineError> {
        let began = (self.now)();
        // What is done from here on is in this batch or in the next; what was done before is marked.
        let mut keys = self.marks().take_changed();
        let mut taken = Taken { keys: Vec::new(), gone: self.marks().take_gone() };
        for (key, disk) in &taken.gone {
            batch.remove(Table::Keys, &super::layout::place_of_key(*key));
            for piece in disk.first..disk.next {
                batch.remove(Table::Keys, &super::layout::place_of_piece(*key, piece));
            }
        }
        self.table.write_models(batch);
        let (mut written, mut bytes) = (0, 0);
        // By their places on disk. A key that changed while it was put back is marked twice.
        keys.sort_unstable();
        keys.dedup();
        while let Some(key) = keys.pop() {
            taken.keys.push(key);
            self.table.write_key(key, batch);
            if batch.bytes() > MOST_BATCH_BYTES {
                self.table.write_unfinished(batch);
                bytes += batch.bytes() as u64;
                written += taken.keys.len() as u64;
                if let Err(failure) = self.commit(batch) {
                    self.put_back(taken, keys);
                    return Err(failure);
                }
                taken = Taken::default();
                batch.clear();
            }
        }
        self.table.write_unfinished(batch);
        written += taken.keys.len() as u64;
        bytes += batch.bytes() as u64;
        if written > 0 || !batch.is_empty() {
            let progress = Progress { durable_at: began, ..self.progress };
            batch.put(Table::Meta, place::PROGRESS, |out| encode_to(&progress, out));
            if let Err(failure) = self.commit(batch) {
                self.put_back(taken, keys);
                return Err(failure);
            }
            let shared = &self.shared;
            shared.batches.fetch_add(1, Ordering::Relaxed);
            shared.keys.fetch_add(written, Ordering::Relaxed);
            shared.bytes.fetch_add(bytes, Ordering::Relaxed);
            if let Some(engine) = &self.engine {
                shared.disk_bytes.store(engine.disk_bytes(), Ordering::Relaxed);
            }
        }
        self.progress.durable_at = began;
        let took = micros((self.now)().since(began));
        self.shared.last_batch_micros.store(took, Ordering::Relaxed);
        self.shared.durable_at.store(began.as_micros(), Ordering::Relaxed);
        Ok(())
    }

    /// Nothing of what was taken is on disk, as far as is known.
    fn put_back(&self, taken: Taken, left: Vec<Fingerprint>) {
        self.table.write_models_again();
        taken.keys.into_iter().chain(left).for_each(|key| self.table.write_again(key));
        self.marks().put_back_gone(taken.gone);
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        let engine = self.engine.as_mut().ok_or_else(|| EngineError::Refused("it is closed".to_owned()))?;
        engine.commit(batch)
    }

    /// All that is left, and that nothing is missing.
    fn finish(&mut self) -> Result<(), EngineError> {
        self.write(&Batch::default(), true)?;
        let progress = Progress { stopped: true, ..self.progress };
        let mut batch = Batch::default();
        batch.put(Table::Meta, place::PROGRESS, |out| encode_to(&progress, out));
        self.commit(&batch)?;
        self.engine = None;
        Ok(())
    }
}
