//! How a fleet's sidecars share the limits of one key: the ledger of their allotments, as a shared store keeps it.
//!
//! A lease is a share of the limit, not a number of tokens: a sidecar decides by itself, as if what it is allotted were the
//! limit. As long as the allotments come to no more than the limit, so does what all sidecars count together, whatever each of
//! them does with its own. `docs/decisions/0011-fleet-by-allotments.md` has the alternatives.
//!
//! The law of a key is one for the fleet: the ledger adds up what the sidecars saw of it in its open epoch; when that is over, it
//! grants nothing until one of them has moved the law on and written it back.
//!
//! The store runs this in a script, next to its data; this is the model that the script must equal, reply by reply.

use alloc::collections::BTreeMap;

use crate::law::{EPOCH_SECONDS, Law};
use crate::window::{PerWindow, Tokens, Window};

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

/// To how many milliseconds [`Granted::frees_ms`] is rounded up.
pub const FREES_STEP_MS: u64 = 100;

/// How long nothing is granted after data were lost, milliseconds: meanwhile every sidecar says again what it has.
pub const SILENCE_MS: u64 = 5_000;

/// What a sidecar says and asks for, all of it absolute.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The life of the store's data that it knows: where they were lost, another one has begun.
    pub life: u64,
    /// Which sidecar, and which life of it.
    pub incarnation: u64,
    /// Of its reports on this key; one that is not larger than the last is a repetition.
    pub sequence: u64,
    /// The last sequence of which it knows that it arrived, and which must still be known; else 0.
    pub acknowledged: u64,
    /// The key's phase, seconds: its epochs begin so much before the minute.
    pub phase_seconds: u64,
    /// For how long it wants to decide, milliseconds; more than [`MOST_LEASE_MS`] counts as that.
    pub ttl_ms: u64,
    /// The most that its windows will count at any instant of the coming minute, by when it leaves.
    pub needs: PerWindow<Leaving<'a>>,
    /// What it wants on top, for requests to come.
    pub wants: PerWindow<u64>,
    /// The least that a request asks for which waits for this, of those that the window keeps waiting; 0: none does.
    pub least: PerWindow<u64>,
    /// Whether it goes on wanting what it is not granted: then others share what is left with it. Who asks for each decision does
    /// not, as that one is denied.
    pub waits: bool,
    /// What the law is to know.
    pub seen: PerWindow<Seen>,
}

/// What a sidecar saw of a window, for the law. It counts in the epoch in which it arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Tokens settled, since the sidecar first saw the key.
    pub settled: u64,
    /// Of these, what is known to have arrived: where the ledger no longer knows the sidecar, only what is more is new.
    pub arrived: u64,
    /// Whether a request that fits the limit was denied since then.
    pub denied: bool,
    /// The greatest pressure since then, permille.
    pub pressure: u16,
}

/// The law of a key as the ledger keeps it. The ledger only adds up what was seen; sidecars move it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownLaw {
    /// Grows with each write; at least 1.
    pub version: u64,
    /// Revision of the policy by which it was made; 0 where that was not the fleet's.
    pub policy: u64,
    /// Its state; `u`, `den` and `br` of the open epoch are those of the whole fleet.
    pub law: Law,
    /// The limits that it comes to, TPM.
    pub limits: Tokens,
}

/// The data that a sidecar relied on are gone, in part or as a whole. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// The ledger's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// What its windows may count while the lease runs: its need and what was granted on top. Nothing on top where the law is
    /// not known or its epoch is over, nor in the first [`SILENCE_MS`] of the data.
    pub allotted: PerWindow<u64>,
    /// What counts elsewhere in the fleet.
    pub elsewhere: PerWindow<u64>,
    /// How many other sidecars want more than they were granted: whoever has something to spare gives it back early.
    pub waiting: PerWindow<u64>,
    /// In how long [`Report::least`] is free, milliseconds, if nobody comes to count more: by what all have said leaves when. Rounded up to
    /// [`FREES_STEP_MS`]; 0 where it is free now, or that is not known.
    pub frees_ms: PerWindow<u64>,
    /// How long the lease runs from now, milliseconds; 0 where it is over.
    pub left_ms: u64,
    /// The epoch of now.
    pub epoch: u64,
    /// The law, with what this report added; `None` where none is known. Where its epoch is not that of now, nothing was added:
    /// somebody is to move it on first.
    pub law: Option<KnownLaw>,
}

impl Granted {
    /// Whether the law is that of now, so that what was seen is added.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.law.is_some_and(|known| known.law.epoch >= self.epoch)
    }
}

/// The allotments of one limit key.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    life: u64,
    /// When that began.
    born_ms: u64,
    /// Milliseconds; never goes back.
    now_ms: u64,
    law: Option<KnownLaw>,
    sidecars: BTreeMap<u64, Sidecar>,
}

#[derive(Clone, Debug, Default)]
struct Sidecar {
    sequence: u64,
    lease_ends_ms: u64,
    shares: PerWindow<Share>,
    /// Settled tokens that the law has; `None`: none of this sidecar's are known here.
    settled: Option<Tokens>,
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
    /// Begins another life of the data: a sidecar found that some were lost. What is still there counts.
    pub fn begin(&mut self, life: u64, now_ms: u64) {
        (self.life, self.born_ms) = (life, now_ms);
    }

    /// Writes the law that somebody made of that of version `expected` (0: none was known). Where another one was written
    /// meanwhile, this one is not newer, or it was made by an older policy, nothing changes, and the answer is `false`.
    pub fn set_law(&mut self, expected: u64, known: KnownLaw) -> bool {
        let (stored, policy) = self.law.map_or((0, 0), |known| (known.version, known.policy));
        if stored != expected || known.version <= stored || known.policy < policy {
            return false;
        }
        self.law = Some(known);
        true
    }

    /// Takes in a report, and grants what can be. A repeated or older one changes nothing but the time, and is answered with
    /// what stands.
    ///
    /// # Errors
    /// [`Lost`]: the sidecar is to learn of the life that there is, or to begin another.
    pub fn report(&mut self, now_ms: u64, report: &Report<'_>) -> Result<Granted, Lost> {
        let known = self.sidecars.get(&report.incarnation).map_or(0, |sidecar| sidecar.sequence);
        if report.life != self.life || known < report.acknowledged {
            return Err(Lost);
        }
        self.now_ms = self.now_ms.max(now_ms);
        let now_ms = self.now_ms;
        let epoch = (now_ms / 1_000 + report.phase_seconds) / EPOCH_SECONDS;
        self.sidecars.retain(|_, sidecar| !sidecar.is_over(now_ms));
        let current = self.law.filter(|known| known.law.epoch >= epoch);
        let grants = now_ms >= self.born_ms.saturating_add(SILENCE_MS);
        let limits = current.filter(|_| grants).map_or(Tokens::default(), |known| known.limits);
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
            // Never sooner than the lease before: who asks decides by that one until the answer is there, and it may be lost.
            own.lease_ends_ms = own.lease_ends_ms.max(now_ms.saturating_add(report.ttl_ms.min(MOST_LEASE_MS)));
            own.shares = PerWindow::from_fn(|window| {
                let mut share = Share::needing(report.needs[window], now_ms);
                let free = limits[window].saturating_sub(elsewhere[window]).saturating_sub(share.need);
                share.granted = report.wants[window].min(free / (waiting[window] + 1));
                share.missing = if report.waits { report.wants[window] - share.granted } else { 0 };
                share
            });
            if let Some(known) = self.law.as_mut().filter(|_| current.is_some()) {
                let before = own.settled.unwrap_or(report.seen.map(|seen| seen.arrived));
                for window in Window::ALL {
                    let (state, seen) = (&mut known.law.windows[window], &report.seen[window]);
                    state.u = state.u.saturating_add(seen.settled.saturating_sub(before[window]));
                    state.den |= seen.denied;
                    state.br = state.br.max(seen.pressure);
                }
                own.settled = Some(Tokens::from_fn(|window| before[window].max(report.seen[window].settled)));
            }
        }
        let granted = Granted {
            allotted: PerWindow::from_fn(|window| own.shares[window].need.saturating_add(own.shares[window].granted)),
            elsewhere,
            waiting,
            frees_ms: PerWindow::from_fn(|window| {
                self.frees_ms(window, &own.shares[window], report.least[window], limits[window])
            }),
            left_ms: own.lease_ends_ms.saturating_sub(now_ms),
            epoch,
            law: self.law,
        };
        self.sidecars.insert(report.incarnation, own);
        Ok(granted)
    }
}

impl Ledger {
    fn frees_ms(&self, window: Window, own: &Share, least: u64, limit: u64) -> u64 {
        if least == 0 {
            return 0;
        }
        let (now_ms, mut leaves) = (self.now_ms, BTreeMap::<u64, u64>::new());
        let mut add = |until_ms: u64, tokens: u64| {
            let steps = leaves.entry(until_ms.saturating_sub(now_ms).div_ceil(FREES_STEP_MS)).or_default();
            *steps = steps.saturating_add(tokens);
        };
        own.after(now_ms).for_each(|(until_ms, tokens)| add(until_ms, tokens));
        for Sidecar { lease_ends_ms, shares, .. } in self.sidecars.values() {
            let share = &shares[window];
            share.after(now_ms).for_each(|(until_ms, tokens)| add(until_ms, tokens));
            if *lease_ends_ms <= now_ms {
                // What a lease that runs has on top is given back where it is not used.
                let reported = share.after(now_ms).fold(0, |sum: u64, (_, tokens)| sum.saturating_add(tokens));
                add(lease_ends_ms.saturating_add(UNREPORTED_MS), share.counted(*lease_ends_ms, now_ms) - reported);
            }
        }
        let mut left = leaves.values().fold(least, |sum, tokens| sum.saturating_add(*tokens));
        if left <= limit {
            return 0;
        }
        let first = leaves.iter().find(|(_, tokens)| {
            left = left.saturating_sub(**tokens);
            left <= limit
        });
        first.map_or(0, |(steps, _)| steps.saturating_mul(FREES_STEP_MS))
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

    /// What was reported and has not left, by the instant until which it counts.
    fn after(&self, now_ms: u64) -> impl Iterator<Item = (u64, u64)> {
        self.leaving.range(now_ms.saturating_add(1)..).map(|(until_ms, tokens)| (*until_ms, *tokens))
    }

    /// What counts of it: all that was allotted while the lease runs; then what was reported, for as long as it said, and for
    /// another minute all that it may have admitted since: what was granted, and what may have left by the end of the lease, which it
    /// may have used again. In which second something leaves is known, and when in that second is not.
    fn counted(&self, lease_ends_ms: u64, now_ms: u64) -> u64 {
        let allotted = self.need.saturating_add(self.granted);
        if now_ms < lease_ends_ms {
            return allotted;
        }
        let from = |ms: u64| self.leaving.range(ms..).fold(0, |sum: u64, (_, tokens)| sum.saturating_add(*tokens));
        let is_recent = now_ms < lease_ends_ms.saturating_add(UNREPORTED_MS);
        let stayed = from(lease_ends_ms.saturating_add(1_000));
        let unreported = if is_recent { allotted.saturating_sub(stayed) } else { 0 };
        // At no instant was it more than it had been allotted.
        from(now_ms.saturating_add(1)).saturating_add(unreported).min(allotted)
    }
}
