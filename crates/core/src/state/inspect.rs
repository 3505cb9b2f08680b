//! What a key says of itself without rules: for those who look at what a store has written down.

use super::KeyState;
use crate::law::Law;
use crate::reservation::{Ended, Number, Reservation};
use crate::time::Timestamp;

impl KeyState {
    /// The instant up to which it has been moved.
    #[must_use]
    pub const fn as_of(&self) -> Timestamp {
        self.now
    }

    /// The law's state as it is kept: bounds that changed since act on it with the next call.
    #[must_use]
    pub const fn law(&self) -> &Law {
        &self.law
    }

    /// Live reservations, in the order of their numbers.
    pub fn live(&self) -> impl Iterator<Item = (Number, &Reservation)> {
        self.live.iter().map(|(number, live)| (*number, live.as_ref()))
    }

    /// Ended reservations that are remembered one by one, in the order of their numbers.
    pub fn ended(&self) -> impl Iterator<Item = (Number, &Ended)> {
        self.ended.iter().map(|(number, ended)| (*number, ended))
    }

    /// Request ids that are remembered.
    #[must_use]
    pub fn request_ids(&self) -> usize {
        self.requests.len()
    }
}
