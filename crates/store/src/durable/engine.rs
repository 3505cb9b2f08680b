//! The storage engine behind a narrow door: redb. `docs/decisions/0010-embedded-engine.md` says why this one, and why keys are
//! not rows of it but come in packs.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, Durability, ReadableDatabase, TableDefinition, TableError};

use super::batch::{Batch, Table};
use super::pace::Pace;

mod paced;
mod unchanged;

/// Memory for pages; all is read at start alone.
const CACHE_BYTES: usize = 16 << 20;

/// Why the engine did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The engine's own words.
    #[error("{0}")]
    Engine(#[from] redb::Error),
    /// It panicked; what it said is in the log.
    #[error("the storage engine panicked")]
    Panic,
    /// The system's.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It was not asked.
    #[error("{0}")]
    Refused(String),
}

macro_rules! from_engine {
    ($($error:ident)*) => {
        $(impl From<redb::$error> for EngineError {
            fn from(error: redb::$error) -> Self {
                Self::Engine(error.into())
            }
        })*
    };
}
from_engine!(DatabaseError TransactionError TableError StorageError CommitError);

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

const fn rows(table: Table) -> Rows {
    TableDefinition::new(table.name())
}

/// A file that is open.
pub(crate) struct Engine {
    database: Database,
    path: PathBuf,
    pace: Arc<Pace>,
}

impl Engine {
    /// Opens the file at `path`, or makes it. Every checksum in it is looked at.
    pub(crate) fn open(path: &Path) -> Result<Self, EngineError> {
        let pace = Arc::new(Pace::default());
        let open = || {
            let mut builder = Builder::new();
            builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
            builder.create_with_backend(paced::Paced::open(path, Arc::clone(&pace))?)
        };
        // It promises errors, and has paths on which it panics.
        let database = catch_unwind(AssertUnwindSafe(open)).map_err(|_| EngineError::Panic)??;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(Self { database, path: path.to_owned(), pace })
    }

    /// The rests that it takes while it writes large rows.
    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Writes all of `batch` or nothing; when this returns, it is on the disk.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        let mut writes = self.database.begin_write()?;
        writes.set_durability(Durability::Immediate).map_err(redb::Error::from)?;
        for table in Table::ALL {
            let mut of_table = batch.iter().filter(|(of, _, _)| *of == table).peekable();
            if of_table.peek().is_none() {
                continue;
            }
            let mut rows = writes.open_table(rows(table))?;
            for (_, key, value) in of_table {
                match value {
                    Some(value) => {
                        rows.insert(key, value)?;
                        if value.len() >= paced::PIECE_BYTES {
                            self.pace.rest();
                        }
                    }
                    None => drop(rows.remove(key)?),
                }
            }
        }
        Ok(writes.commit()?)
    }

    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        match self.database.begin_read()?.open_table(rows(table)) {
            Ok(rows) => Ok(rows.get(key)?.map(|value| value.value().to_vec())),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Shows `look` the rows of a table from `from` on in the order of their keys, or in the opposite one, until it answers
    /// `false`.
    pub(crate) fn scan(
        &self,
        table: Table,
        from: &[u8],
        backwards: bool,
        mut look: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        let rows = match self.database.begin_read()?.open_table(rows(table)) {
            Ok(rows) => rows,
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut range = rows.range(from..)?;
        while let Some(row) = if backwards { range.next_back() } else { range.next() } {
            let (key, value) = row?;
            if !look(key.value(), value.value()) {
                break;
            }
        }
        Ok(())
    }

    /// Bytes that the file takes on the disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.blocks() * 512)
    }
}
