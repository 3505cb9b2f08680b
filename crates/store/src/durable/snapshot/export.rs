//! Making a snapshot of a directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::super::OpenError;
use super::frames::Frames;
use super::survey::{Contents, Survey};

/// Why there is no snapshot; the directory is as it was, and nothing is at its target but what was there before.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The directory's: a process has it, or something in it cannot be read.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The caller's: something is where the snapshot would be.
    #[error("{path} exists", path = path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The caller's: what is there is no file that could be replaced.
    #[error("{path} is not a file", path = path.display())]
    NoFile {
        /// The target.
        path: PathBuf,
    },
    /// The system's: it cannot be written.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// The target.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
}

/// A snapshot that was made.
#[derive(Clone, Debug)]
pub struct Exported {
    /// What is in it.
    pub contents: Contents,
    /// Records in it.
    pub records: u64,
    /// Bytes of it.
    pub bytes: u64,
}

/// Makes a snapshot of `directory`, which no process has, in the file `target`, which only its owner can read. The file is
/// there when it is whole and on the disk; one that was there before is replaced where `replace` says so. Every record is looked
/// at: of a directory that could not be opened, there is no snapshot.
///
/// # Errors
/// [`ExportError`].
pub fn export(directory: &Path, target: &Path, replace: bool) -> Result<Exported, ExportError> {
    let failed = |error| ExportError::Io { path: target.to_owned(), error };
    check_target(target, replace)?;
    let new = Unfinished::create(target).map_err(failed)?;
    let exported = write(directory, target, BufWriter::with_capacity(1 << 20, &new.file))?;
    new.file.sync_all().map_err(failed)?;
    // It may have come meanwhile.
    check_target(target, replace)?;
    new.finish(target).map_err(failed)?;
    Ok(exported)
}

/// As [`export`], to wherever `to` leads; `name` is what it is called in errors.
///
/// # Errors
/// [`ExportError`]; a part of the snapshot may be written by then, which no import takes.
pub fn export_to(directory: &Path, name: &Path, to: impl Write) -> Result<Exported, ExportError> {
    write(directory, name, BufWriter::with_capacity(1 << 20, to))
}

fn write(directory: &Path, name: &Path, to: impl Write) -> Result<Exported, ExportError> {
    let failed = |error| ExportError::Io { path: name.to_owned(), error };
    let mut begun = None;
    let mut to = Some(to);
    let contents = super::read_directory(directory, Survey::new(None), |table, key, value| {
        // Nothing is written before it is known that there is something to be read.
        if let Some(to) = to.take() {
            begun = Some(Frames::begin(to).map_err(failed)?);
        }
        begun.as_mut().map_or(Ok(()), |frames| frames.put(table, key, value).map_err(failed))
    })?;
    // Secrets and policy are in every directory that is read to its end.
    let frames = begun.expect("a directory has records");
    let (records, bytes) = frames.finish().map_err(failed)?;
    Ok(Exported { contents, records, bytes })
}

fn check_target(target: &Path, replace: bool) -> Result<(), ExportError> {
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ExportError::Io { path: target.to_owned(), error }),
        Ok(_) if !replace => Err(ExportError::Exists { path: target.to_owned() }),
        Ok(found) if !found.is_file() => Err(ExportError::NoFile { path: target.to_owned() }),
        Ok(_) => Ok(()),
    }
}

/// A file beside the target; it goes with this, unless it was finished.
struct Unfinished {
    file: File,
    path: PathBuf,
}

impl Unfinished {
    fn create(target: &Path) -> io::Result<Self> {
        let name = target.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
        let mut unfinished = std::ffi::OsString::from(".");
        unfinished.push(name);
        unfinished.push(format!(".{}.unfinished", std::process::id()));
        let path = target.with_file_name(unfinished);
        // It has secrets in it from its first byte on.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, path })
    }

    fn finish(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.path.clear();
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Why it is not finished is what the caller hears.
            let _ = fs::remove_file(&self.path);
        }
    }
}
