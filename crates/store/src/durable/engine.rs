//! The storage engine behind a narrow door: fjall. `docs/decisions/0010-embedded-engine.md` says why this one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::batch::{Batch, Table};

/// Memory for what was read; reading happens at start alone.
const CACHE_BYTES: u64 = 16 << 20;
/// Most of the log of batches that is not in tables yet.
const LOG_BYTES: u64 = 512 << 20;

/// Why the engine did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The engine's own words.
    #[error("{0}")]
    Engine(#[from] fjall::Error),
    /// It was not asked.
    #[error("{0}")]
    Refused(String),
}

/// A directory that is open.
pub(crate) struct Engine {
    database: Database,
    tables: [Keyspace; Table::ALL.len()],
    path: PathBuf,
}

impl Engine {
    /// Opens the engine's files at `path`, or makes them.
    pub(crate) fn open(path: &Path) -> Result<Self, EngineError> {
        let database =
            Database::builder(path).cache_size(CACHE_BYTES).max_journaling_size(LOG_BYTES).worker_threads(1).open()?;
        let open = |table: Table| database.keyspace(table.name(), KeyspaceCreateOptions::default);
        let [meta, policy, changes, models, keys] = Table::ALL.map(open);
        Ok(Self { tables: [meta?, policy?, changes?, models?, keys?], database, path: path.to_owned() })
    }

    fn table(&self, table: Table) -> &Keyspace {
        &self.tables[table as usize]
    }

    /// Writes all of `batch` or nothing; when this returns, it is on the disk.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        let mut writes = self.database.batch().durability(Some(PersistMode::SyncData));
        for (table, key, value) in batch.iter() {
            match value {
                Some(value) => writes.insert(self.table(table), key, value),
                None => writes.remove(self.table(table), key),
            }
        }
        Ok(writes.commit()?)
    }

    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.table(table).get(key)?.map(|value| value.to_vec()))
    }

    /// Shows `look` the records from `from` on and before `to`, in the order of their keys, until it answers `false`.
    pub(crate) fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        mut look: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        let table = self.table(table);
        let records = match to {
            Some(to) => table.range(from..to),
            None => table.range(from..),
        };
        for record in records {
            let (key, value) = record.into_inner()?;
            if !look(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    /// Bytes that its files take.
    pub(crate) fn disk_bytes(&self) -> u64 {
        bytes_in(&self.path)
    }
}

fn bytes_in(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        // Files are made larger than what is in them.
        Ok(metadata) => metadata.blocks() * 512,
        // It has just gone.
        Err(_) => 0,
    });
    bytes.sum()
}

/// Lets the threads that decide go first where there are too few cores for all; those that the engine starts too.
pub(super) fn yield_to_others() {
    // An older kernel may refuse: then it has the same rights as the others.
    let _ = rustix::process::nice(10);
}
