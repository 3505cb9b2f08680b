//! How a fleet's sidecars share the limits of one key: the ledger of their allotments, as a shared store keeps it.
//!
//! A lease is a share of the limit, not a number of tokens: a sidecar decides by itself, as if what it is allotted were the
//! limit. As long as the allotments come to no more than the limit, so does what all sidecars count together, whatever each of
//! them does with its own. `docs/decisions/0011-fleet-by-allotments.md` has the alternatives.
//!
//! The store runs this in a script, next to its data; this is the model that the script must equal, reply by reply.

use alloc::collections::BTreeMap;

use crate::window::PerWindow;

#[cfg(test)]
mod tests;

/// How long what a sidecar had and did not report is believed to be in its windows after its lease.
pub const UNREPORTED_MS: u64 = 60_000;

/// Longest lease, milliseconds.
pub const MOST_LEASE_MS: u64 = 60_000;

/// What leaves a window, and in which second from now on, ascending: `(0, n)` within the coming second. Seconds beyond 120
/// count as 120: no charge stays for longer than a minute, and no hold is looked at beyond that.
pub type Leaving<'a> = &'a [(u32, u64)];

/// Most that [`Leaving`] looks ahead, in seconds.
pub const MOST_AHEAD: u32 = 120;

/// What a sidecar says and asks for, all of it absolute.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Which sidecar, and which life of it.
    pub incarnation: u64,
    /// Of its reports on this key; one that is not larger than the last is a repetition.
    pub sequence: u64,
    /// For how long it wants to decide, milliseconds; more than [`MOST_LEASE_MS`] counts as that.
    pub ttl_ms: u64,
    /// The most that its windows will count at any instant of the coming minute, by when it leaves.
    pub needs: PerWindow<Leaving<'a>>,
    /// What it wants on top, for requests to come.
    pub wants: PerWindow<u64>,
}

/// The ledger's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// What its windows may count while the lease runs: its need and what was granted on top. Nothing on top where the limits
    /// are not known.
    pub allotted: PerWindow<u64>,
    /// What counts elsewhere in the fleet.
    pub elsewhere: PerWindow<u64>,
    /// How many other sidecars want more than they were granted: whoever has something to spare gives it back early.
    pub waiting: PerWindow<u64>,
    /// How long the lease runs from now, milliseconds; 0 where it is over.
    pub left_ms: u64,
    /// The version of the limits that it was granted under; 0 where none are known.
    pub version: u64,
}

/// The allotments of one limit key.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Milliseconds; never goes back.
    now_ms: u64,
    version: u64,
    limits: PerWindow<u64>,
    sidecars: BTreeMap<u64, Sidecar>,
}

#[derive(Clone, Debug, Default)]
struct Sidecar {
    sequence: u64,
    lease_ends_ms: u64,
    shares: PerWindow<Share>,
}

/// What one sidecar has of one window.
#[derive(Clone, Debug, Default)]
struct Share {
    /// Reported, by the instant until which it is counted.
    leaving: BTreeMap<u64, u64>,
    /// The sum of that when it was reported.
    need: u64,
    /// On top of it.
    granted: u64,
    /// Wanted, and not granted.
    missing: u64,
}

impl Ledger {
    /// Limits that the law came to, effective now; `version` grows with each. An older or equal one changes nothing, and is
    /// answered with `false`.
    pub fn set_limits(&mut self, version: u64, limits: PerWindow<u64>) -> bool {
        if version <= self.version {
            return false;
        }
        (self.version, self.limits) = (version, limits);
        true
    }

    /// Takes in a report, and grants what can be. A repeated or older one changes nothing but the time, and is answered with
    /// what stands.
    pub fn report(&mut self, now_ms: u64, report: &Report<'_>) -> Granted {
        self.now_ms = self.now_ms.max(now_ms);
        let now_ms = self.now_ms;
        self.sidecars.retain(|_, sidecar| !sidecar.is_over(now_ms));
        let mut own = self.sidecars.remove(&report.incarnation).unwrap_or_default();
        let elsewhere = PerWindow::from_fn(|window| {
            let counted =
                self.sidecars.values().map(|sidecar| sidecar.shares[window].counted(sidecar.lease_ends_ms, now_ms));
            counted.fold(0, u64::saturating_add)
        });
        let waiting = PerWindow::from_fn(|window| {
            let running = self.sidecars.values().filter(|sidecar| sidecar.lease_ends_ms > now_ms);
            running.filter(|sidecar| sidecar.shares[window].missing > 0).count() as u64
        });
        if report.sequence > own.sequence {
            own.sequence = report.sequence;
            own.lease_ends_ms = now_ms.saturating_add(report.ttl_ms.min(MOST_LEASE_MS));
            own.shares = PerWindow::from_fn(|window| {
                let limit = if self.version > 0 { self.limits[window] } else { 0 };
                let mut share = Share::needing(report.needs[window], now_ms);
                let free = limit.saturating_sub(elsewhere[window]).saturating_sub(share.need);
                share.granted = report.wants[window].min(free / (waiting[window] + 1));
                share.missing = report.wants[window] - share.granted;
                share
            });
        }
        let granted = Granted {
            allotted: PerWindow::from_fn(|window| own.shares[window].need.saturating_add(own.shares[window].granted)),
            elsewhere,
            waiting,
            left_ms: own.lease_ends_ms.saturating_sub(now_ms),
            version: self.version,
        };
        self.sidecars.insert(report.incarnation, own);
        granted
    }
}

impl Sidecar {
    /// Whether nothing of it counts any longer.
    fn is_over(&self, now_ms: u64) -> bool {
        let counts = self.shares.iter().any(|(_, share)| share.counted(self.lease_ends_ms, now_ms) > 0);
        self.lease_ends_ms.saturating_add(UNREPORTED_MS) <= now_ms && !counts
    }
}

impl Share {
    /// A second that has begun counts to its end: an instant in it is not known.
    fn needing(leaving: Leaving<'_>, now_ms: u64) -> Self {
        let mut share = Self::default();
        for (seconds, tokens) in leaving {
            let until_ms = now_ms.saturating_add((u64::from((*seconds).min(MOST_AHEAD)) + 1) * 1_000);
            *share.leaving.entry(until_ms).or_default() += tokens;
            share.need = share.need.saturating_add(*tokens);
        }
        share
    }

    /// What counts of it: all that was allotted while the lease runs; then what was granted for another minute, and what was
    /// reported for as long as it said.
    fn counted(&self, lease_ends_ms: u64, now_ms: u64) -> u64 {
        if now_ms < lease_ends_ms {
            return self.need.saturating_add(self.granted);
        }
        let reported = self.leaving.range(now_ms + 1..).fold(0, |sum: u64, (_, tokens)| sum.saturating_add(*tokens));
        let unreported = if now_ms < lease_ends_ms.saturating_add(UNREPORTED_MS) { self.granted } else { 0 };
        reported.saturating_add(unreported)
    }
}
