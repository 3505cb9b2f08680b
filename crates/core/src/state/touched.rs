//! Which parts of a key have changed since a store wrote them down.
//!
//! A key is written down as a head, which is small and changes with every call, and items, of which a busy key may have a
//! hundred thousand and changes a few. Nothing is kept of a key whose items are written all together each time.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::reservation::{CohortId, Number};

/// A part of a key that is written down by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// Streams that are held alike.
    Cohort(CohortId),
    /// A reservation, live or ended.
    Reservation(Number),
    /// A request id in use.
    Request(u128),
}

/// Most items that are noted: a store that does not ask for long writes all anew.
const MOST: usize = 1 << 16;

/// Items that changed, some of them more than once; `None` where nobody asks.
#[derive(Clone, Debug, Default)]
#[expect(clippy::box_collection, reason = "nearly all keys have none, and it is in each of a million")]
pub(super) struct Touched(Option<Box<Vec<Item>>>);

impl Touched {
    /// Notes nothing until a store asks.
    pub(super) fn add(&mut self, item: Item) {
        match &mut self.0 {
            Some(items) if items.len() >= MOST => self.0 = None,
            Some(items) => items.push(item),
            None => {}
        }
    }

    /// Begins anew, with nothing noted.
    pub(super) fn start(&mut self) {
        self.0 = Some(Box::default());
    }

    pub(super) fn stop(&mut self) {
        self.0 = None;
    }

    /// Takes what was noted; `None` where nothing is noted, or more was than [`MOST`].
    pub(super) fn take(&mut self) -> Option<Vec<Item>> {
        Some(core::mem::take(&mut **self.0.as_mut()?))
    }
}
