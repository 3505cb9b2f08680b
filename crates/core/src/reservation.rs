//! Reservations: what an ALLOW created, until it is settled, released or expires, and what is remembered of it afterwards.
//!
//! An ended reservation is remembered so that a repeated settlement cannot charge twice. Rejected: a record for each, which
//! at 20,000 requests/s is 30 million records. Numbers are issued in ascending order, so a number that lies within a range
//! this key issued and is not live has ended; a record is kept only where that is not the whole truth: of reservations that
//! were released or expired (their tokens may still come), and of those that outlived the TTL in their id.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use minicbor::{Decode, Decoder, Encode, decode};

use crate::ask::Request;
use crate::holds::Hold;
use crate::record::{Page, Record, record};
use crate::room::push_room;
use crate::time::Timestamp;
use crate::window::Tokens;

/// How long past its TTL a reservation is remembered.
pub const MEMORY: Duration = Duration::from_secs(15 * 60);

/// How long a request id repeats its first answer.
pub const REPLAY: Duration = Duration::from_secs(60);

/// Which reservation: the process that issued it, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Number {
    /// Drawn at random by each process at its start.
    #[n(0)]
    pub incarnation: u64,
    /// Ascending within the process.
    #[n(1)]
    pub sequence: u64,
}

record!(Number { incarnation, sequence });

/// What a reservation id says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Which reservation.
    pub number: Number,
    /// When it was admitted.
    pub admitted_at: Timestamp,
    /// How long it lives without progress.
    pub ttl: Duration,
    /// What it charged and held.
    pub reserved: Tokens,
}

impl Ticket {
    /// Until when an id is good: 15 min past its TTL. Progress prolongs what a store remembers, not what the id says.
    #[must_use]
    pub fn good_until(&self) -> Timestamp {
        self.admitted_at.after(self.ttl).after(MEMORY)
    }
}

/// What a request stated; two asks are the same if these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Stated {
    #[n(0)]
    prompt_tokens: u64,
    #[n(1)]
    cached_prompt_tokens: Option<u64>,
    /// The most the model may generate.
    #[n(2)]
    pub max_generated_tokens: Option<u64>,
}

record!(Stated { prompt_tokens, cached_prompt_tokens, max_generated_tokens });

impl Stated {
    /// What `request` stated.
    #[must_use]
    pub const fn of(request: &Request<'_>) -> Self {
        Self {
            prompt_tokens: request.prompt_tokens,
            cached_prompt_tokens: request.cached_prompt_tokens,
            max_generated_tokens: request.max_generated_tokens,
        }
    }
}

/// Streams that are held alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct CohortId {
    /// When they were admitted, in spans since the epoch.
    #[n(0)]
    pub(crate) number: u64,
    /// What each of them may produce at most.
    #[n(1)]
    pub(crate) most: u64,
}

record!(CohortId { number, most });

/// How the output is held that a stream may still produce.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum Held {
    /// It has ended, or its hold was dropped.
    #[default]
    #[n(0)]
    Nothing,
    /// As the others of its cohort, but for the tokens: those it reserved.
    #[n(1)]
    Cohort(#[n(0)] CohortId),
    /// By itself: it has reported.
    #[n(2)]
    Alone(#[n(0)] Box<Hold>),
}

impl Record for Held {
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        match self {
            Self::Nothing => page.variant(0, 0),
            Self::Cohort(id) => id.put(page.variant(1, 1)),
            Self::Alone(hold) => hold.put(page.variant(2, 1)),
        }
    }
}

/// A live reservation, or the last state of an ended one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Reservation {
    /// When it was admitted.
    #[n(0)]
    pub admitted_at: Timestamp,
    /// How long it lives without progress.
    #[n(1)]
    pub ttl: Duration,
    /// When it ends by itself; progress renews it.
    #[n(2)]
    pub expires_at: Timestamp,
    /// What the answer said was charged and held.
    #[n(3)]
    pub reserved: Tokens,
    /// What the request stated; `None` for one that this store learnt of by its settlement.
    #[n(4)]
    pub stated: Option<Stated>,
    /// Prompt and uncached prompt tokens that its admission charged, as corrected.
    #[n(5)]
    pub charged: [u64; 2],
    /// Of these, what a report stated, and so the law has seen.
    #[n(6)]
    pub counted: [u64; 2],
    /// Generated tokens reported so far.
    #[n(7)]
    pub generated: u64,
    /// When; the admission if never.
    #[n(8)]
    pub reported_at: Timestamp,
    /// What is held of it.
    #[n(9)]
    pub held: Held,
    /// Its pace: microseconds for a token; at least 1.
    #[n(10)]
    pub micros_per_token: u64,
    /// When it is looked at next, if it is held by itself and says nothing.
    #[n(11)]
    pub look_at: Timestamp,
}

record!(Reservation {
    admitted_at,
    ttl,
    expires_at,
    reserved,
    stated,
    charged,
    counted,
    generated,
    reported_at,
    held,
    micros_per_token,
    look_at
});

impl Reservation {
    /// Most that one takes, in bytes, with its hold, or with a cohort of which it is the only stream.
    pub const MOST_BYTES: usize = size_of::<Self>() + size_of::<Hold>() + 2 * size_of::<CohortId>() + 32;

    /// Tokens held of it, before any of that has faded.
    #[must_use]
    pub fn held_tokens(&self) -> u64 {
        match &self.held {
            Held::Nothing => 0,
            Held::Cohort(_) => self.reserved.generated,
            Held::Alone(hold) => hold.tokens(),
        }
    }

    /// The reservation behind a ticket whose own record is not here: nothing of it was charged.
    #[must_use]
    pub fn unknown(ticket: &Ticket) -> Self {
        Self {
            admitted_at: ticket.admitted_at,
            ttl: ticket.ttl,
            expires_at: ticket.admitted_at.after(ticket.ttl),
            reserved: ticket.reserved,
            stated: None,
            charged: [0, 0],
            counted: [0, 0],
            generated: 0,
            reported_at: ticket.admitted_at,
            held: Held::Nothing,
            micros_per_token: 1,
            look_at: ticket.admitted_at,
        }
    }
}

/// What is remembered of an ended reservation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ended {
    /// Until when.
    #[n(0)]
    pub until: Timestamp,
    /// Its last state, if it was released or expired: a settlement is then booked once. `None` once it was settled.
    #[n(1)]
    pub unsettled: Option<Box<Reservation>>,
}

record!(Ended { until, unsettled });

/// The numbers that a key issued, one range for each incarnation of the process, newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode)]
#[cbor(transparent)]
pub struct Issued(Vec<Range>);

impl<'b, C> Decode<'b, C> for Issued {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let mut ranges: Vec<Range> = d.decode_with(ctx)?;
        ranges.shrink_to_fit();
        Ok(Self(ranges))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
struct Range {
    #[n(0)]
    incarnation: u64,
    #[n(1)]
    first: u64,
    #[n(2)]
    last: u64,
}

record!(Range { incarnation, first, last });

/// Most ranges kept: processes that issued for a key within the longest memory. Older ones are forgotten, and what they
/// issued counts as unknown.
const MOST_RANGES: usize = 16;

impl Record for Issued {
    fn put<'a>(&self, page: Page<'a>) -> Page<'a> {
        self.0.as_slice().put(page)
    }
}

impl Issued {
    /// Adds `number`, the highest of its incarnation so far.
    pub fn push(&mut self, number: Number) {
        match self.0.last_mut().filter(|range| range.incarnation == number.incarnation) {
            Some(range) => range.last = number.sequence,
            None => {
                if self.0.len() == MOST_RANGES {
                    self.0.remove(0);
                }
                let Number { incarnation, sequence } = number;
                push_room(&mut self.0);
                self.0.push(Range { incarnation, first: sequence, last: sequence });
            }
        }
    }

    /// Whether `number` lies within what the key issued. Another key's number never comes here: its id names that key.
    #[must_use]
    pub fn contains(&self, number: Number) -> bool {
        self.0.iter().any(|range| {
            range.incarnation == number.incarnation && (range.first..=range.last).contains(&number.sequence)
        })
    }
}
