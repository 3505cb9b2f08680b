//! Room for one more in lists of which most have one entry or two: 1, 2, 4, 8, ... Those of the library begin with room for
//! four, and there are several in each of a million keys.

use alloc::collections::{BinaryHeap, VecDeque};
use alloc::vec::Vec;

/// A list that grows.
pub(crate) trait List {
    fn length(&self) -> usize;
    fn room(&self) -> usize;
    fn reserve(&mut self, more: usize);
}

/// Makes room for one more; doubles it where there is none.
#[inline]
pub(crate) fn push_room(list: &mut impl List) {
    if list.length() == list.room() {
        list.reserve(list.length().max(1));
    }
}

macro_rules! list {
    ($($list:ident $(: $ord:ident)?),+) => {
        $(impl<T $(: $ord)?> List for $list<T> {
            #[inline]
            fn length(&self) -> usize {
                self.len()
            }

            #[inline]
            fn room(&self) -> usize {
                self.capacity()
            }

            fn reserve(&mut self, more: usize) {
                self.reserve_exact(more);
            }
        })+
    };
}

list!(Vec, VecDeque, BinaryHeap: Ord);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_doubles_from_one_on() {
        let (mut list, mut rooms) = (Vec::new(), Vec::new());
        for number in 0..20 {
            push_room(&mut list);
            list.push(number);
            rooms.push(list.capacity());
        }
        rooms.dedup();
        assert_eq!(rooms, [1, 2, 4, 8, 16, 32]);
    }
}
