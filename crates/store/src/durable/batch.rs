//! What goes to disk in one piece, all or nothing: rows of the small tables, and keys in packs.

use std::ops::Range;

use super::keys::Unfinished;
use super::packs::{self, Packs};

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
    /// Limit keys, in packs.
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

/// A row that is written.
struct Write {
    table: Table,
    key: Range<usize>,
    /// `None`: it is removed.
    value: Option<Range<usize>>,
}

/// Writes in their order.
#[derive(Default)]
pub(crate) struct Batch {
    /// Keys and values of the rows.
    bytes: Vec<u8>,
    rows: Vec<Write>,
    /// Limit keys: heads, and pieces with their items.
    pub(crate) keys: Packs,
    /// Rows of the packs, once it is sealed.
    pack_rows: Vec<[u8; 8]>,
    /// Keys of which not all is here that belongs to it.
    pub(super) unfinished: Vec<Unfinished>,
}

impl Batch {
    /// Puts what `write` writes into the row at `key`.
    pub(crate) fn put(&mut self, table: Table, key: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        let key = self.key(key);
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.rows.push(Write { table, key, value: Some(start..self.bytes.len()) });
    }

    pub(crate) fn remove(&mut self, table: Table, key: &[u8]) {
        let key = self.key(key);
        self.rows.push(Write { table, key, value: None });
    }

    fn key(&mut self, key: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        start..self.bytes.len()
    }

    /// The keys that it has so far, and all else.
    pub(crate) fn split(self) -> (Self, Self) {
        let Self { bytes, rows, keys, unfinished, .. } = self;
        (Self { keys, ..Self::default() }, Self { bytes, rows, unfinished, ..Self::default() })
    }

    /// Makes rows of the packs, as those of this batch number; nothing is added to them any more. Returns how many bytes they
    /// have.
    pub(crate) fn seal(&mut self, batch: u32) -> u64 {
        self.pack_rows = (0..).zip(self.keys.iter()).map(|(number, _)| packs::row_of(batch, number)).collect();
        self.keys.bytes() as u64
    }

    /// About what it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len() + self.keys.bytes()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.keys.is_empty()
    }

    /// Table, key and value of each row; no value where it is removed.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Table, &[u8], Option<&[u8]>)> {
        let rows = self.rows.iter().map(|write| {
            let value = write.value.clone().map(|value| &self.bytes[value]);
            (write.table, &self.bytes[write.key.clone()], value)
        });
        let packs = self.pack_rows.iter().zip(self.keys.iter());
        rows.chain(packs.map(|(row, pack)| (Packs::TABLE, row.as_slice(), Some(pack))))
    }
}
