//! A file in which whoever writes rests now and then.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{DatabaseError, StorageBackend};

use super::super::pace::Pace;

/// A write of this many bytes or more is followed by a rest.
pub(super) const PIECE_BYTES: usize = 32 << 10;

/// A file of the engine.
#[derive(Debug)]
pub(super) struct Paced {
    file: FileBackend,
    pace: Arc<Pace>,
}

impl Paced {
    pub(super) fn open(path: &Path, pace: Arc<Pace>) -> Result<Self, DatabaseError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(redb::StorageError::from)?;
        Ok(Self { file: FileBackend::new(file)?, pace })
    }
}

/// Locks are not passed on: the directory has one of its own.
impl StorageBackend for Paced {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)?;
        if data.len() >= PIECE_BYTES {
            self.pace.rest();
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
