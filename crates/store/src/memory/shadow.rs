//! Ids of requests that were let through although a limit denies them.
//!
//! Such a request reserves nothing, so its id is its whole state: it says that nothing was reserved. No other id can, as a
//! prompt has at least one token. Rejected: charging what it really uses, which would leave the windows above their limits
//! for as long as the clients go on, and predict denials that enforcement would not cause.

use std::sync::atomic::Ordering;

use tidegate_core::ask::Request;
use tidegate_core::decision::Answer;
use tidegate_core::policy::Enforcement;
use tidegate_core::reservation::{Number, Ticket};
use tidegate_core::time::Timestamp;
use tidegate_core::window::Tokens;

use super::MemoryStore;
use crate::reservation_id::ReservationId;

/// Whether `answer` is a denial that is told beside an ALLOW.
pub(super) fn is_shadowed(answer: &Answer, enforcement: Enforcement) -> bool {
    enforcement == Enforcement::Shadow && answer.outcome.is_err_and(|denied| denied.denial.is_by_limit())
}

/// Whether the id of `ticket` was made by [`MemoryStore::shadow_id`].
pub(super) fn reserved_nothing(ticket: &Ticket) -> bool {
    ticket.reserved == Tokens::default()
}

impl MemoryStore {
    /// An id for a request that reserves nothing. Its numbers are counted apart from those of reservations, which keys keep.
    pub(super) fn shadow_id(&self, now: Timestamp, request: &Request<'_>) -> ReservationId {
        let sequence = self.next_shadow.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket {
            number: Number { incarnation: self.incarnation, sequence },
            admitted_at: now,
            ttl: request.ttl,
            reserved: Tokens::default(),
        };
        ReservationId::new(self.checksum_keys.load().newest, ticket)
    }
}
