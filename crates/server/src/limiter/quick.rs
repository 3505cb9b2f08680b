//! The calls that come with each request of a gateway, from the bytes that they came in to the bytes that are sent.
//!
//! Nothing here allocates, and nothing waits: `None` where the store has to be waited for, or the message is not as expected, and
//! then nothing was done and the generated service is to be asked.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tidegate_core::state::SettleCounts;
use tidegate_proto::convert;
use tidegate_proto::wire::write::{self, Response, nested};
use tidegate_proto::wire::{CheckAndReserve, Settle, read};
use tidegate_store::{ReservationId, Store};
use tonic::Status;

use super::{Limiter, batch, of_reservation, undecided};
use crate::reply::framed;

/// Answers of a thread are written into pieces of memory of this size, one after the other. An answer that nobody reads holds its piece.
const PIECE_BYTES: usize = 16 * 1_024;
/// Room for the answer to one call; where it has not enough, it grows.
const ANSWER_BYTES: usize = 2_048;

thread_local! {
    static OUT: RefCell<BytesMut> = RefCell::default();
}

/// A method that is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    CheckAndReserve,
    Settle,
    BatchCheckAndReserve,
    BatchSettle,
}

impl Method {
    /// The one at `path`, if it is one.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/tidegate.v1.RateLimiterService/")? {
            "CheckAndReserve" => Some(Self::CheckAndReserve),
            "Settle" => Some(Self::Settle),
            "BatchCheckAndReserve" => Some(Self::BatchCheckAndReserve),
            "BatchSettle" => Some(Self::BatchSettle),
            _ => None,
        }
    }
}

impl<S: Store> Limiter<S> {
    /// The answer to `message`, laid out as the only one of a body.
    pub(crate) fn answer_alone(&self, method: Method, message: &[u8]) -> Option<Result<Bytes, Status>> {
        OUT.with_borrow_mut(|out| {
            // Of a call that panicked.
            out.clear();
            if out.capacity() < ANSWER_BYTES {
                out.reserve(PIECE_BYTES);
            }
            let answered = framed(out, |out| self.answer_now(method, message, out).ok_or(None)?.map_err(Some));
            match answered {
                Ok(()) => Some(Ok(out.split().freeze())),
                Err(status) => status.map(Err),
            }
        })
    }

    fn answer_now(&self, method: Method, message: &[u8], out: &mut BytesMut) -> Option<Result<(), Status>> {
        match method {
            Method::CheckAndReserve => self.check_now(&CheckAndReserve::read(message)?, out),
            Method::Settle => self.settle_now(&Settle::read(message)?, out),
            Method::BatchCheckAndReserve => self.each_now(
                ("CheckAndReserve", message),
                CheckAndReserve::read,
                |call, out| self.check_now(call, out),
                out,
            ),
            Method::BatchSettle => {
                self.each_now(("Settle", message), Settle::read, |call, out| self.settle_now(call, out), out)
            }
        }
    }

    /// Decides `call`, and appends the message that says what.
    pub(super) fn check_now(&self, call: &CheckAndReserve<'_>, out: &mut BytesMut) -> Option<Result<(), Status>> {
        let read = self.clock.read();
        let (view, ask) = match self.parsed(call) {
            Ok(parsed) => parsed,
            Err(status) => return Some(Err(status)),
        };
        let reserved = match self.store.check_and_reserve_now(read.now, &ask)? {
            Ok(reserved) => reserved,
            Err(failure) => return Some(Err(undecided(failure))),
        };
        let id_length = if reserved.reservation_id.is_some() { ReservationId::len(ask.key) } else { 0 };
        let (answer, shadow, unit) = (&reserved.answer, reserved.shadow, self.unit);
        Response { answer, shadow, view, unit, id_length }.write(out, |bytes| {
            if let Some(id) = &reserved.reservation_id {
                id.write(ask.key, bytes);
            }
        });
        self.on_decided(&read, &ask, &reserved);
        Some(Ok(()))
    }

    /// Settles as `call` says, and appends the message that says what came of it.
    pub(super) fn settle_now(&self, call: &Settle<'_>, out: &mut BytesMut) -> Option<Result<(), Status>> {
        let now = self.clock.now();
        let settlement = match convert::settle(*call) {
            Ok(settlement) => settlement,
            Err(invalid) => return Some(Err(invalid.into())),
        };
        let counts = SettleCounts {
            prompt_tokens: settlement.prompt_tokens,
            cached_prompt_tokens: settlement.cached_prompt_tokens,
            generated_tokens: settlement.generated_tokens,
        };
        let booked = of_reservation(self.store.settle_now(now, settlement.reservation_id, counts)?);
        Some(booked.map(|booked| {
            let (outcome, clamped) = self.on_booked(booked);
            write::settle_response(out, outcome, clamped);
        }))
    }

    /// Makes each call of a batch, and appends their results: field 1 of each is its answer, field 2 its error.
    fn each_now<'a, C>(
        &self,
        (method, message): (&str, &'a [u8]),
        read: impl Fn(&'a [u8]) -> Option<C>,
        make: impl Fn(&C, &mut BytesMut) -> Option<Result<(), Status>>,
        out: &mut BytesMut,
    ) -> Option<Result<(), Status>> {
        let mut calls = 0;
        for call in read::requests(message) {
            read(call?)?;
            calls += 1;
        }
        if let Err(status) = batch::bounded(calls) {
            return Some(Err(status));
        }
        let mut is_done = true;
        for call in read::requests(message).flatten().filter_map(read) {
            nested(out, 1, |out| {
                let mut made = None;
                let at = out.len();
                nested(out, 1, |out| made = make(&call, out));
                match made {
                    Some(Ok(())) => {}
                    Some(Err(status)) => {
                        out.truncate(at);
                        let error = self.failed(method, &status);
                        nested(out, 2, |out| error.encode(out).expect("a buffer that grows has room"));
                    }
                    None => is_done = false,
                }
            });
            if !is_done {
                return None;
            }
        }
        Some(Ok(()))
    }
}
