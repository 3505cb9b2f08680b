//! When reservations expire.

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use core::cmp::Reverse;

use crate::reservation::{Number, Reservation};
use crate::room::push_room;
use crate::small_map::SmallMap;
use crate::time::Timestamp;

/// The timers of live reservations. Those of ended ones, nearly all, stay until they are due, or are too many: to find each
/// would cost more.
#[derive(Clone, Debug, Default)]
pub(super) struct Expiries(BinaryHeap<Reverse<(Timestamp, Number)>>);

impl Expiries {
    /// The timers of these reservations.
    pub(super) fn of(live: &SmallMap<Number, Box<Reservation>>) -> Self {
        let mut expiries = Self::default();
        live.iter().for_each(|(number, of)| expiries.set(of.expires_at, *number, live));
        expiries
    }

    /// Sets the timer of a reservation. `live` are those that have one.
    pub(super) fn set(&mut self, at: Timestamp, number: Number, live: &SmallMap<Number, Box<Reservation>>) {
        /// So many may have ended before they are looked for.
        const MOST_ENDED: usize = 64;
        if self.0.len() > 2 * live.len() + MOST_ENDED {
            self.0.retain(|Reverse((_, number))| live.contains_key(number));
        }
        push_room(&mut self.0);
        self.0.push(Reverse((at, number)));
    }

    /// The next one, which may be that of a reservation that has ended.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// A reservation whose timer is due, live or not.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<Number> {
        let Reverse((at, number)) = *self.0.peek()?;
        if at > now {
            return None;
        }
        self.0.pop();
        if self.0.is_empty() {
            // An idle key keeps no room for those that it may have one day.
            self.0 = BinaryHeap::new();
        }
        Some(number)
    }
}

#[cfg(test)]
impl Expiries {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_key_keeps_no_room_for_timers() {
        let mut expiries = Expiries::default();
        for second in 0..60 {
            expiries.set(
                Timestamp::from_seconds(second),
                Number { incarnation: 1, sequence: second },
                &SmallMap::default(),
            );
        }
        let mut due = core::iter::from_fn(|| expiries.pop_due(Timestamp::from_seconds(59)));
        assert!((0..60).all(|second| due.next().is_some_and(|number| number.sequence == second)), "in their order");
        assert_eq!((due.next(), expiries.0.capacity()), (None, 0));
    }
}
