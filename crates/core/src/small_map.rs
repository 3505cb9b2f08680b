//! A map of which most have a few entries: a sorted list of them, and a tree beyond.
//!
//! Rejected: a tree from the first entry on. Its smallest node has room for eleven, and there are five such maps in each of a
//! million keys.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Bound::{Excluded, Unbounded};

use crate::room::push_room;

/// Most entries of a list: to move them costs less than to go down a tree.
const MOST_IN_LIST: usize = 8;

/// Entries in the order of their keys. Takes no memory while it has none.
#[derive(Clone)]
pub(crate) struct SmallMap<K, V>(Kept<K, V>);

#[derive(Clone)]
#[expect(clippy::box_collection, reason = "a tree beside a list would make all of them larger")]
enum Kept<K, V> {
    List(Vec<(K, V)>),
    /// Until it is empty.
    Tree(Box<BTreeMap<K, V>>),
}

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self(Kept::List(Vec::new()))
    }
}

impl<K: Ord + Copy, V> SmallMap<K, V> {
    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Kept::List(list) => list.len(),
            Kept::Tree(tree) => tree.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        match &self.0 {
            Kept::List(list) => list.iter().find(|(of, _)| of == key).map(|(_, value)| value),
            Kept::Tree(tree) => tree.get(key),
        }
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match &mut self.0 {
            Kept::List(list) => list.iter_mut().find(|(of, _)| of == key).map(|(_, value)| value),
            Kept::Tree(tree) => tree.get_mut(key),
        }
    }

    /// The value of `key`; `make` makes it where there is none.
    pub(crate) fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        self.grow();
        match &mut self.0 {
            Kept::List(list) => {
                let place = place_of(list, &key);
                if list.get(place).is_none_or(|(of, _)| *of != key) {
                    push_room(list);
                    list.insert(place, (key, make()));
                }
                &mut list[place].1
            }
            Kept::Tree(tree) => tree.entry(key).or_insert_with(make),
        }
    }

    /// Puts `value` in the place of the one that `key` had.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let mut value = Some(value);
        let kept = self.get_or_insert_with(key, || value.take().expect("taken once"));
        if let Some(value) = value {
            *kept = value;
        }
    }

    /// Makes a tree of a list that is full.
    fn grow(&mut self) {
        if let Kept::List(list) = &mut self.0
            && list.len() >= MOST_IN_LIST
        {
            self.0 = Kept::Tree(Box::new(core::mem::take(list).into_iter().collect()));
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let removed = self.take(key);
        self.forget_if_empty();
        removed
    }

    /// As [`SmallMap::remove`] of an entry that is put back: its room is kept.
    pub(crate) fn take(&mut self, key: &K) -> Option<V> {
        match &mut self.0 {
            Kept::List(list) => list.iter().position(|(of, _)| of == key).map(|place| list.remove(place).1),
            Kept::Tree(tree) => tree.remove(key),
        }
    }

    /// Takes out the first entry, where it is not after `last`.
    pub(crate) fn pop_first_to(&mut self, last: &K) -> Option<(K, V)> {
        let first = match &mut self.0 {
            Kept::List(list) => (list.first()?.0 <= *last).then(|| list.remove(0)),
            Kept::Tree(tree) => {
                tree.first_entry().filter(|entry| entry.key() <= last).map(|entry| entry.remove_entry())
            }
        };
        self.forget_if_empty();
        first
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        match &mut self.0 {
            Kept::List(list) => list.retain_mut(|(key, value)| keep(key, value)),
            Kept::Tree(tree) => tree.retain(keep),
        }
        self.forget_if_empty();
    }

    fn forget_if_empty(&mut self) {
        if self.is_empty() {
            // Nothing keeps the room for what it may have one day.
            self.0 = Kept::List(Vec::new());
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.after(None)
    }

    /// Those after `key`, or all.
    pub(crate) fn after(&self, key: Option<K>) -> impl Iterator<Item = (&K, &V)> {
        let (list, tree) = match &self.0 {
            Kept::List(list) => (&list[after(list, key)..], None),
            Kept::Tree(tree) => (&[][..], Some(tree.range((key.map_or(Unbounded, Excluded), Unbounded)))),
        };
        list.iter().map(|(key, value)| (key, value)).chain(tree.into_iter().flatten())
    }

    /// As [`SmallMap::after`], to be changed.
    pub(crate) fn after_mut(&mut self, key: Option<K>) -> impl Iterator<Item = (&K, &mut V)> {
        let (list, tree) = match &mut self.0 {
            Kept::List(list) => {
                let start = after(list, key);
                (&mut list[start..], None)
            }
            Kept::Tree(tree) => (&mut [][..], Some(tree.range_mut((key.map_or(Unbounded, Excluded), Unbounded)))),
        };
        list.iter_mut().map(|(key, value)| (&*key, value)).chain(tree.into_iter().flatten())
    }
}

/// How many entries come before `key`. Nearly always it comes last.
fn place_of<K: Ord, V>(list: &[(K, V)], key: &K) -> usize {
    list.iter().rposition(|(of, _)| of < key).map_or(0, |before| before + 1)
}

fn after<K: Ord, V>(list: &[(K, V)], key: Option<K>) -> usize {
    key.map_or(0, |key| list.partition_point(|(of, _)| *of <= key))
}

impl<K: Ord + Copy, V: PartialEq> PartialEq for SmallMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<K: Ord + Copy, V: Eq> Eq for SmallMap<K, V> {}

impl<K: Ord + Copy + fmt::Debug, V: fmt::Debug> fmt::Debug for SmallMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u32),
        Change(u8, u32),
        GetOrInsert(u8, u32),
        Remove(u8),
        PopFirst(u8),
        Retain(u32),
        ChangeAfter(Option<u8>, u32),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        let (key, value) = (|| 0_u8..24, any::<u32>);
        prop_oneof![
            6 => (key(), value()).prop_map(|(key, value)| Step::Insert(key, value)),
            2 => (key(), value()).prop_map(|(key, value)| Step::Change(key, value)),
            2 => (key(), value()).prop_map(|(key, value)| Step::GetOrInsert(key, value)),
            4 => key().prop_map(Step::Remove),
            2 => key().prop_map(Step::PopFirst),
            1 => (1_u32..5).prop_map(Step::Retain),
            1 => (prop::option::of(key()), value()).prop_map(|(key, value)| Step::ChangeAfter(key, value)),
            1 => Just(Step::Clear),
        ]
    }

    fn after_in(tree: &BTreeMap<u8, u32>, key: Option<u8>) -> Vec<(u8, u32)> {
        tree.iter().filter(|(of, _)| key.is_none_or(|key| **of > key)).map(|(key, value)| (*key, *value)).collect()
    }

    proptest! {
        #[test]
        fn a_small_map_is_a_map(steps in prop::collection::vec(step(), 0..200), probe in prop::option::of(0_u8..24)) {
            let (mut map, mut tree) = (SmallMap::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Insert(key, value) => {
                        map.insert(key, value);
                        tree.insert(key, value);
                    }
                    Step::Change(key, value) => {
                        prop_assert_eq!(map.get_mut(&key), tree.get_mut(&key));
                        map.get_mut(&key).into_iter().chain(tree.get_mut(&key)).for_each(|kept| *kept ^= value);
                    }
                    Step::GetOrInsert(key, value) => {
                        let kept = *map.get_or_insert_with(key, || value);
                        prop_assert_eq!(kept, *tree.entry(key).or_insert(value));
                    }
                    Step::Remove(key) => prop_assert_eq!(map.remove(&key), tree.remove(&key)),
                    Step::PopFirst(last) => {
                        let first = tree.first_entry().filter(|entry| *entry.key() <= last);
                        prop_assert_eq!(map.pop_first_to(&last), first.map(|entry| entry.remove_entry()));
                    }
                    Step::Retain(part) => {
                        map.retain(|key, value| (*value ^ u32::from(*key)).is_multiple_of(part));
                        tree.retain(|key, value| (*value ^ u32::from(*key)).is_multiple_of(part));
                    }
                    Step::ChangeAfter(key, value) => {
                        map.after_mut(key).for_each(|(_, kept)| *kept ^= value);
                        tree.iter_mut().filter(|(of, _)| key.is_none_or(|key| **of > key)).for_each(|(_, kept)| *kept ^= value);
                    }
                    Step::Clear => {
                        map.retain(|_, _| false);
                        tree.clear();
                    }
                }
                prop_assert_eq!((map.len(), map.is_empty()), (tree.len(), tree.is_empty()));
                prop_assert!(map.iter().eq(tree.iter()));
                let after: Vec<_> = map.after(probe).map(|(key, value)| (*key, *value)).collect();
                prop_assert_eq!(after, after_in(&tree, probe));
                if let Some(probe) = probe {
                    prop_assert_eq!((map.get(&probe), map.contains_key(&probe)), (tree.get(&probe), tree.contains_key(&probe)));
                }
                // However it came to be.
                let mut anew = SmallMap::default();
                tree.iter().rev().for_each(|(key, value)| anew.insert(*key, *value));
                prop_assert_eq!(&map, &anew);
                let Kept::List(list) = &map.0 else { continue };
                prop_assert!(list.len() <= MOST_IN_LIST && list.capacity() <= MOST_IN_LIST);
                prop_assert!(!list.is_empty() || list.capacity() == 0, "an empty one keeps no room");
            }
        }
    }

    #[test]
    fn a_map_is_three_words() {
        assert_eq!(size_of::<SmallMap<u128, [u64; 9]>>(), 24);
    }
}
