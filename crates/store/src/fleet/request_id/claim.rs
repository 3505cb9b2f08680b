//! What is written of a request id.

use std::time::Duration;

use minicbor::{Decode, Encode};
use redis::{RedisResult, Script};
use tidegate_core::ask::Request;
use tidegate_core::decision::Allowed;
use tidegate_core::reservation::{Number, Stated, Ticket};
use tidegate_core::time::Timestamp;
use tidegate_core::window::Tokens;
use tokio::sync::oneshot;

use super::super::link::Connection;

/// What a request id stands for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Entry {
    /// It is being decided: by which sidecar, and which of its claims.
    #[n(0)]
    Deciding(#[n(0)] Number),
    #[n(1)]
    Admitted(#[n(0)] Admitted),
}

/// A reservation, and what was stated for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Admitted {
    #[n(0)]
    pub(super) stated: Stated,
    #[n(1)]
    number: Number,
    #[n(2)]
    admitted_at: Timestamp,
    #[n(3)]
    ttl: Duration,
    #[n(4)]
    reserved: Tokens,
}

impl Admitted {
    pub(super) const fn of(request: &Request<'_>, allowed: &Allowed) -> Self {
        let Allowed { number, reserved, admitted_at, ttl, replayed: _ } = *allowed;
        Self { stated: Stated::of(request), number, admitted_at, ttl, reserved }
    }

    pub(super) const fn ticket(&self) -> Ticket {
        let Self { number, admitted_at, ttl, reserved, stated: _ } = *self;
        Ticket { number, admitted_at, ttl, reserved }
    }
}

/// What somebody else has written for a request id; `None`: nobody has, and what was to be written is there.
pub(super) type Found = Option<Vec<u8>>;

/// Whose claim is on which request id.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// The slot of its limit key.
    pub(super) slot: u64,
    /// Where it is written.
    pub(super) name: String,
    /// The entry of whoever decides.
    pub(super) mine: Vec<u8>,
}

impl Claim {
    async fn put(
        &self,
        script: &Script,
        connection: &mut Connection,
        then: &[u8],
        lasts_ms: u64,
    ) -> RedisResult<Found> {
        let mut call = script.key(&self.name);
        call.arg(&self.mine).arg(then).arg(lasts_ms);
        call.invoke_async(connection).await
    }
}

/// What is to be there for a request id, unless somebody else has written it.
pub(in crate::fleet) struct Write {
    pub(super) claim: Claim,
    /// Nothing: it is let go.
    pub(super) then: Vec<u8>,
    pub(super) lasts_ms: u64,
    pub(super) tell: oneshot::Sender<Found>,
}

impl Write {
    pub(in crate::fleet) const fn slot(&self) -> u64 {
        self.claim.slot
    }

    pub(in crate::fleet) async fn make(self, script: &Script, mut connection: Connection) -> RedisResult<()> {
        let found = self.claim.put(script, &mut connection, &self.then, self.lasts_ms).await?;
        let is_claimed = found.is_none() && self.then == self.claim.mine;
        if self.tell.send(found).is_err() && is_claimed {
            // Whoever asked has gone on without it, or is gone.
            self.claim.put(script, &mut connection, &[], 0).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::layout::encoded;

    #[test]
    fn an_entry_is_read_as_it_was_written_and_no_two_claims_are_alike() {
        let number = |sequence| Number { incarnation: 7, sequence };
        let request = Request {
            key: tidegate_core::key::KeyRef::new("acme", "opus", "").expect("well formed"),
            prompt_tokens: 1 << 40,
            cached_prompt_tokens: None,
            max_generated_tokens: Some(0),
            service_tier: tidegate_core::decision::ServiceTier::Standard,
            request_id: Some("a"),
            ttl: Duration::from_micros(1_000_001),
        };
        let allowed = Allowed {
            number: number(u64::MAX),
            reserved: Tokens::new(1, 2, 3),
            admitted_at: Timestamp::from_micros(1_700_000_000_000_001),
            ttl: request.ttl,
            replayed: false,
        };
        let admitted = Admitted::of(&request, &allowed);
        for entry in [Entry::Deciding(number(1)), Entry::Admitted(admitted)] {
            assert_eq!(minicbor::decode::<Entry>(&encoded(&entry)).expect("an entry"), entry);
        }
        let ticket = admitted.ticket();
        assert_eq!((ticket.number, ticket.reserved), (allowed.number, allowed.reserved));
        assert_eq!((ticket.admitted_at, ticket.ttl), (allowed.admitted_at, allowed.ttl));
        assert_ne!(encoded(&Entry::Deciding(number(1))), encoded(&Entry::Deciding(number(2))));
        assert!(minicbor::decode::<Entry>(b"").is_err());
    }
}
