//! Reading a snapshot into a directory.

use std::path::Path;
use std::{fs, io};

use super::super::OpenError;
use super::super::batch::Batch;
use super::super::directory::Directory;
use super::super::engine::{Engine, EngineError};
use super::{Contents, FileError, InspectError, of_file, open_file};

/// Bytes that are written at once.
const BATCH_BYTES: usize = 8 << 20;

/// Why a snapshot was not imported. The directory has no state, as before; where it says nothing else, nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The directory's: it has state, or files that are not ours.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The snapshot's.
    #[error(transparent)]
    Snapshot(#[from] InspectError),
    /// The disk's, or the snapshot changed while it was read. The same import can be tried again.
    #[error("the import was not finished, and the directory has no state: {0}")]
    Unfinished(String),
}

impl From<EngineError> for ImportError {
    fn from(error: EngineError) -> Self {
        Self::Unfinished(error.to_string())
    }
}

impl From<FileError> for ImportError {
    fn from(error: FileError) -> Self {
        Self::Unfinished(error.to_string())
    }
}

/// Reads the snapshot in `file` into `directory`, which is made where it does not exist, and has no state. The snapshot is read
/// to its end, every record of it, before anything is written. The directory has state when this returns, all at once: an
/// import that is interrupted leaves none, `serve` does not take the directory, and the import can be repeated.
///
/// # Errors
/// [`ImportError`].
pub fn import(file: &Path, directory: &Path) -> Result<Contents, ImportError> {
    Directory::check_vacant(directory)?;
    let metadata = fs::metadata(file).map_err(FileError::from);
    let refused = |error| InspectError::File { path: file.to_owned(), error };
    if !metadata.map_err(refused)?.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it is read twice, and must be a file");
        return Err(refused(error.into()).into());
    }
    let contents = of_file(file, None)?;
    let directory = Directory::lock_vacant(directory)?;
    let mut engine = Engine::open(&directory.make_room()?)?;
    let mut reader = open_file(file)?;
    let mut batch = Batch::default();
    while let Some((table, key, value)) = reader.next()? {
        batch.put(table, key, |out| out.extend_from_slice(value));
        if batch.bytes() >= BATCH_BYTES {
            engine.commit(&std::mem::take(&mut batch))?;
        }
    }
    engine.commit(&batch)?;
    // Closed in good order before it gets its name.
    drop(engine);
    directory.adopt_import()?;
    Ok(contents)
}
