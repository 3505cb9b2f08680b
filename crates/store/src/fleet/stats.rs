//! What is known of the shared store, and what was done with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_core::window::Tokens;

use super::Desk;

/// What a sidecar knows of the store that it shares, and what it has done with it since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetStats {
    /// Whether the store answers, for all keys; while it does not, leases that run and then the degrade mode decide.
    pub answers: bool,
    /// Why it does not, without secrets.
    pub failure: Option<String>,
    /// Sidecars last seen, this one included; 0 where none were ever.
    pub sidecars: u64,
    /// Leases known: keys asked about in the last minutes.
    pub leases: u64,
    /// Calls to the ledger that were answered.
    pub reports: u64,
    /// How long one takes: a mean that forgets.
    pub report_takes: Duration,
    /// Failures of the link: connections refused or broken, answers that never came, errors of the server.
    pub failures: u64,
    /// Decisions that waited for the ledger in vain.
    pub timeouts: u64,
    /// Decisions made without waiting for the ledger because too many waited.
    pub queue_full: u64,
    /// Decisions.
    pub decisions: u64,
    /// Of these, those for which the ledger was away.
    pub degraded_decisions: u64,
    /// Tokens admitted by these.
    pub degraded_tokens: Tokens,
    /// Tokens granted on top of what was needed.
    pub granted_tokens: Tokens,
    /// Tokens admitted.
    pub admitted_tokens: Tokens,
    /// The most by which a fleet was seen to count more than a limit, in tokens: a debt, a limit that fell, or what was admitted
    /// while the store was away.
    pub most_over_tokens: u64,
    /// Times that data of the store were found lost.
    pub lost: u64,
    /// Calls on reservations that another sidecar admitted, and that it booked.
    pub carried: u64,
    /// Those that were booked here, because that sidecar was gone.
    pub taken_over: u64,
    /// What an operator should know of the server's settings; empty where they are as they should be.
    pub warnings: Vec<String>,
    /// What this sidecar's file says otherwise than the policy in the store, which holds.
    pub differences: Vec<String>,
}

/// What is counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) reports: AtomicU64,
    pub(super) report_takes_micros: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) queue_full: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) most_over: AtomicU64,
    pub(super) carried: AtomicU64,
    pub(super) taken_over: AtomicU64,
    pub(super) granted: [AtomicU64; 3],
    decisions: AtomicU64,
    degraded: AtomicU64,
    degraded_tokens: [AtomicU64; 3],
    admitted: [AtomicU64; 3],
    pub(super) warnings: Mutex<Vec<String>>,
}

pub(super) fn add(counters: &[AtomicU64; 3], tokens: &Tokens) {
    for (counter, (_, tokens)) in counters.iter().zip(tokens.iter()) {
        if *tokens > 0 {
            counter.fetch_add(*tokens, Ordering::Relaxed);
        }
    }
}

impl Counters {
    /// A report was answered after this long. One thread does this.
    pub(super) fn on_report(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let is_first = self.reports.fetch_add(1, Ordering::Relaxed) == 0;
        let before = self.report_takes_micros.load(Ordering::Relaxed);
        let mean = if is_first { took } else { before - before / 16 + took / 16 };
        self.report_takes_micros.store(mean, Ordering::Relaxed);
    }

    pub(super) fn on_decided(&self, admits: bool, is_degraded: bool, ask: &Tokens) {
        self.decisions.fetch_add(1, Ordering::Relaxed);
        if is_degraded {
            self.degraded.fetch_add(1, Ordering::Relaxed);
        }
        if admits {
            add(&self.admitted, ask);
            if is_degraded {
                add(&self.degraded_tokens, ask);
            }
        }
    }
}

impl Desk {
    pub(super) fn stats(&self) -> FleetStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let tokens = |[prompt, uncached, generated]: &[AtomicU64; 3]| {
            Tokens::new(count(prompt), count(uncached), count(generated))
        };
        let (counters, failure) = (&self.counters, self.status.failure());
        FleetStats {
            answers: failure.is_none(),
            failure,
            sidecars: count(&self.sidecars),
            leases: self.leases.len() as u64,
            reports: count(&counters.reports),
            report_takes: Duration::from_micros(count(&counters.report_takes_micros)),
            failures: count(&self.status.failures),
            timeouts: count(&counters.timeouts),
            queue_full: count(&counters.queue_full),
            decisions: count(&counters.decisions),
            degraded_decisions: count(&counters.degraded),
            degraded_tokens: tokens(&counters.degraded_tokens),
            granted_tokens: tokens(&counters.granted),
            admitted_tokens: tokens(&counters.admitted),
            most_over_tokens: count(&counters.most_over),
            lost: count(&counters.lost),
            carried: count(&counters.carried),
            taken_over: count(&counters.taken_over),
            warnings: counters.warnings.lock().clone(),
            differences: self.policy.differences.lock().clone(),
        }
    }
}
