//! How the live streams of a key are held: alone, or with others.
//!
//! Streams that were admitted within the same half second, may produce as much at most, and have said nothing since are all
//! expected to do the same. So what is expected of them is worked out once for all of them, and looked at again once for all.
//! A busy key has a few minutes' worth of cohorts, whatever its number of streams.
//!
//! Rejected: cohorts of a second, which cost a sixth less and let silent streams overshoot by up to twice as much.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use core::time::Duration;

use super::{KeyState, Rules};
use crate::forecast;
use crate::holds::{Hold, Holds};
use crate::reservation::{CohortId, Held, Number, Reservation};
use crate::time::{Timestamp, micros};

/// How long a cohort takes in streams.
const SPAN: Duration = Duration::from_millis(500);

/// Streams of which the same is expected; what is held differs.
#[derive(Clone, Debug)]
pub(super) struct Cohort {
    pub(super) hold: Hold,
    pub(super) streams: u32,
    /// When its streams were admitted, more or less.
    pub(super) began: Timestamp,
    pub(super) micros_per_token: u64,
}

/// The cohorts of a key. One without streams stays until its time to take some in has ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Cohorts(BTreeMap<CohortId, Box<Cohort>>);

impl Cohorts {
    pub(super) fn get(&self, id: CohortId) -> Option<&Cohort> {
        self.0.get(&id).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: CohortId) -> Option<&mut Cohort> {
        self.0.get_mut(&id).map(Box::as_mut)
    }

    /// Forgets a cohort that has no stream, and will not get one again.
    pub(super) fn forget(&mut self, id: CohortId, now: Timestamp) -> bool {
        let over = id.number < number_at(now) && self.0.get(&id).is_none_or(|cohort| cohort.streams == 0);
        if over {
            self.0.remove(&id);
        }
        over
    }

    /// Takes back what is held of a stream that was held.
    pub(super) fn let_go(&mut self, holds: &mut Holds, live: &mut Reservation, now: Timestamp) {
        match core::mem::take(&mut live.held) {
            Held::Nothing => {}
            Held::Alone(hold) => holds.remove(&hold),
            Held::Cohort(id) => {
                let Some(cohort) = self.0.get_mut(&id) else { return };
                holds.remove_like(&cohort.hold, live.reserved.generated);
                cohort.streams -= 1;
                if cohort.streams == 0 {
                    self.forget(id, now);
                }
            }
        }
    }
}

#[cfg(test)]
impl Cohorts {
    pub(super) fn streams(&self) -> usize {
        self.0.values().map(|cohort| cohort.streams as usize).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Of the span that `at` falls into.
fn number_at(at: Timestamp) -> u64 {
    at.as_micros() / micros(SPAN)
}

impl KeyState {
    /// Holds `tokens` of a stream that is being admitted and may produce `most`, and sees to it that it is looked at.
    pub(super) fn hold(
        &mut self,
        tokens: u64,
        most: u64,
        micros_per_token: u64,
        limit: u64,
        rules: &Rules<'_>,
    ) -> Held {
        if tokens == 0 {
            return Held::Nothing;
        }
        let id = CohortId { number: number_at(self.now), most };
        if self.cohorts.get(id).is_none() {
            let course = self.course(0, Some(most), micros_per_token, limit, rules);
            let duration = forecast::duration(course.total, micros_per_token);
            // As if all began in the middle of that time, some a little sooner, some later; but all are held until the last of
            // them is expected to end.
            let began = Timestamp::from_micros(id.number * micros(SPAN)).after(SPAN / 2);
            let hold = Hold::new(&course, began, began, duration + SPAN / 2);
            self.cohorts.0.insert(id, Box::new(Cohort { hold, streams: 0, began, micros_per_token }));
            self.look_after_cohort(id);
        }
        if let Some(cohort) = self.cohorts.get_mut(id) {
            cohort.streams += 1;
            self.holds.insert_like(&cohort.hold, tokens);
        }
        Held::Cohort(id)
    }

    /// Holds a stream by itself from here on.
    pub(super) fn hold_alone(&mut self, number: Number, live: &mut Reservation, hold: Hold) {
        if !matches!(live.held, Held::Alone(_)) {
            self.look_after(number);
        }
        self.cohorts.let_go(&mut self.holds, live, self.now);
        self.holds.insert(&hold);
        live.held = Held::Alone(Box::new(hold));
    }
}
