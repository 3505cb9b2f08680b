//! What is in a data directory, row by row.

use std::collections::VecDeque;

use minicbor::decode;
use tidegate_core::forecast::Model;
use tidegate_core::forecast::{ForecastDefaults, Prior};
use tidegate_core::key::LimitKey;
use tidegate_core::policy::{PolicyHead, Written};
use tidegate_core::state::KeyState;
use tidegate_core::time::Timestamp;

use super::super::OpenError;
use super::super::batch::Table;
use super::super::layout::{self, Endings, Progress, Secrets, place};
use super::super::recover::{Part, ReadKey, damaged};
use crate::Change;

/// How many of the largest records are named, and of the newest writes.
const NAMED: usize = 5;

/// How many there are of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Limit keys.
    pub keys: u64,
    /// Live reservations.
    pub reservations: u64,
    /// Ended reservations that are remembered.
    pub ended: u64,
    /// Request ids that are remembered.
    pub request_ids: u64,
    /// Tiers.
    pub tiers: u64,
    /// Accounts with an entry.
    pub accounts: u64,
    /// Models with an entry.
    pub models: u64,
    /// Overrides.
    pub overrides: u64,
    /// Boosts, those that have ended included.
    pub boosts: u64,
    /// Records of the audit log.
    pub changes: u64,
    /// Models whose requests are known.
    pub known_models: u64,
}

/// A record that takes much room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LargeRecord {
    /// Its bytes.
    pub bytes: u64,
    /// What it is, such as `tier/enterprise` or `key acme large`.
    pub name: String,
}

/// What is in a data directory or a snapshot. Never a secret.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The version of the snapshot's format; `None` of a directory.
    pub snapshot_format: Option<u32>,
    /// The version of the layout.
    pub format: u32,
    /// Bytes of the directory's store, or of the snapshot.
    pub bytes: u64,
    /// Up to when everything was written, and whether the process then stopped in good order; `None` where none wrote state.
    pub last: Option<(Timestamp, bool)>,
    /// The newest instant of which something is here.
    pub newest: Timestamp,
    /// Batches that were ever written.
    pub batches: u64,
    /// Of these, how many were there once and are no longer; 0 of a snapshot, which does not know.
    pub missing_batches: u64,
    /// Of the policy, what is no entry.
    pub policy: Option<PolicyHead>,
    /// How many there are of what.
    pub counts: Counts,
    /// The newest writes, the newest first.
    pub newest_changes: Vec<Change>,
    /// The largest records, the largest first.
    pub largest: Vec<LargeRecord>,
    /// The key that was asked for, as of when it was written down; `None` where it is not here.
    pub key: Option<Box<KeyState>>,
}

/// Looks at the rows of a directory: those of the keys from the newest to the oldest.
pub(super) struct Survey<'a> {
    wanted: Option<&'a LimitKey>,
    has_secrets: bool,
    newest_changes: VecDeque<Change>,
    keys: Part,
    contents: Contents,
}

impl<'a> Survey<'a> {
    pub(super) fn new(wanted: Option<&'a LimitKey>) -> Self {
        Self {
            wanted,
            has_secrets: false,
            newest_changes: VecDeque::new(),
            keys: Part::new(0, 1),
            contents: Contents::default(),
        }
    }

    pub(super) fn take(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), OpenError> {
        let wrong = |error: decode::Error| damaged(table, error);
        match table {
            Table::Meta => self.take_meta(key, value)?,
            Table::Policy => {
                let entry: Written = minicbor::decode(value).map_err(wrong)?;
                let counts = &mut self.contents.counts;
                match &entry {
                    Written::Tier(_) => counts.tiers += 1,
                    Written::Account(_) => counts.accounts += 1,
                    Written::Model(_) => counts.models += 1,
                    Written::Override(_) => counts.overrides += 1,
                    Written::Boost(_) => counts.boosts += 1,
                    Written::Enforcement(_) => {}
                }
                self.contents.note_size(value.len() as u64, || entry.title());
            }
            Table::Changes => {
                let change: Change = minicbor::decode(value).map_err(wrong)?;
                self.contents.counts.changes += 1;
                self.contents.note_size(value.len() as u64, || format!("change {}", change.sequence));
                self.contents.newest = self.contents.newest.max(change.time);
                self.newest_changes.push_front(change);
                self.newest_changes.truncate(NAMED);
            }
            Table::Models => {
                if key.len() != size_of::<crate::timers::Fingerprint>() {
                    return Err(damaged(table, "a place that is none"));
                }
                minicbor::decode::<Model>(value).map_err(wrong)?;
                self.contents.counts.known_models += 1;
            }
            Table::Keys => {
                let Self { wanted, keys, contents, .. } = self;
                keys.read(key, value, &mut |read| contents.take_key(read, *wanted))?;
            }
        }
        Ok(())
    }

    fn take_meta(&mut self, key: &[u8], value: &[u8]) -> Result<(), OpenError> {
        let wrong = |error: decode::Error| damaged(Table::Meta, error);
        let contents = &mut self.contents;
        match key {
            place::SECRETS => {
                let Secrets { version, .. } = minicbor::decode(value).map_err(wrong)?;
                if version != layout::VERSION {
                    return Err(OpenError::Version { found: version });
                }
                contents.format = version;
                self.has_secrets = true;
            }
            place::PROGRESS => {
                let progress: Progress = minicbor::decode(value).map_err(wrong)?;
                contents.last = Some((progress.durable_at, progress.stopped));
                contents.newest = contents.newest.max(progress.durable_at);
                contents.batches = progress.batches;
            }
            place::ENDINGS => drop(minicbor::decode::<Endings>(value).map_err(wrong)?),
            place::POLICY => contents.policy = Some(minicbor::decode(value).map_err(wrong)?),
            // Of a later program, which says so in the version where it matters.
            _ => {}
        }
        Ok(())
    }

    /// What was found, after the last row. A directory without secrets or policy is none.
    pub(super) fn finish(self) -> Result<Contents, OpenError> {
        let Self { wanted, has_secrets, newest_changes, keys, mut contents } = self;
        if !has_secrets || contents.policy.is_none() {
            return Err(damaged(Table::Meta, "there is no policy, or no secrets"));
        }
        keys.finish(&mut |read| contents.take_key(read, wanted))?;
        contents.newest_changes = newest_changes.into();
        Ok(contents)
    }
}

impl Contents {
    fn take_key(&mut self, read: ReadKey<'_>, wanted: Option<&LimitKey>) {
        self.newest = self.newest.max(read.newest);
        let (key, state, disk) = read.finish(&Prior::from_defaults(&ForecastDefaults::default()));
        self.counts.keys += 1;
        self.counts.reservations += state.reservations() as u64;
        self.counts.ended += state.ended().count() as u64;
        self.counts.request_ids += state.request_ids() as u64;
        self.note_size(disk.bytes.into(), || format!("key {}", key.as_ref()));
        if wanted == Some(&key) {
            self.key = Some(Box::new(state));
        }
    }

    fn note_size(&mut self, bytes: u64, name: impl FnOnce() -> String) {
        if self.largest.len() == NAMED && self.largest.last().is_some_and(|least| least.bytes >= bytes) {
            return;
        }
        let place = self.largest.partition_point(|larger| larger.bytes >= bytes);
        self.largest.insert(place, LargeRecord { bytes, name: name() });
        self.largest.truncate(NAMED);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_rows_are_read_without_a_panic(
            rows in prop::collection::vec(
                (
                    prop::sample::select(&Table::ALL[..]),
                    prop_oneof![prop::collection::vec(any::<u8>(), 0..24), Just(place::PROGRESS.to_vec()), Just(place::SECRETS.to_vec())],
                    prop::collection::vec(any::<u8>(), 0..80),
                ),
                0..8,
            )
        ) {
            let mut survey = Survey::new(None);
            for (table, key, value) in &rows {
                // Most of them are refused; what matters is that each answer is one.
                let _ = survey.take(*table, key, value);
            }
            prop_assert!(survey.finish().is_err(), "secrets are not written by chance");
        }
    }
}
