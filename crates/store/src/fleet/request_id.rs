//! A request id is good for one reservation in the whole fleet, where each decision asks the store (`strict`).
//!
//! Whoever decides writes into the store first that it does, and then what it admitted: the same id finds that answer on whatever
//! sidecar. What was denied leaves nothing. Whether a reservation is still live is known to the sidecar that admitted it, which is
//! asked ([`super::elsewhere`]); of one that is gone, what it wrote is what is known.
//!
//! Rejected: to carry the whole call to the sidecar that was first. Its answer would be lost with it, which is when callers try
//! again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate_core::ask::Request;
use tidegate_core::decision::{Allowed, Answer};
use tidegate_core::key::KeyRef;
use tidegate_core::reservation::{MEMORY, Number, REPLAY, Stated};
use tidegate_core::time::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::decision::Ledger;
use super::elsewhere::{Verb, Where};
use super::{Desk, soon};
use crate::durable::layout::encoded;
use crate::redis::{request_key, slot};
use crate::reservation_id::ReservationId;
use crate::{ReserveError, Reserved, Store};
use claim::{Admitted, Claim, Entry, Found, Write};

pub(super) mod claim;

/// Writes that wait to be made; a request whose own finds no room is decided as where the store is away.
const MOST_WRITES: usize = 8_192;
/// How long a claim stands of somebody who then says nothing more. A decision waits for less.
const CLAIM_LASTS: Duration = Duration::from_secs(5);
/// How long until somebody else's decision is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Claims on their way.
pub(super) struct RequestIds {
    writes: mpsc::Sender<Write>,
    next: AtomicU64,
}

impl RequestIds {
    pub(super) fn new() -> (Self, mpsc::Receiver<Write>) {
        let (writes, waiting) = mpsc::channel(MOST_WRITES);
        (Self { writes, next: AtomicU64::new(0) }, waiting)
    }

    /// Has `then` written where `claim` is; `None` where too much waits to be written.
    fn write(&self, claim: &Claim, then: Vec<u8>, lasts: Duration) -> Option<oneshot::Receiver<Found>> {
        let (tell, told) = oneshot::channel();
        let lasts_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        self.writes.try_send(Write { claim: claim.clone(), then, lasts_ms, tell }).ok().map(|()| told)
    }
}

/// A claim that is let go where nothing else becomes of it: the request is denied, or its caller has gone.
struct Claimed<'a> {
    ids: &'a RequestIds,
    claim: Claim,
    is_kept: bool,
}

impl Claimed<'_> {
    fn keep(mut self, admitted: Admitted, lasts: Duration) -> Option<oneshot::Receiver<Found>> {
        self.is_kept = true;
        self.ids.write(&self.claim, encoded(&Entry::Admitted(admitted)), lasts)
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            // One that does not find its way ends by itself.
            drop(self.ids.write(&self.claim, Vec::new(), Duration::ZERO));
        }
    }
}

/// What came of a claim.
enum Turn<'a> {
    Mine(Claimed<'a>),
    Others(Entry),
    /// The store does not say.
    Unknown,
}

impl Desk {
    /// Decides a request of this id, unless somebody in the fleet has or does.
    pub(super) async fn decide_once(
        &self,
        mut now: Timestamp,
        request: &Request<'_>,
        id: &str,
    ) -> Result<Reserved, ReserveError> {
        let (until, mut is_awaited) = (soon(self.settings.timeout), false);
        loop {
            let claimed = match self.claim(now, request.key, id, until).await {
                Turn::Mine(claimed) => claimed,
                Turn::Unknown if is_awaited => return Err(ReserveError::Undecided),
                // Retries are safe on the same sidecar then.
                Turn::Unknown => return self.decide(now, request, Ledger::Away, Some(until)).await,
                Turn::Others(Entry::Admitted(admitted)) => return self.repeat(now, request, admitted, until).await,
                Turn::Others(Entry::Deciding(_)) if Instant::now() + 2 * LOOK_AGAIN < until => {
                    is_awaited = true;
                    sleep(LOOK_AGAIN).await;
                    now = now.max((self.now)());
                    continue;
                }
                Turn::Others(Entry::Deciding(_)) => return Err(ReserveError::Undecided),
            };
            let decided = self.decide(now, request, Ledger::Asked, Some(until)).await?;
            let Some(allowed) = decided.answer.outcome.ok() else { return Ok(decided) };
            let lasts = allowed.admitted_at.after(allowed.ttl).after(MEMORY).since(now);
            let told = claimed.keep(Admitted::of(request, &allowed), lasts);
            let Some(told) = told else { return Ok(decided) };
            match timeout_at(until, told).await {
                // This sidecar stood still for longer than its claim: somebody else has decided.
                Ok(Ok(Some(_))) => {
                    if let Some(id) = &decided.reservation_id {
                        // It is live, as nobody knows its id.
                        let _ = self.table.release((self.now)(), &id.text(request.key)).await;
                    }
                    now = now.max((self.now)());
                    self.on_news(now, request.key, Duration::ZERO);
                }
                Ok(Ok(None) | Err(_)) | Err(_) => return Ok(decided),
            }
        }
    }

    async fn claim(&self, now: Timestamp, key: KeyRef<'_>, id: &str, until: Instant) -> Turn<'_> {
        if !self.is_ready(now, key) {
            return Turn::Unknown;
        }
        let ids = &self.request_ids;
        let number = Number { incarnation: self.table.incarnation, sequence: ids.next.fetch_add(1, Ordering::Relaxed) };
        let mine = encoded(&Entry::Deciding(number));
        let name = request_key(slot(key), self.table.checksum_keys.load().newest.name(key, id));
        let claim = Claim { slot: slot(key), name, mine: mine.clone() };
        let Some(told) = ids.write(&claim, mine, CLAIM_LASTS) else {
            self.counters.queue_full.fetch_add(1, Ordering::Relaxed);
            return Turn::Unknown;
        };
        match timeout_at(until, told).await {
            Ok(Ok(None)) => Turn::Mine(Claimed { ids, claim, is_kept: false }),
            // What cannot be read is a later program's.
            Ok(Ok(Some(found))) => minicbor::decode(&found).map_or(Turn::Unknown, Turn::Others),
            // The link is broken.
            Ok(Err(_)) => Turn::Unknown,
            Err(_) => {
                self.on_waited_in_vain();
                Turn::Unknown
            }
        }
    }

    /// Answers as the sidecar did that admitted the request.
    async fn repeat(
        &self,
        now: Timestamp,
        request: &Request<'_>,
        admitted: Admitted,
        until: Instant,
    ) -> Result<Reserved, ReserveError> {
        let ticket = admitted.ticket();
        if ticket.number.incarnation == self.table.incarnation {
            return self.decide(now, request, Ledger::Asked, Some(until)).await;
        }
        if admitted.stated != Stated::of(request) || now > ticket.admitted_at.after(REPLAY) {
            return Err(ReserveError::RequestIdTaken);
        }
        let reservation_id = ReservationId::new(self.table.checksum_keys.load().newest, ticket);
        let id = reservation_id.text(request.key);
        // One of which something is known here was settled here, as its sidecar was gone.
        if self.table.of_another(&id).is_none() {
            return Err(ReserveError::RequestIdTaken);
        }
        match timeout_at(until, self.carried((request.key.to_owned(), ticket), &id, Verb::Look)).await {
            Ok(Some(Where::There(Ok(_)))) => {}
            Ok(Some(Where::There(Err(_)))) => return Err(ReserveError::RequestIdTaken),
            // The sidecar is gone: nobody has prolonged it.
            Ok(Some(Where::Here)) if now < ticket.admitted_at.after(ticket.ttl) => {}
            Ok(Some(Where::Here)) => return Err(ReserveError::RequestIdTaken),
            Ok(None) | Err(_) => return Err(ReserveError::Undecided),
        }
        let (number, reserved, admitted_at, ttl) = (ticket.number, ticket.reserved, ticket.admitted_at, ticket.ttl);
        let allowed = Allowed { number, reserved, admitted_at, ttl, replayed: true };
        // So that they are the fleet's, also where the key is not known yet.
        if let Some(told) = self.question(now, request.key, |_| true) {
            let _ = timeout_at(until, told).await;
        }
        let windows = self.windows(now, request.key, request.service_tier);
        Ok(Reserved {
            answer: Answer { outcome: Ok(allowed), windows },
            reservation_id: Some(reservation_id),
            shadow: false,
        })
    }
}
