//! A key as a store writes it down, and how it comes back.
//!
//! The head says what the windows and the law are and changes with every call; items are what a busy key has many of. A
//! charge and the memory of its settlement are in what is written together. What follows from them (lines of the holds,
//! timers, streams of each cohort) is made again.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

#[cfg(test)]
use minicbor::Encode;
use minicbor::{Decode, Decoder, decode};

use super::cohort::{Cohort, Cohorts};
use super::denied::Denied;
use super::expiry::Expiries;
use super::silence::{Looks, Whom};
use super::touched::{Item, Touched};
use super::watch::Watch;
use super::{Forget, KeyState, KnownRequest};
use crate::MAX_TOKENS;
use crate::charges::{Charges, Output};
use crate::forecast::{Figures, Lengths, Prior};
use crate::holds::{Hold, Holds};
use crate::key::KeyRef;
use crate::law::Law;
use crate::law::history::History;
use crate::record::{self, Page, Record};
use crate::reservation::{CohortId, Ended, Held, Issued, Number, Reservation};
use crate::room::push_room;
use crate::small_map::SmallMap;
use crate::time::Timestamp;

/// All of a key but its items.
#[derive(Decode)]
#[cfg_attr(test, derive(Encode))]
struct Head<'a> {
    #[n(0)]
    now: Timestamp,
    #[n(1)]
    law: Law,
    #[n(2)]
    history: Cow<'a, History>,
    #[n(3)]
    prompt: Cow<'a, Charges<2>>,
    #[n(4)]
    generated: Cow<'a, Output>,
    #[n(5)]
    figures: Figures,
    #[n(6)]
    lengths: Cow<'a, Lengths>,
    /// `None` while the key takes what is believed of its model with each request.
    #[n(7)]
    prior: Option<Cow<'a, Prior>>,
    #[n(8)]
    watch: Watch,
    #[n(9)]
    denied: Cow<'a, Denied>,
    #[n(10)]
    issued: Cow<'a, Issued>,
    #[n(11)]
    forgotten: Option<Number>,
    #[n(12)]
    ids_good_until: Timestamp,
}

/// One item.
#[derive(Decode)]
#[cfg_attr(test, derive(Encode))]
enum Part<'a> {
    #[n(0)]
    Cohort(#[n(0)] CohortId, #[n(1)] Cow<'a, Cohort>),
    #[n(1)]
    Live(#[n(0)] Number, #[n(1)] Cow<'a, Reservation>),
    #[n(2)]
    Ended(#[n(0)] Number, #[n(1)] Cow<'a, Ended>),
    /// Settled: the numbers that the key issued tell.
    #[n(3)]
    Gone(#[n(0)] Number),
    #[n(4)]
    Request(#[cbor(n(0), with = "crate::record::hash")] u128, #[n(1)] Cow<'a, KnownRequest>),
}

impl KeyState {
    /// Items that it has.
    #[must_use]
    pub fn items(&self) -> usize {
        self.cohorts.len() + self.live.len() + self.ended.len() + self.requests.len()
    }

    /// At most `most` of its items, those after `after`, in order.
    #[must_use]
    pub fn items_after(&self, after: Option<Item>, most: usize) -> Vec<Item> {
        let (cohort, number, request) = match after {
            None => (Some(None), Some(None), Some(None)),
            Some(Item::Cohort(id)) => (Some(Some(id)), Some(None), Some(None)),
            Some(Item::Reservation(number)) => (None, Some(Some(number)), Some(None)),
            Some(Item::Request(id)) => (None, None, Some(Some(id))),
        };
        let cohorts = cohort.into_iter().flat_map(|after| self.cohorts.after(after)).map(Item::Cohort);
        // Live and ended ones, in one order: the two never share a number.
        let reservations = number.into_iter().flat_map(|after| {
            let live = self.live.after(after).map(|(number, _)| *number).take(most);
            let ended = self.ended.after(after).map(|(number, _)| *number).take(most);
            let mut numbers: Vec<Number> = live.chain(ended).collect();
            numbers.sort_unstable();
            numbers
        });
        let requests = request.into_iter().flat_map(|after| self.requests.after(after)).map(|(id, _)| *id);
        cohorts.chain(reservations.map(Item::Reservation)).chain(requests.map(Item::Request)).take(most).collect()
    }

    /// Notes from now on which items change.
    pub fn note_items(&mut self) {
        self.touched.start();
    }

    /// Notes nothing any longer.
    pub fn note_nothing(&mut self) {
        self.touched.stop();
    }

    /// The items that changed, and of which some may be gone, since this was called last or [`KeyState::note_items`] was;
    /// in no order and some more than once; `None` where they are not noted, or were too many to be noted.
    pub fn take_noted(&mut self) -> Option<Vec<Item>> {
        self.touched.take()
    }

    /// Writes the head down.
    pub fn write_head(&self, out: &mut Vec<u8>) {
        let prior = (!self.needs_fallback()).then_some(&self.prior);
        record::write(out, |page| {
            // The fields of `Head`.
            let page = self.law.put(self.now.put(page.row(13))).other(&self.history);
            let page = self.figures.put(self.generated.put(self.prompt.put(page)));
            let page = self.watch.put(prior.put(self.lengths.put(page))).other(&self.denied);
            self.ids_good_until.put(self.forgotten.put(self.issued.put(page)))
        });
    }

    /// Writes these items down as they are now, or that they are gone.
    pub fn write_items(&self, items: &[Item], out: &mut Vec<u8>) {
        record::write(out, |page| items.iter().fold(page, |page, item| self.put_item(item, page)));
    }

    fn put_item<'a>(&self, item: &Item, page: Page<'a>) -> Page<'a> {
        match item {
            Item::Cohort(id) => match self.cohorts.get(*id) {
                Some(cohort) => put_cohort(page, id, cohort),
                // It is gone when its last stream is.
                None => page,
            },
            Item::Reservation(number) => match (self.live.get(number), self.ended.get(number)) {
                (Some(live), _) => put_live(page, number, live),
                (None, Some(ended)) => put_ended(page, number, ended),
                (None, None) => number.put(page.variant(3, 1)),
            },
            Item::Request(id) => match self.requests.get(id) {
                Some(known) => put_request(page, *id, known),
                // It is gone when its time has come.
                None => page,
            },
        }
    }

    /// As [`KeyState::write_items`] of all of them, and cheaper.
    pub fn write_all_items(&self, out: &mut Vec<u8>) {
        record::write(out, |page| {
            let mut page = self.cohorts.iter().fold(page, |page, (id, cohort)| put_cohort(page, &id, cohort));
            // Live and ended ones, in one order: the two never share a number.
            let mut ended = self.ended.iter().peekable();
            for (number, live) in self.live.iter() {
                while let Some((number, ended)) = ended.next_if(|(ended, _)| *ended < number) {
                    page = put_ended(page, number, ended);
                }
                page = put_live(page, number, live);
            }
            let page = ended.fold(page, |page, (number, ended)| put_ended(page, number, ended));
            self.requests.iter().fold(page, |page, (id, known)| put_request(page, *id, known))
        });
    }
}

// The variants of `Part`.

fn put_cohort<'a>(page: Page<'a>, id: &CohortId, cohort: &Cohort) -> Page<'a> {
    cohort.put(id.put(page.variant(0, 2)))
}

fn put_live<'a>(page: Page<'a>, number: &Number, live: &Reservation) -> Page<'a> {
    live.put(number.put(page.variant(1, 2)))
}

fn put_ended<'a>(page: Page<'a>, number: &Number, ended: &Ended) -> Page<'a> {
    ended.put(number.put(page.variant(2, 2)))
}

fn put_request<'a>(page: Page<'a>, id: u128, known: &KnownRequest) -> Page<'a> {
    known.put(page.variant(4, 2).hash(id))
}

fn possible(hold: &Hold, now: Timestamp) -> Result<(), decode::Error> {
    if hold.is_possible(now) { Ok(()) } else { Err(decode::Error::message("a hold that cannot be")) }
}

/// A key that is being read back: its head, then its items in the order in which they were written; a later one takes the
/// place of an earlier one.
pub struct Restored {
    head: Head<'static>,
    cohorts: SmallMap<CohortId, Box<Cohort>>,
    live: SmallMap<Number, Box<Reservation>>,
    ended: SmallMap<Number, Ended>,
    requests: SmallMap<u128, KnownRequest>,
}

impl Restored {
    /// Begins with what [`KeyState::write_head`] wrote; bytes after that are left alone.
    ///
    /// # Errors
    /// It is not a head.
    pub fn read_head(bytes: &[u8]) -> Result<Self, decode::Error> {
        Ok(Self {
            head: minicbor::decode(bytes)?,
            cohorts: SmallMap::default(),
            live: SmallMap::default(),
            ended: SmallMap::default(),
            requests: SmallMap::default(),
        })
    }

    /// Takes in what [`KeyState::write_items`] wrote, all of `bytes`.
    ///
    /// # Errors
    /// They are not items.
    pub fn read_items(&mut self, bytes: &[u8]) -> Result<(), decode::Error> {
        let mut decoder = Decoder::new(bytes);
        while decoder.position() < bytes.len() {
            match decoder.decode::<Part<'_>>()? {
                Part::Cohort(id, cohort) => {
                    possible(&cohort.hold, self.head.now)?;
                    self.cohorts.insert(id, Box::new(cohort.into_owned()));
                }
                Part::Live(number, live) => {
                    if let Held::Alone(hold) = &live.held {
                        possible(hold, self.head.now)?;
                    }
                    if live.reserved.generated > MAX_TOKENS {
                        return Err(decode::Error::message("more is held than can be"));
                    }
                    self.live.insert(number, Box::new(live.into_owned()));
                }
                Part::Ended(number, ended) => {
                    self.live.remove(&number);
                    self.ended.insert(number, ended.into_owned());
                }
                Part::Gone(number) => {
                    self.live.remove(&number);
                    self.ended.remove(&number);
                }
                Part::Request(id, known) => self.requests.insert(id, known.into_owned()),
            }
        }
        Ok(())
    }

    /// When the key was written down.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.head.now
    }

    /// The state of `key` as of [`Restored::now`]; `fallback` is what requests of its model do.
    #[must_use]
    pub fn finish(self, key: KeyRef<'_>, fallback: &Prior) -> KeyState {
        let Self { head, mut cohorts, mut live, mut ended, mut requests } = self;
        let now = head.now;
        let mut holds = Holds::default();
        let mut looks = Looks::default();
        holds.advance(now);
        for (number, live) in live.after_mut(None) {
            match &live.held {
                Held::Nothing => {}
                Held::Alone(hold) => {
                    holds.insert(hold);
                    looks.push(live.look_at, Whom::Stream(*number));
                }
                Held::Cohort(id) => match cohorts.get_mut(id) {
                    Some(cohort) => {
                        holds.insert_like(&cohort.hold, live.reserved.generated);
                        cohort.streams += 1;
                    }
                    None => live.held = Held::Nothing,
                },
            }
        }
        let expiries = Expiries::of(&live);
        let cohorts = Cohorts::restored(cohorts, now);
        for (id, cohort) in cohorts.iter() {
            looks.push(cohort.look_at, Whom::Cohort(id));
        }
        ended.retain(|_, ended| ended.until > now);
        requests.retain(|_, known| known.until > now);
        let forgotten = ended.iter().map(|(number, ended)| (ended.until, Forget::Reservation(*number)));
        let forgets = forgotten.chain(requests.iter().map(|(id, known)| (known.until, Forget::Request(*id))));
        let mut kept = BinaryHeap::new();
        forgets.for_each(|forget| {
            push_room(&mut kept);
            kept.push(Reverse(forget));
        });
        KeyState {
            now,
            phase_seconds: key.phase_seconds(),
            law: head.law,
            history: head.history.into_owned(),
            prompt: head.prompt.into_owned(),
            generated: head.generated.into_owned(),
            holds,
            figures: head.figures,
            lengths: head.lengths.into_owned(),
            prior: Box::new(head.prior.map_or(*fallback, Cow::into_owned)),
            watch: head.watch,
            denied: head.denied.into_owned(),
            live,
            ended,
            requests,
            issued: head.issued.into_owned(),
            expiries,
            forgets: kept,
            cohorts,
            beginning: None,
            looks,
            forgotten: head.forgotten.map(Box::new),
            ids_good_until: head.ids_good_until,
            expired: 0,
            touched: Touched::default(),
        }
    }
}

#[cfg(test)]
mod derived;
