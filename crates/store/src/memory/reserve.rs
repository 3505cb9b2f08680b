//! `CheckAndReserve`: find the key, or make room for it, and decide under its lock.

use std::sync::atomic::Ordering;

use dashmap::mapref::entry::Entry as Place;
use tidegate_core::ask::Request;
use tidegate_core::decision::{Answer, Bound, Denial, ServiceTier};
use tidegate_core::policy::Enforcement;
use tidegate_core::reservation::{Number, Ticket};
use tidegate_core::state::{self, Reserve, Short};
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, WINDOW};

use super::entry::Entry;
use super::part::{self, Part};
use super::slot::Slot;
use super::{MemoryStore, shadow};
use crate::reservation_id::ReservationId;
use crate::timers::Fingerprint;
use crate::{ReserveError, Reserved};

/// An answer, and what a denial does that it may be.
type Decided = Result<Result<(Answer, Enforcement), Short>, ReserveError>;

impl MemoryStore {
    pub(super) fn reserve(&self, now: Timestamp, request: &Request<'_>) -> Result<Reserved, ReserveError> {
        let reserved = self.try_reserve(now, request, self.of_key(request.key), None)?;
        Ok(reserved.expect("whoever has all of a limit is never short"))
    }

    /// As a process that may count `part` of the key's limits; of which this is the `fingerprint`.
    pub(crate) fn try_reserve(
        &self,
        now: Timestamp,
        request: &Request<'_>,
        fingerprint: Fingerprint,
        part: Option<&Part>,
    ) -> Result<Result<Reserved, Short>, ReserveError> {
        let decided = match self.known(fingerprint) {
            Some(mut entry) => self.decide(now, fingerprint, &mut entry, request, part),
            None => self.reserve_at_new_key(now, fingerprint, request, part),
        }?;
        let (answer, enforcement) = match decided {
            Ok(decided) => decided,
            Err(short) => return Ok(Err(short)),
        };
        if let Err(denied) = answer.outcome
            && let Denial::Capacity(bound) = denied.denial
        {
            self.bound_reached[bound as usize].fetch_add(1, Ordering::Relaxed);
        }
        if shadow::is_shadowed(&answer, enforcement) {
            let reservation_id = Some(self.shadow_id(now, request));
            return Ok(Ok(Reserved { answer, reservation_id, shadow: true }));
        }
        let reservation_id = answer.outcome.ok().map(|allowed| {
            let ticket = Ticket {
                number: allowed.number,
                admitted_at: allowed.admitted_at,
                ttl: allowed.ttl,
                reserved: allowed.reserved,
            };
            ReservationId::new(self.checksum_keys.load().newest, ticket)
        });
        Ok(Ok(Reserved { answer, reservation_id, shadow: false }))
    }

    /// Only an ALLOW makes a key.
    fn reserve_at_new_key(
        &self,
        now: Timestamp,
        fingerprint: Fingerprint,
        request: &Request<'_>,
        part: Option<&Part>,
    ) -> Decided {
        let mut fresh = self.fresh(now, request.key);
        if let Some(law) = part.and_then(|part| part.law) {
            let rules = self.rules(&fresh.resolved, &self.defaults, PerWindow::default());
            fresh.state.follow_law(now, &law, &rules);
        }
        let (configured, enforcement) = (fresh.resolved.configured, fresh.resolved.enforcement);
        // First without a place, which only an ALLOW needs: what is denied for another reason must evict nobody.
        let answer = match self.probe(now, &mut fresh, request, part)? {
            Ok(answer) => answer,
            Err(short) => return Ok(Err(short)),
        };
        if answer.outcome.is_err_and(|denied| denied.denial != Denial::Capacity(Bound::Keys)) {
            return Ok(Ok((answer, enforcement)));
        }
        // Before the place is locked: making room locks other places.
        if let Err(bound) = self.make_room(now, configured) {
            let rules = self.rules(&fresh.resolved, &self.defaults, self.pressure(now, fresh.model));
            return Ok(Ok((fresh.state.refuse(&rules, request, bound), enforcement)));
        }
        match self.keys.entry(fingerprint) {
            Place::Occupied(mut slot) => {
                self.room.give_back(configured);
                self.decide(now, fingerprint, slot.get_mut().awake(self), request, part)
            }
            Place::Vacant(place) => {
                let decided = self.decide(now, fingerprint, &mut fresh, request, part)?;
                if decided.as_ref().is_ok_and(|(answer, _)| answer.outcome.is_ok()) {
                    // The first look at whether the key is idle; each look sets the next.
                    fresh.due_at = fresh.due_at.min(now.after(WINDOW));
                    self.timers.insert(fresh.due_at, fingerprint);
                    self.count_floor_above_ceiling(&fresh.resolved);
                    place.insert(Slot::Awake(Box::new(fresh)));
                } else {
                    self.room.give_back(configured);
                }
                Ok(decided)
            }
        }
    }

    /// What a key without a place would answer: a denial, and CAPACITY where it would have been an ALLOW.
    fn probe(
        &self,
        now: Timestamp,
        fresh: &mut Entry,
        request: &Request<'_>,
        part: Option<&Part>,
    ) -> Result<Result<Answer, Short>, ReserveError> {
        let rules = self.rules(&fresh.resolved, &self.defaults, self.pressure(now, fresh.model));
        if let Some(denial) = fresh.resolved.refused {
            return Ok(Ok(fresh.state.forbid(&rules, request, denial)));
        }
        let rules = part::narrowed(part, &mut fresh.state, now, &rules);
        let reserve = Reserve { request, request_id: None, most_reservations: 1 };
        let answer = fresh.state.try_reserve(now, &rules, &reserve, || Err(Bound::Keys));
        answer.map_err(|state::RequestIdTaken| ReserveError::RequestIdTaken)
    }

    fn decide(
        &self,
        now: Timestamp,
        fingerprint: Fingerprint,
        entry: &mut Entry,
        request: &Request<'_>,
        part: Option<&Part>,
    ) -> Decided {
        self.refresh(now, entry);
        let enforcement = entry.resolved.enforcement;
        if let Some(denial) = entry.resolved.refused {
            let answer = self.call(now, fingerprint, entry, |state, rules| {
                state.advance(now, rules);
                state.forbid(rules, request, denial)
            });
            return Ok(Ok((answer, enforcement)));
        }
        let reserve = Reserve {
            request,
            request_id: request.request_id.map(|id| self.fingerprint([id, "", ""])),
            most_reservations: usize::try_from(self.bounds.reservations_per_key).unwrap_or(usize::MAX),
        };
        let answer = self.call(now, fingerprint, entry, |state, rules| {
            let rules = part::narrowed(part, state, now, rules);
            state.try_reserve(now, &rules, &reserve, || self.draw())
        });
        let answer = match answer.map_err(|state::RequestIdTaken| ReserveError::RequestIdTaken)? {
            Ok(answer) => answer,
            Err(short) => return Ok(Err(short)),
        };
        self.mark_decided(fingerprint, entry, &answer);
        if answer.outcome.is_err_and(|denied| denied.denial.is_by_limit()) {
            entry.denials.add(now);
        }
        if request.service_tier == ServiceTier::Standard {
            let used = answer.windows.map(|status| status.used_tokens);
            self.on_standard_decision(now, entry.model, used, &entry.resolved.bounds);
        }
        Ok(Ok((answer, enforcement)))
    }

    /// Draws a reservation's number, unless too many are live. The live ones are counted by [`MemoryStore::call`]; threads
    /// that draw at the same instant may exceed the bound by one each.
    fn draw(&self) -> Result<Number, Bound> {
        if self.reservations.load(Ordering::Relaxed) >= self.bounds.reservations {
            return Err(Bound::Reservations);
        }
        Ok(Number { incarnation: self.incarnation, sequence: self.next_sequence.fetch_add(1, Ordering::Relaxed) })
    }
}
