//! Streams that say nothing: a stream that has neither reported nor settled has not ended, and that says how long it is.
//!
//! What was expected of it when it last spoke is a mean over streams that were to end soon and streams that were not. The first
//! have settled since; what is left is longer. So it is looked at again and again: it is believed to have produced all that its
//! pace allows for the time, and to go on as streams of that length do. What is held of it still fades from its expected end on
//! (contract C7), and what is believed of it fades as much: a lost gateway's streams say nothing either.

use core::time::Duration;

use super::{KeyState, Rules};
use crate::reservation::{Number, Reservation};
use crate::time::micros;

/// Silence that is looked at first; shorter than that of a gateway that reports now and then, longer than of one that reports
/// each second.
const FIRST: Duration = Duration::from_secs(2);

/// The next look comes after another quarter of the silence.
const PARTS: u32 = 4;

impl KeyState {
    /// Sets the first look at a stream that has just been admitted.
    pub(super) fn look_after(&mut self, number: Number, reservation: &mut Reservation) {
        reservation.look_at = self.now.after(FIRST);
        self.looks.insert((reservation.look_at, number));
    }

    /// Looks at a stream that may have said nothing for a while. One that has spoken since is looked at later: moving the look
    /// with each report would cost more.
    pub(super) fn on_look(&mut self, number: Number, rules: &Rules<'_>) {
        let Some(mut live) = self.live.remove(&number) else { return };
        let silence = self.now.since(live.reported_at);
        if silence < FIRST {
            live.look_at = live.reported_at.after(FIRST);
        } else {
            self.believe(&mut live, silence, rules);
            live.look_at = self.now.after((silence / PARTS).max(FIRST));
        }
        self.looks.insert((live.look_at, number));
        self.live.insert(number, live);
    }

    fn believe(&mut self, live: &mut Reservation, silence: Duration, rules: &Rules<'_>) {
        // What it may produce in all is what it might when it last spoke.
        let most = live.hold.most();
        let unreported = (micros(silence) / live.micros_per_token.max(1)).min(most);
        let total = live.generated.saturating_add(most);
        let limit = self.limits(rules).generated;
        let course = self.course(live.generated + unreported, Some(total), live.micros_per_token, limit, rules);
        let hold = live.hold.silent(unreported, &course, self.now);
        self.holds.remove(&live.hold);
        self.holds.insert(&hold);
        live.hold = hold;
    }
}
