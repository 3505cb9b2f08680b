//! Streams that say nothing: a stream that has neither reported nor settled has not ended, and that says how long it is.
//!
//! What was expected of it when it last spoke is a mean over streams that were to end soon and streams that were not. The first
//! have settled since; what is left is longer. So it is looked at again and again: it is believed to have produced all that its
//! pace allows for the time, and to go on as streams of that length do. What is held of it still fades from its expected end on
//! (contract C7), and what is believed of it fades as much: a lost gateway's streams say nothing either. Nobody looks while it
//! does not matter: a decision that fits with all that live streams could produce within a minute does not ask.

use alloc::collections::BinaryHeap;
use core::cmp::Reverse;
use core::time::Duration;

use super::expectation::GeneratedAsk;
use super::touched::Item;
use super::{KeyState, Rules};
use crate::holds::Hold;
use crate::reservation::{CohortId, Held, Number};
use crate::room::push_room;
use crate::time::{Timestamp, micros};

/// Silence that is looked at first; shorter than that of a gateway that reports now and then, longer than of one that reports
/// each second.
const FIRST: Duration = Duration::from_secs(2);

/// The next look comes after another half of the silence.
const PARTS: u32 = 2;

/// Who is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whom {
    Cohort(CohortId),
    Stream(Number),
}

/// When streams that say nothing are looked at. Those that have ended stay until they are due, or are too many.
#[derive(Clone, Debug, Default)]
pub(super) struct Looks(BinaryHeap<Reverse<(Timestamp, Whom)>>);

impl Looks {
    pub(super) fn push(&mut self, at: Timestamp, whom: Whom) {
        push_room(&mut self.0);
        self.0.push(Reverse((at, whom)));
    }

    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<Whom> {
        let Reverse((at, whom)) = *self.0.peek()?;
        if at > now {
            return None;
        }
        self.0.pop();
        if self.0.is_empty() {
            // An idle key keeps no room for those that it may have one day.
            self.0 = BinaryHeap::new();
        }
        Some(whom)
    }
}

#[cfg(test)]
impl Looks {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl KeyState {
    /// Looks at those who are due. So many at once that a call's time under the lock is bounded; the rest wait for the next.
    pub(super) fn look(&mut self, rules: &Rules<'_>) {
        const MOST_AT_ONCE: usize = 256;
        for _ in 0..MOST_AT_ONCE {
            let Some(whom) = self.looks.pop_due(self.now) else { break };
            self.on_look(whom, rules);
        }
    }

    /// Whether this ask fits whatever is believed of live streams: with all that they could produce within a minute. Then nobody
    /// needs to look at them.
    pub(super) fn has_room_for_all(&self, ask: GeneratedAsk, limit_tpm: u64) -> bool {
        let charged = self.generated.sum();
        let live = charged.saturating_add(self.holds.reach());
        live.saturating_add(ask.tokens.max(ask.reach)) <= limit_tpm
    }

    /// Sets the first look at a stream that is held by itself from now on, or at a cohort that begins.
    pub(super) fn look_after(&mut self, whom: Whom) -> Timestamp {
        /// So many may have ended before they are looked for.
        const MOST_ENDED: usize = 64;
        if self.looks.0.len() > 2 * self.live.len() + MOST_ENDED {
            self.looks.0.retain(|Reverse((_, whom))| match whom {
                Whom::Cohort(id) => !self.cohorts.forget(*id, self.now),
                Whom::Stream(number) => self.live.contains_key(number),
            });
        }
        let at = self.now.after(FIRST);
        self.looks.push(at, whom);
        at
    }

    /// Looks at streams that may have said nothing for a while. Who has spoken since is looked at later: moving the look with
    /// each report would cost more.
    fn on_look(&mut self, whom: Whom, rules: &Rules<'_>) {
        let heard_at = match whom {
            Whom::Cohort(id) if self.cohorts.forget(id, self.now) => return,
            Whom::Cohort(id) => self.cohorts.get(id).map(|cohort| cohort.began),
            Whom::Stream(number) => self.live.get(&number).map(|live| live.reported_at),
        };
        let Some(heard_at) = heard_at else { return };
        let silence = self.now.since(heard_at);
        let look_at = if silence < FIRST {
            heard_at.after(FIRST)
        } else {
            match whom {
                Whom::Cohort(id) => self.believe_cohort(id, silence, rules),
                Whom::Stream(number) => self.believe_stream(number, silence, rules),
            }
            self.now.after((silence / PARTS).max(FIRST))
        };
        self.looks.push(look_at, whom);
        match whom {
            Whom::Cohort(id) => {
                if let Some(cohort) = self.cohorts.get_mut(id) {
                    cohort.look_at = look_at;
                    self.touched.add(Item::Cohort(id));
                }
            }
            Whom::Stream(number) => {
                if let Some(live) = self.live.get_mut(&number) {
                    live.look_at = look_at;
                    self.touched.add(Item::Reservation(number));
                }
            }
        }
    }

    fn believe_cohort(&mut self, id: CohortId, silence: Duration, rules: &Rules<'_>) {
        let Some(cohort) = self.cohorts.get(id) else { return };
        let hold = self.believed(&cohort.hold, silence, 0, cohort.micros_per_token, rules);
        if let Some(cohort) = self.cohorts.get_mut(id) {
            self.holds.replace_silent(&cohort.hold, &hold, cohort.streams);
            cohort.hold = hold;
        }
    }

    fn believe_stream(&mut self, number: Number, silence: Duration, rules: &Rules<'_>) {
        let Some(live) = self.live.get(&number) else { return };
        let Held::Alone(hold) = &live.held else { return };
        let believed = self.believed(hold, silence, live.generated, live.micros_per_token, rules);
        if let Some(Held::Alone(hold)) = self.live.get_mut(&number).map(|live| &mut live.held) {
            self.holds.replace_silent(hold, &believed, 1);
            **hold = believed;
        }
    }

    /// The hold of a stream that has said nothing for so long since it reported `generated` tokens.
    fn believed(&self, hold: &Hold, silence: Duration, generated: u64, pace: u64, rules: &Rules<'_>) -> Hold {
        // What it may produce in all is what it might when it last spoke.
        let most = hold.most();
        let unreported = (micros(silence) / pace.max(1)).min(most);
        let total = generated.saturating_add(most);
        let limit = self.generated_limit(rules);
        let course = self.course(generated + unreported, Some(total), pace, limit, rules);
        hold.silent(unreported, &course, self.now)
    }
}
