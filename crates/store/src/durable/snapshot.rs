//! Snapshots: all that is in a data directory, in one file; and what is in either, for people.
//!
//! A snapshot is made of a directory that no process has, and read into a directory that has no state. It has the rows of the
//! directory as they are, so that nothing is decided otherwise after it: reservation ids stay good, settlements are booked once.
//! It thus has the directory's secrets too. Rows are passed on one by one; what takes memory is a number for each limit key.
//!
//! `docs/snapshot.md` says what it is for.

use std::fs;
use std::path::{Path, PathBuf};

use tidegate_core::key::LimitKey;

use super::OpenError;
use super::batch::Table;
use super::directory::Directory;

mod export;
mod frames;
mod import;
mod survey;

pub use export::{ExportError, Exported, export, export_to};
pub use frames::FileError;
pub use import::{ImportError, import};
pub use survey::{Contents, Counts, LargeRecord};

use survey::Survey;

/// Why nothing can be said of a directory or of a snapshot; it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The directory's.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The snapshot's.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// The snapshot.
        path: PathBuf,
        /// What is wrong with it.
        error: FileError,
    },
    /// The snapshot is whole, and something in it cannot be read.
    #[error("{path}: a record in it cannot be read: {error}", path = path.display())]
    Record {
        /// The snapshot.
        path: PathBuf,
        /// What is wrong with the record.
        error: OpenError,
    },
}

/// What is in the data directory or the snapshot at `path`, all of which is read; with `wanted`, that key too. Nothing changes. A
/// directory is locked meanwhile: one that a process has is refused.
///
/// # Errors
/// [`InspectError`].
pub fn inspect(path: &Path, wanted: Option<&LimitKey>) -> Result<Contents, InspectError> {
    if path.is_dir() { Ok(of_directory(path, wanted)?) } else { of_file(path, wanted) }
}

fn of_directory(path: &Path, wanted: Option<&LimitKey>) -> Result<Contents, OpenError> {
    read_directory(path, Survey::new(wanted), |_, _, _| Ok(()))
}

/// Shows each row of the directory to `survey` and to `look`: those of the keys backwards, the newest first. Nothing changes.
fn read_directory<E: From<OpenError>>(
    path: &Path,
    mut survey: Survey<'_>,
    mut look: impl FnMut(Table, &[u8], &[u8]) -> Result<(), E>,
) -> Result<Contents, E> {
    let directory = Directory::lock_known(path)?;
    let engine = directory.open_unchanged()?;
    for table in Table::ALL {
        let mut stopped = None;
        let scanned = engine.scan(table, &[], table == Table::Keys, |key, value| {
            let taken = survey.take(table, key, value).map_err(E::from).and_then(|()| look(table, key, value));
            stopped = taken.err();
            stopped.is_none()
        });
        scanned.map_err(OpenError::from)?;
        stopped.map_or(Ok(()), Err)?;
    }
    let mut contents = survey.finish()?;
    contents.bytes = engine.disk_bytes();
    contents.missing_batches = directory.noted_batches().saturating_sub(contents.batches);
    Ok(contents)
}

fn of_file(path: &Path, wanted: Option<&LimitKey>) -> Result<Contents, InspectError> {
    let wrong = |error| InspectError::File { path: path.to_owned(), error };
    let record = |error| InspectError::Record { path: path.to_owned(), error };
    let mut survey = Survey::new(wanted);
    let mut reader = open_file(path).map_err(wrong)?;
    while let Some((table, key, value)) = reader.next().map_err(wrong)? {
        survey.take(table, key, value).map_err(record)?;
    }
    let mut contents = survey.finish().map_err(record)?;
    contents.snapshot_format = Some(frames::FORMAT);
    contents.bytes = fs::metadata(path).map_err(|error| wrong(error.into()))?.len();
    Ok(contents)
}

fn open_file(path: &Path) -> Result<frames::Reader<std::io::BufReader<fs::File>>, FileError> {
    frames::Reader::begin(std::io::BufReader::with_capacity(1 << 20, fs::File::open(path)?))
}

#[cfg(test)]
pub(super) type OwnedRow = (Table, Vec<u8>, Vec<u8>);

/// The rows of a snapshot that is whole.
#[cfg(test)]
pub(super) fn rows_of(file: &[u8]) -> Vec<OwnedRow> {
    let (mut reader, mut rows) = (frames::Reader::begin(file).expect("a snapshot"), Vec::new());
    while let Some((table, key, value)) = reader.next().expect("whole") {
        rows.push((table, key.to_vec(), value.to_vec()));
    }
    rows
}

/// A snapshot with these rows.
#[cfg(test)]
pub(super) fn file_of(rows: &[OwnedRow]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut frames = frames::Frames::begin(&mut file).expect("memory");
    rows.iter().try_for_each(|(table, key, value)| frames.put(*table, key, value)).expect("memory");
    frames.finish().expect("memory");
    file
}
