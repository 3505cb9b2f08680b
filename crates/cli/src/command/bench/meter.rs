//! What is counted while a load runs.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::exchange::Verdicts;
use crate::failure::Failure;
use crate::stopwatch::Stopwatch;

/// Slower answers count as this slow, in nanoseconds.
const SLOWEST: u64 = 60_000_000_000;

/// Counts calls that are answered while it is on.
#[derive(Debug)]
pub(super) struct Meter {
    watch: Stopwatch,
    phase: Cell<Phase>,
    counts: RefCell<Counts>,
    /// Of all phases.
    decided: Cell<Verdicts>,
    settled: Cell<u64>,
}

/// Where in a run we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measured,
    /// No call is begun any more.
    Over,
}

/// What was counted.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    /// From when a call was due to when its answer was there, nanoseconds.
    pub(super) latencies: Histogram<u64>,
    /// Calls that were answered, settlements too; of a batch, one.
    pub(super) calls: u64,
    pub(super) verdicts: Verdicts,
    /// Settlements that were applied.
    pub(super) settled: u64,
    /// Bytes of the answers that decide, without what frames them.
    pub(super) answer_bytes: u64,
    pub(super) errors: u64,
    /// Counts errors of all phases: any makes the run fail.
    pub(super) first_error: Option<String>,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) counts: Counts,
    pub(super) took: Duration,
    /// Processor time of this process meanwhile.
    pub(super) load: Duration,
    /// The same since this process began.
    pub(super) load_so_far: Duration,
    /// Processor time of the server meanwhile, if its process is known.
    pub(super) server: Option<Duration>,
}

impl Meter {
    /// Warms up.
    pub(super) fn new() -> Result<Self, Failure> {
        let latencies = Histogram::new_with_max(SLOWEST, 3).map_err(|error| Failure::Failed(error.to_string()))?;
        let counts = Counts {
            latencies,
            calls: 0,
            verdicts: Verdicts::NONE,
            settled: 0,
            answer_bytes: 0,
            errors: 0,
            first_error: None,
        };
        Ok(Self {
            watch: Stopwatch::start(),
            phase: Cell::new(Phase::WarmUp),
            counts: RefCell::new(counts),
            decided: Cell::default(),
            settled: Cell::default(),
        })
    }

    /// Nanoseconds since the run began.
    pub(super) fn now(&self) -> u64 {
        self.watch.elapsed_ns()
    }

    /// Whether calls are still to be made.
    pub(super) fn is_open(&self) -> bool {
        self.phase.get() != Phase::Over
    }

    /// A call that was due at `due` is answered at `now`: its decisions, or how many settlements were applied, and the bytes of its
    /// message.
    pub(super) fn on_answer(&self, now: u64, due: u64, verdicts: Verdicts, settled: u64, bytes: usize) {
        self.decided.set(self.decided.get().and(verdicts));
        self.settled.set(self.settled.get() + settled);
        if self.phase.get() == Phase::Measured {
            let counts = &mut *self.counts.borrow_mut();
            counts.latencies.saturating_record(now.saturating_sub(due));
            counts.calls += 1;
            counts.verdicts = counts.verdicts.and(verdicts);
            counts.settled += settled;
            if verdicts.count() > 0 {
                counts.answer_bytes += bytes as u64;
            }
        }
    }

    /// A call failed, or its answer is none.
    pub(super) fn on_error(&self, error: String) {
        let counts = &mut *self.counts.borrow_mut();
        counts.errors += 1;
        counts.first_error.get_or_insert(error);
    }

    /// Lets time pass: `warm_up`, then `length` in which it counts. Afterwards no call is to be begun.
    pub(super) async fn run(
        &self,
        warm_up: Duration,
        length: Duration,
        server: Option<u32>,
    ) -> Result<Measured, Failure> {
        tokio::time::sleep(warm_up).await;
        let before = Spent::now(server)?;
        let began = self.now();
        self.phase.set(Phase::Measured);
        tokio::time::sleep(length).await;
        self.phase.set(Phase::Over);
        let took = Duration::from_nanos(self.now() - began);
        let after = Spent::now(server)?;
        Ok(Measured {
            counts: self.counts.borrow().clone(),
            took,
            load: after.load.saturating_sub(before.load),
            load_so_far: after.load,
            server: after.server.zip(before.server).map(|(after, before)| after.saturating_sub(before)),
        })
    }

    /// Decisions and settlements from the beginning to now, whether they were measured or not.
    pub(super) fn so_far(&self) -> (Verdicts, u64) {
        (self.decided.get(), self.settled.get())
    }

    /// How many calls failed from the beginning to now, and the first error.
    pub(super) fn errors(&self) -> Option<(u64, String)> {
        let counts = self.counts.borrow();
        counts.first_error.clone().map(|first| (counts.errors, first))
    }
}

/// Processor time so far.
struct Spent {
    load: Duration,
    server: Option<Duration>,
}

impl Spent {
    fn now(server: Option<u32>) -> Result<Self, Failure> {
        let of = |process: &str| {
            processor_time(process)
                .map_err(|error| Failure::Usage(format!("--pid: processor time of process {process}: {error}")))
        };
        // Where the system does not say what this process used, it stays out of the report; what was asked for does not.
        let load = processor_time("self").unwrap_or_default();
        Ok(Self { load, server: server.map(|pid| of(&pid.to_string())).transpose()? })
    }
}

/// Processor time that a process has used, of all its threads, exact to the last time each was looked at by the scheduler.
fn processor_time(process: &str) -> io::Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end meanwhile.
        let Ok(line) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanoseconds += line.split(' ').next().and_then(|ran| ran.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}
