//! How the live streams of a key are held: alone, or with others.
//!
//! Streams that were admitted within the same half second, may produce as much at most, and have said nothing since are all
//! expected to do the same. So what is expected of them is worked out once for all of them, and looked at again once for all.
//! A busy key has a few minutes' worth of cohorts, whatever its number of streams.
//!
//! Rejected: cohorts of a second, which cost a sixth less and let silent streams overshoot by up to twice as much.

use alloc::boxed::Box;
use core::time::Duration;

use minicbor::{Decode, Encode};

use super::silence::Whom;
use super::touched::Item;
use super::{KeyState, Rules};
use crate::forecast::{self, Course};
use crate::holds::{Hold, Holds};
use crate::record::record;
use crate::reservation::{CohortId, Held, Number, Reservation};
use crate::small_map::SmallMap;
use crate::time::{Timestamp, micros};
use crate::window::WINDOW;

/// How long a cohort takes in streams.
const SPAN: Duration = Duration::from_millis(500);

/// Streams of which the same is expected; what is held differs.
#[derive(Clone, Debug, Encode, Decode)]
pub(super) struct Cohort {
    #[n(0)]
    pub(super) hold: Hold,
    /// Counted anew when the key is read back.
    #[cbor(skip)]
    pub(super) streams: u32,
    /// When its streams were admitted, more or less.
    #[n(1)]
    pub(super) began: Timestamp,
    #[n(2)]
    pub(super) micros_per_token: u64,
    /// When it is looked at next, if it says nothing.
    #[n(3)]
    pub(super) look_at: Timestamp,
}

record!(Cohort { hold, began, micros_per_token, look_at } without streams);

impl Cohort {
    /// Whether it has no stream, and will not get one again.
    fn is_over(&self, id: CohortId, now: Timestamp) -> bool {
        self.streams == 0 && id.number < number_at(now)
    }
}

/// The cohorts of a key. One without streams stays until its time to take some in has ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Cohorts(SmallMap<CohortId, Box<Cohort>>);

impl Cohorts {
    pub(super) fn get(&self, id: CohortId) -> Option<&Cohort> {
        self.0.get(&id).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: CohortId) -> Option<&mut Cohort> {
        self.0.get_mut(&id).map(Box::as_mut)
    }

    /// Forgets a cohort that has no stream, and will not get one again.
    pub(super) fn forget(&mut self, id: CohortId, now: Timestamp) -> bool {
        let over = self.get(id).is_none_or(|cohort| cohort.is_over(id, now));
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
                if cohort.is_over(id, now) {
                    self.0.remove(&id);
                }
            }
        }
    }
}

impl Cohorts {
    pub(super) fn iter(&self) -> impl Iterator<Item = (CohortId, &Cohort)> {
        self.0.iter().map(|(id, cohort)| (*id, cohort.as_ref()))
    }

    /// Those after `after`.
    pub(super) fn after(&self, after: Option<CohortId>) -> impl Iterator<Item = CohortId> {
        self.0.after(after).map(|(id, _)| *id)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes in cohorts that were read back, whose streams have been counted.
    pub(super) fn restored(mut cohorts: SmallMap<CohortId, Box<Cohort>>, now: Timestamp) -> Self {
        cohorts.retain(|id, cohort| !cohort.is_over(*id, now));
        Self(cohorts)
    }
}

#[cfg(test)]
impl Cohorts {
    pub(super) fn streams(&self) -> usize {
        self.0.iter().map(|(_, cohort)| cohort.streams as usize).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is expected of a stream that begins: worked out anew once the key has learned a little, not with each answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beginning {
    most: u64,
    micros_per_token: u64,
    course: Course,
    /// When it was worked out.
    at: Timestamp,
    /// Reports and answers since.
    lessons: u32,
}

impl Beginning {
    /// Reports and answers after which it is worked out anew.
    const LESSONS: u32 = 4;
    /// It is good for paces that differ by less than one part in this many.
    const PACE_PARTS: u64 = 32;

    /// Whether it is too old, whatever was learned. An idle key keeps none.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.at.after(WINDOW) <= now
    }

    fn is_good_for(&self, most: u64, micros_per_token: u64) -> bool {
        self.lessons < Self::LESSONS
            && self.most == most
            && self.micros_per_token.abs_diff(micros_per_token) < self.micros_per_token / Self::PACE_PARTS
    }

    pub(super) const fn learn(&mut self) {
        self.lessons = self.lessons.saturating_add(1);
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
        if let Some(cohort) = self.cohorts.get_mut(id) {
            cohort.streams += 1;
            self.holds.insert_like(&cohort.hold, tokens);
        } else {
            let course = self.beginning(most, micros_per_token, limit, rules);
            let duration = forecast::duration(course.total, micros_per_token);
            // As if all began in the middle of that time, some a little sooner, some later; but all are held until the last of
            // them is expected to end.
            let began = Timestamp::from_micros(id.number * micros(SPAN)).after(SPAN / 2);
            let hold = Hold::new(&course, began, began, duration + SPAN / 2);
            self.holds.insert_like(&hold, tokens);
            let look_at = self.look_after(Whom::Cohort(id));
            self.cohorts.0.insert(id, Box::new(Cohort { hold, streams: 1, began, micros_per_token, look_at }));
            self.touched.add(Item::Cohort(id));
        }
        Held::Cohort(id)
    }

    /// The key has learned something about its answers.
    pub(super) fn on_lesson(&mut self) {
        if let Some(known) = &mut self.beginning {
            known.learn();
        }
    }

    /// What a stream is expected to do that begins now.
    fn beginning(&mut self, most: u64, micros_per_token: u64, limit: u64, rules: &Rules<'_>) -> Course {
        let good = self.beginning.as_ref().filter(|known| known.is_good_for(most, micros_per_token));
        if let Some(known) = good.filter(|_| !self.needs_fallback()) {
            let mut course = known.course;
            course.reach = self.stream_reach(course.most, micros_per_token, limit, rules);
            return course;
        }
        let course = self.course(0, Some(most), micros_per_token, limit, rules);
        self.beginning = Some(Box::new(Beginning { most, micros_per_token, course, at: self.now, lessons: 0 }));
        course
    }

    /// Holds a stream by itself from here on.
    pub(super) fn hold_alone(&mut self, number: Number, live: &mut Reservation, hold: Hold) {
        if !matches!(live.held, Held::Alone(_)) {
            live.look_at = self.look_after(Whom::Stream(number));
        }
        self.cohorts.let_go(&mut self.holds, live, self.now);
        self.holds.insert(&hold);
        live.held = Held::Alone(Box::new(hold));
    }
}
