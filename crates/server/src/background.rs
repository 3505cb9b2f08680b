//! The background thread: four times a second the store does what is due, and metrics move into their buckets; once a second
//! it looks what became of the deployments.
//!
//! Rejected: a task on a serving thread, which would answer no call meanwhile.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tidegate_store::{DiskStats, FleetStats, Store};

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::pressure::watch::{MOST_WATCHED, Watch};

const TICK: Duration = Duration::from_millis(250);
/// Ticks from one look at the deployments to the next: one second.
const TICKS_PER_LOOK: u32 = 4;

/// The thread; ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Background {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts it. On a test clock it leaves the store alone: whoever advances the clock ticks.
    ///
    /// # Errors
    /// The system's: no thread is left.
    pub(crate) fn spawn<S: Store>(store: Arc<S>, clock: Clock, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let (mut watch, mut degraded, mut shared, mut ticks) =
            (Watch::default(), Degraded::default(), Shared::default(), 0_u32);
        let mut tick = move || {
            if clock.ticks() {
                store.on_tick(clock.now());
            }
            metrics.on_tick();
            ticks = (ticks + 1) % TICKS_PER_LOOK;
            if ticks == 0 {
                let stats = store.stats();
                if let Some(disk) = stats.disk {
                    degraded.look(&disk);
                }
                if let Some(fleet) = stats.fleet {
                    shared.look(&fleet);
                    if !fleet.answers {
                        metrics.on_degraded_second();
                    }
                }
                watch.on_look(&store.deployments(clock.now(), MOST_WATCHED));
            }
        };
        let thread = std::thread::Builder::new().name("background".to_owned()).spawn(move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                // The panic hook logs it; the next round may do better, and without any round nothing would ever expire.
                let _ = catch_unwind(AssertUnwindSafe(&mut tick));
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

/// Whether the disk was degraded when it was last looked at.
#[derive(Debug, Default)]
struct Degraded(bool);

impl Degraded {
    /// Logs each change, once.
    fn look(&mut self, disk: &DiskStats) {
        let late = disk.late;
        match (self.0, disk.degraded) {
            (false, true) => {
                let failure = disk.failure.as_deref().unwrap_or("it does not answer");
                tracing::warn!(
                    ?late,
                    failure,
                    "degraded: disk; decisions go on, and a crash would lose what is not on it"
                );
            }
            (true, false) => tracing::info!(?late, "no longer degraded: disk"),
            (false, false) | (true, true) => {}
        }
        self.0 = disk.degraded;
    }
}

/// What of the shared store was logged last.
#[derive(Debug, Default)]
struct Shared {
    is_away: bool,
    lost: u64,
    warnings: Vec<String>,
    differences: Vec<String>,
}

impl Shared {
    /// Logs each change, once.
    fn look(&mut self, fleet: &FleetStats) {
        match (self.is_away, fleet.answers) {
            (false, false) => {
                let failure = fleet.failure.as_deref().unwrap_or("it does not answer");
                tracing::warn!(failure, "degraded: store; leases that run decide, and then the degrade mode");
            }
            (true, true) => tracing::info!(sidecars = fleet.sidecars, "no longer degraded: store"),
            (true, false) | (false, true) => {}
        }
        self.is_away = !fleet.answers;
        if fleet.lost > self.lost {
            tracing::warn!(
                slots = fleet.lost - self.lost,
                "data of the shared store were lost: what is known here is said again, and nothing is granted for 5 s"
            );
            self.lost = fleet.lost;
        }
        if fleet.warnings != self.warnings {
            fleet.warnings.iter().for_each(|warning| tracing::warn!("store: {warning}"));
            self.warnings.clone_from(&fleet.warnings);
        }
        if fleet.differences != self.differences {
            fleet.differences.iter().for_each(|difference| tracing::warn!("policy: {difference}"));
            self.differences.clone_from(&fleet.differences);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It catches its panics; were there one all the same, the hook has logged it.
            let _ = thread.join();
        }
    }
}
