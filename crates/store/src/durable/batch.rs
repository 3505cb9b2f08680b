//! What goes to disk in one piece, all or nothing.

use std::ops::Range;

use crate::timers::Fingerprint;

/// What is kept apart on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    /// Secrets, progress, what is no entry of the policy.
    Meta,
    /// Entries of the policy.
    Policy,
    /// The audit log.
    Changes,
    /// What the requests of each model do.
    Models,
    /// Limit keys: heads, and pieces with their items.
    Keys,
}

impl Table {
    pub(crate) const ALL: [Self; 5] = [Self::Meta, Self::Policy, Self::Changes, Self::Models, Self::Keys];

    /// Its name on disk, and to people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Policy => "policy",
            Self::Changes => "changes",
            Self::Models => "models",
            Self::Keys => "keys",
        }
    }
}

/// One write.
struct Write {
    table: Table,
    key: Range<usize>,
    /// `None`: it is removed.
    value: Option<Range<usize>>,
}

/// Writes in their order, in one piece of memory.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    writes: Vec<Write>,
    /// Keys of which not all is here that belongs to it.
    pub(super) unfinished: Vec<Fingerprint>,
}

impl Batch {
    /// Puts what `write` writes at `key`.
    pub(crate) fn put(&mut self, table: Table, key: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        let key = self.key(key);
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.writes.push(Write { table, key, value: Some(start..self.bytes.len()) });
    }

    pub(crate) fn remove(&mut self, table: Table, key: &[u8]) {
        let key = self.key(key);
        self.writes.push(Write { table, key, value: None });
    }

    /// Adds the writes of another one after these.
    pub(crate) fn append(&mut self, other: &Self) {
        for (table, key, value) in other.iter() {
            match value {
                Some(value) => self.put(table, key, |out| out.extend_from_slice(value)),
                None => self.remove(table, key),
            }
        }
    }

    fn key(&mut self, key: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        start..self.bytes.len()
    }

    /// About what it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len() + self.writes.len() * size_of::<Write>()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.writes.clear();
    }

    /// Table, key and value; no value where it is removed.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Table, &[u8], Option<&[u8]>)> {
        self.writes.iter().map(|write| {
            let value = write.value.clone().map(|value| &self.bytes[value]);
            (write.table, &self.bytes[write.key.clone()], value)
        })
    }
}
