//! A decision: by the lease, or after an answer of the ledger, or by what decides without it.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_core::ask::Request;
use tidegate_core::key::KeyRef;
use tidegate_core::policy::Degrade;
use tidegate_core::state::{Beyond, Short};
use tidegate_core::time::Timestamp;
use tidegate_core::window::Tokens;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::lease::{Lease, Next, Waited};
use super::{Desk, SETTLED_LATER, StoreMode, soon};
use crate::memory::part::Part;
use crate::timers::Fingerprint;
use crate::{ReserveError, Reserved};

/// How often one request looks at most, before its time is over: others may take what it asked for.
pub(super) const MOST_ATTEMPTS: usize = 32;

/// What became of one attempt to decide.
pub(super) enum Attempt {
    Decided(Box<Reserved>),
    /// For an answer that somebody was asked for.
    Wait {
        told: oneshot::Receiver<()>,
        waited: Waited,
    },
}

/// What is known of the ledger at an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ledger {
    /// It is to be asked where a lease is too small.
    Asked,
    /// It was, and had no more.
    HasNoMore,
    /// It was asked as often as it may be, or for as long, and had more.
    NotNow,
    /// It does not answer.
    Away,
}

impl Desk {
    /// Decides one request; one that has a request id where each is decided with the store, once in the fleet.
    pub(super) async fn check_and_reserve(
        &self,
        now: Timestamp,
        request: &Request<'_>,
    ) -> Result<Reserved, ReserveError> {
        match request.request_id {
            Some(id) if self.settings.mode == StoreMode::Strict => self.decide_once(now, request, id).await,
            _ => self.decide(now, request, Ledger::Asked, None).await,
        }
    }

    /// By the lease, or after one answer of the ledger, or without it. Waits until the deadline; one that is not given begins with the
    /// first wait.
    pub(super) async fn decide(
        &self,
        mut now: Timestamp,
        request: &Request<'_>,
        mut ledger: Ledger,
        mut deadline: Option<Instant>,
    ) -> Result<Reserved, ReserveError> {
        let (key, mut waited) = (self.table.of_key(request.key), None);
        for attempt in 0.. {
            if attempt == MOST_ATTEMPTS && ledger == Ledger::Asked {
                ledger = Ledger::NotNow;
            }
            let told = match self.attempt(now, key, request, waited, ledger)? {
                Attempt::Decided(reserved) => {
                    let mode = self.settings.mode;
                    if let (StoreMode::Strict, Some(until), Err(_)) = (mode, deadline, &reserved.answer.outcome) {
                        // What it was granted of what it asked for is not its own: the next one asks for it, wherever that is.
                        self.on_news(now, request.key, Duration::ZERO);
                        self.tell(now, request.key, until).await;
                    }
                    return Ok(*reserved);
                }
                Attempt::Wait { told, waited: now_waited } => {
                    waited = Some(now_waited);
                    told
                }
            };
            let until = *deadline.get_or_insert_with(|| soon(self.settings.timeout));
            let left = until.saturating_duration_since(Instant::now());
            if tokio::time::timeout_at(until, told).await.is_err() {
                ledger = if attempt == 0 || left * 2 >= self.settings.timeout {
                    self.on_waited_in_vain();
                    Ledger::Away
                } else {
                    // It does answer, and others were quicker.
                    Ledger::NotNow
                };
            }
            now = now.max((self.now)());
        }
        unreachable!("the last attempt decides")
    }

    pub(super) fn on_waited_in_vain(&self) {
        self.status.on_slow();
        self.counters.timeouts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn attempt(
        &self,
        now: Timestamp,
        fingerprint: Fingerprint,
        request: &Request<'_>,
        waited: Option<Waited>,
        ledger: Ledger,
    ) -> Result<Attempt, ReserveError> {
        let ledger = if self.is_ready(now, request.key) { ledger } else { Ledger::Away };
        let step = |lease: &mut Lease| self.attempt_under(now, fingerprint, lease, request, waited, ledger);
        self.on_lease(now, fingerprint, request.key, step).unwrap_or_else(|| {
            let nothing = Part::of(Tokens::default(), Tokens::default(), Beyond::Unavailable);
            self.reserve(now, fingerprint, request, &nothing).map(|reserved| Attempt::Decided(Box::new(reserved)))
        })
    }

    /// One attempt, under the lock of the lease: what it allots cannot change meanwhile.
    fn attempt_under(
        &self,
        now: Timestamp,
        fingerprint: Fingerprint,
        lease: &mut Lease,
        request: &Request<'_>,
        waited: Option<Waited>,
        ledger: Ledger,
    ) -> Result<Attempt, ReserveError> {
        if let Some(waited) = &waited {
            lease.on_looked(&waited.ask);
        }
        let every_time = self.settings.mode == StoreMode::Strict;
        // What was granted for others is theirs, until the ledger has been asked for this one too.
        let has_asked = waited.is_some_and(|waited| !every_time || lease.has_heard(&waited));
        let asks_first = every_time && !has_asked && ledger == Ledger::Asked;
        let allotted = if asks_first { None } else { lease.allotted(now) };
        let part = self.part(now, lease, allotted, ledger);
        let short = match self.table.try_reserve(now, request, fingerprint, Some(&part))? {
            Ok(reserved) => {
                self.on_decided(now, fingerprint, lease, &reserved, ledger);
                return Ok(Attempt::Decided(Box::new(reserved)));
            }
            Err(short) => short,
        };
        let ledger = match self.next(now, fingerprint, lease, &short, (waited.is_none(), has_asked)) {
            Some(Next::Wait { told, waited, .. }) => return Ok(Attempt::Wait { told, waited }),
            Some(Next::Deny) => Ledger::HasNoMore,
            Some(Next::TooSoon) => Ledger::NotNow,
            Some(Next::Full) | None => Ledger::Away,
        };
        let part = self.part(now, lease, lease.allotted(now), ledger);
        let reserved = self.reserve(now, fingerprint, request, &part)?;
        self.on_decided(now, fingerprint, lease, &reserved, ledger);
        Ok(Attempt::Decided(Box::new(reserved)))
    }

    /// What a request that is short does next; `None`: the ledger cannot be asked.
    fn next(
        &self,
        now: Timestamp,
        fingerprint: Fingerprint,
        lease: &mut Lease,
        short: &Short,
        (is_first, has_asked): (bool, bool),
    ) -> Option<Next> {
        let every_time = self.settings.mode == StoreMode::Strict;
        if has_asked && lease.is_exhausted(now, &short.missing) {
            return Some(Next::Deny);
        }
        let next = lease.on_short(now, short, is_first, every_time);
        if matches!(next, Next::Wait { asks: true, .. }) && !self.enqueue(fingerprint, lease) {
            return None;
        }
        Some(next)
    }

    pub(super) fn part(&self, now: Timestamp, lease: &Lease, allotted: Option<Tokens>, ledger: Ledger) -> Part {
        let (leased, elsewhere) = (allotted.unwrap_or_default(), lease.elsewhere());
        let mut part = match ledger {
            Ledger::Asked => Part::of(leased, elsewhere, Beyond::Ask),
            Ledger::HasNoMore => Part::of(leased, elsewhere, Beyond::Deny),
            Ledger::NotNow => Part::of(leased, elsewhere, Beyond::Unavailable),
            Ledger::Away => match self.degrade(lease.key.as_ref()) {
                (Degrade::Closed, _) => Part::of(leased, elsewhere, Beyond::Unavailable),
                (Degrade::Share, sidecars) => {
                    Part { share_of: sidecars, ..Part::of(leased, Tokens::default(), Beyond::Deny) }
                }
                (Degrade::Open, _) => {
                    let all = Tokens::new(u64::MAX, u64::MAX, u64::MAX);
                    Part::of(all, Tokens::default(), Beyond::Deny)
                }
            },
        };
        if ledger == Ledger::HasNoMore {
            part.allotment.frees_in = lease.frees_in(now);
        }
        part.law = lease.law.map(|known| known.law);
        part
    }

    /// What decides while the ledger is away, and by how many limits are shared then.
    fn degrade(&self, key: KeyRef<'_>) -> (Degrade, u64) {
        let sidecars = self.sidecars.load(Ordering::Relaxed).max(self.settings.expected_sidecars);
        match self.table.policy.load().degrade(key).unwrap_or(self.settings.degrade) {
            Degrade::Share if sidecars == 0 => (Degrade::Closed, 0),
            degrade => (degrade, sidecars),
        }
    }

    fn reserve(
        &self,
        now: Timestamp,
        fingerprint: Fingerprint,
        request: &Request<'_>,
        part: &Part,
    ) -> Result<Reserved, ReserveError> {
        let reserved = self.table.try_reserve(now, request, fingerprint, Some(part))?;
        Ok(reserved.expect("nobody is asked any more"))
    }

    fn on_decided(
        &self,
        now: Timestamp,
        fingerprint: Fingerprint,
        lease: &mut Lease,
        reserved: &Reserved,
        ledger: Ledger,
    ) {
        let (ask, admits) = match &reserved.answer.outcome {
            Ok(allowed) => (&allowed.reserved, true),
            Err(denied) => (&denied.ask, false),
        };
        self.counters.on_decided(admits, ledger == Ledger::Away, ask);
        let due = match (ledger, admits) {
            (Ledger::Away, false) => None,
            (Ledger::Away, true) => lease.on_news(now, SETTLED_LATER),
            _ => lease.on_decided(now, ask),
        };
        if let Some(at) = due {
            self.due.lock().push(Reverse((at, fingerprint)));
        }
    }
}
