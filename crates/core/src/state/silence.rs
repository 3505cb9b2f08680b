//! Streams that say nothing: a stream that has neither reported nor settled has not ended, and that says how long it is.
//!
//! What was expected of it when it last spoke is a mean over streams that were to end soon and streams that were not. The first
//! have settled since; what is left is longer. So it is looked at again and again: it is believed to have produced all that its
//! pace allows for the time, and to go on as streams of that length do. What is held of it still fades from its expected end on
//! (contract C7), and what is believed of it fades as much: a lost gateway's streams say nothing either.

use alloc::collections::BinaryHeap;
use core::cmp::Reverse;
use core::time::Duration;

use super::{KeyState, Rules};
use crate::reservation::Number;
use crate::time::{Timestamp, micros};

/// Silence that is looked at first; shorter than that of a gateway that reports now and then, longer than of one that reports
/// each second.
const FIRST: Duration = Duration::from_secs(2);

/// The next look comes after another half of the silence.
const PARTS: u32 = 2;

/// When streams that say nothing are looked at. Those that have ended stay until they are due, or are too many.
#[derive(Clone, Debug, Default)]
pub(super) struct Looks(BinaryHeap<Reverse<(Timestamp, Number)>>);

impl Looks {
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<Number> {
        let Reverse((at, number)) = *self.0.peek()?;
        (at <= now).then(|| {
            self.0.pop();
            number
        })
    }
}

impl KeyState {
    /// Sets the first look at a stream that is being admitted.
    pub(super) fn look_after(&mut self, number: Number) {
        /// So many may have ended before they are looked for.
        const MOST_ENDED: usize = 64;
        if self.looks.0.len() > 2 * self.live.len() + MOST_ENDED {
            self.looks.0.retain(|Reverse((_, number))| self.live.contains_key(number));
        }
        self.looks.0.push(Reverse((self.now.after(FIRST), number)));
    }

    /// Looks at a stream that may have said nothing for a while. One that has spoken since is looked at later: moving the look
    /// with each report would cost more.
    pub(super) fn on_look(&mut self, number: Number, rules: &Rules<'_>) {
        let Some(live) = self.live.get(&number) else { return };
        let silence = self.now.since(live.reported_at);
        let look_at = if silence < FIRST {
            live.reported_at.after(FIRST)
        } else {
            self.believe(number, silence, rules);
            self.now.after((silence / PARTS).max(FIRST))
        };
        self.looks.0.push(Reverse((look_at, number)));
    }

    fn believe(&mut self, number: Number, silence: Duration, rules: &Rules<'_>) {
        let Some(live) = self.live.get(&number) else { return };
        // What it may produce in all is what it might when it last spoke.
        let most = live.hold.most();
        let unreported = (micros(silence) / live.micros_per_token.max(1)).min(most);
        let total = live.generated.saturating_add(most);
        let limit = self.limits(rules).generated;
        let course = self.course(live.generated + unreported, Some(total), live.micros_per_token, limit, rules);
        let hold = live.hold.silent(unreported, &course, self.now);
        if let Some(live) = self.live.get_mut(&number) {
            self.holds.replace(&live.hold, &hold);
            live.hold = hold;
        }
    }
}
