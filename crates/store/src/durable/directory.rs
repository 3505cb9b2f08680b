//! The directory itself: one process at a time, and a note that says what it is.
//!
//! `LOCK` is locked by the process that has the directory; the system lets go of it with the process, however that ends.
//! `NEWEST` says how many batches are on disk, so that nothing goes missing unnoticed where a file is cut off or lost.
//! `FORMAT` says what the directory is, in words, and which version: it is looked at before anything is opened, so that a newer
//! one is left untouched. The engine's file is `state.redb`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::batch::Table;
use super::engine::{Engine, EngineError};
use super::layout::VERSION;

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const NEWEST: &str = "NEWEST";
const STORE: &str = "state.redb";
/// What a first start left that was interrupted.
const UNFINISHED: &str = "unfinished-start.redb";
/// What a snapshot is read into, before it is `STORE`.
const IMPORT: &str = "unfinished-import.redb";
/// The first line of `FORMAT`, before the version.
const FORMAT_LINE: &str = "tidegate data directory, format ";

/// Why a directory is not used; it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system's: it cannot be made, read or locked.
    #[error("the data directory {path}: {error}", path = path.display())]
    Io {
        /// The directory, or the file in it.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// Another process has it.
    #[error("the data directory {path} is in use by another process; each needs its own", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It has files in it that are not ours.
    #[error(
        "{path} is not empty and not a data directory of tidegate (it has {file:?} and no {FORMAT}); name an empty one",
        path = path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// One of the files.
        file: String,
    },
    /// There is none.
    #[error("there is no data directory of tidegate at {path}: it has no {FORMAT}", path = path.display())]
    Nothing {
        /// Where it would be.
        path: PathBuf,
    },
    /// It has state, which is not replaced.
    #[error("the data directory {path} has state already, which an import does not touch; name an empty one", path = path.display())]
    HasState {
        /// The directory.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error(
        "the data directory has format {found}; this program reads formats up to {VERSION}: run the newer version that wrote it"
    )]
    Version {
        /// The version found.
        found: u32,
    },
    /// It is known and has lost its contents.
    #[error(
        "the data directory {path} has lost its contents: nothing is in {STORE}. Restore it from a snapshot, or name an empty \
         directory to begin with fresh limits",
        path = path.display()
    )]
    Lost {
        /// The directory.
        path: PathBuf,
    },
    /// A record that cannot be read.
    #[error(
        "the data directory is damaged: {table}: {what}. Restore it from a snapshot, or name an empty directory to begin with \
         fresh limits"
    )]
    Damaged {
        /// In which table.
        table: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The engine's.
    #[error("the data directory cannot be opened: {0}")]
    Engine(String),
    /// The system has no randomness to give.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

impl From<EngineError> for OpenError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error.to_string())
    }
}

/// A directory that no other process has.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    known: bool,
    /// Locked for as long as it is open.
    _lock: File,
}

/// The system's error, on this path.
fn io(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |error| OpenError::Io { path, error }
}

impl Directory {
    /// Takes the directory at `path`, and makes it where there is none. Looks at its version before anything else.
    pub(super) fn lock(path: &Path) -> Result<Self, OpenError> {
        fs::create_dir_all(path).map_err(io(path))?;
        let known = version_of(path)?.is_some();
        if !known && let Some(file) = foreign_file(path, &OURS).map_err(io(path))? {
            return Err(OpenError::Foreign { path: path.to_owned(), file });
        }
        Self::take(path, known)
    }

    /// Takes the directory at `path`, in which a process has written before; makes nothing but the file that it locks, where
    /// that is missing.
    pub(super) fn lock_known(path: &Path) -> Result<Self, OpenError> {
        match version_of(path)? {
            Some(_) => Self::take(path, true),
            None => Err(OpenError::Nothing { path: path.to_owned() }),
        }
    }

    /// Whether the directory at `path` has no state, so that a snapshot can be read into it; changes nothing. What an import
    /// left that was interrupted is no state; what is called as state is, even where `FORMAT` was lost.
    pub(super) fn check_vacant(path: &Path) -> Result<(), OpenError> {
        if version_of(path)?.is_some() || path.join(STORE).exists() {
            return Err(OpenError::HasState { path: path.to_owned() });
        }
        let ours = [&OURS[..], &[IMPORT]].concat();
        match foreign_file(path, &ours) {
            Ok(Some(file)) => Err(OpenError::Foreign { path: path.to_owned(), file }),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(path)(error)),
            _ => Ok(()),
        }
    }

    /// Takes the directory at `path`, which has no state, for a snapshot, and makes it where there is none.
    pub(super) fn lock_vacant(path: &Path) -> Result<Self, OpenError> {
        Self::check_vacant(path)?;
        fs::create_dir_all(path).map_err(io(path))?;
        let directory = Self::take(path, false)?;
        // Another import may just have come to its end.
        Self::check_vacant(path)?;
        Ok(directory)
    }

    fn take(path: &Path, known: bool) -> Result<Self, OpenError> {
        let lock_path = path.join(LOCK);
        let lock = match OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path) {
            // A directory that is only looked at may be where nothing is written.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) =>
            {
                File::open(&lock_path)
            }
            opened => opened,
        };
        let lock = lock.map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), known, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(io(&lock_path)(error)),
        }
    }

    /// Whether a process has written here before.
    pub(super) const fn is_known(&self) -> bool {
        self.known
    }

    /// Notes that it is ours. What is in it is complete by now.
    pub(super) fn make_known(&self) -> Result<(), OpenError> {
        if self.known {
            return Ok(());
        }
        let path = self.path.join(FORMAT);
        let write = || -> io::Result<()> {
            let new = self.path.join("FORMAT.new");
            let mut file = File::create(&new)?;
            writeln!(file, "{FORMAT_LINE}{VERSION}")?;
            writeln!(file, "It holds secrets; `tidegate snapshot inspect` shows what else.")?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| OpenError::Io { path: path.clone(), error })
    }

    /// How many batches were on disk when [`Newest::note`] was called last; 0 where that is not known.
    pub(super) fn newest(&self) -> Result<(Newest, u64), OpenError> {
        let path = self.path.join(NEWEST);
        let open = || -> io::Result<(Newest, u64)> {
            let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
            let mut text = String::new();
            // It is no text where the machine lost power while it was written.
            let read = (&mut file).take(1_024).read_to_string(&mut text);
            let batches = read.ok().and_then(|_| text.lines().next()?.parse().ok());
            Ok((Newest(file), batches.unwrap_or(0)))
        };
        open().map_err(|error| OpenError::Io { path: path.clone(), error })
    }

    pub(super) fn engine_path(&self) -> PathBuf {
        self.path.join(STORE)
    }

    pub(super) fn open_engine(&self) -> Result<Engine, OpenError> {
        let path = self.engine_path();
        if self.known && !path.is_file() {
            return Err(OpenError::Lost { path: self.path.clone() });
        }
        let open = || Engine::open(&path).map_err(|error| OpenError::Engine(format!("{}: {error}", path.display())));
        match open() {
            // A first start that was interrupted: nobody was ever told that something is in it.
            Err(_) if !self.known && path.is_file() => {
                let aside = self.path.join(UNFINISHED);
                fs::rename(&path, aside).map_err(|error| OpenError::Io { path: path.clone(), error })?;
                open()
            }
            opened => opened,
        }
    }
}

impl Directory {
    /// The engine's file, to read from; it does not change.
    pub(super) fn open_unchanged(&self) -> Result<Engine, OpenError> {
        let path = self.engine_path();
        if !path.is_file() {
            return Err(OpenError::Lost { path: self.path.clone() });
        }
        Ok(Engine::open_unchanged(&path)?)
    }

    /// What [`Newest::note`] noted last; 0 where that is not known.
    pub(super) fn noted_batches(&self) -> u64 {
        let text = fs::read(self.path.join(NEWEST)).unwrap_or_default();
        let text = String::from_utf8(text).unwrap_or_default();
        text.lines().next().and_then(|line| line.parse().ok()).unwrap_or(0)
    }

    /// Where a snapshot is read into; what an import left there that was interrupted, goes.
    pub(super) fn make_room(&self) -> Result<PathBuf, OpenError> {
        for name in [IMPORT, NEWEST] {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(&path)(error)),
                _ => {}
            }
        }
        Ok(self.path.join(IMPORT))
    }

    /// Makes what a snapshot was read into the contents of this directory.
    pub(super) fn adopt_import(&self) -> Result<(), OpenError> {
        let path = self.engine_path();
        fs::rename(self.path.join(IMPORT), &path).map_err(io(&path))?;
        self.make_known()
    }
}

/// A note of how many batches are on disk, outside of the engine's files.
#[derive(Debug)]
pub(super) struct Newest(File);

impl Newest {
    /// Notes it; not forced to the disk, as it must only not be ahead of it.
    pub(super) fn note(&self, batches: u64) -> io::Result<()> {
        // Always as long, so that it is one write over the one before.
        self.0.write_all_at(format!("{batches:020}\n").as_bytes(), 0)
    }
}

/// The version that `FORMAT` states; `None` where there is no such file. A newer one is refused.
fn version_of(path: &Path) -> Result<Option<u32>, OpenError> {
    let path = path.join(FORMAT);
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(1_024).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::Io { path, error }),
    }
    let version = text.lines().next().and_then(|line| line.strip_prefix(FORMAT_LINE)?.trim().parse().ok());
    match version {
        Some(found @ 1..=VERSION) => Ok(Some(found)),
        Some(found) => Err(OpenError::Version { found }),
        None => {
            Err(OpenError::Damaged { table: Table::Meta.name(), what: format!("{FORMAT} does not name a version") })
        }
    }
}

/// What an interrupted first start leaves; `lost+found` is the file system's.
const OURS: [&str; 6] = [LOCK, NEWEST, STORE, "FORMAT.new", UNFINISHED, "lost+found"];

/// A file that is not ours.
fn foreign_file(path: &Path, ours: &[&str]) -> io::Result<Option<String>> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !ours.contains(&name.as_str()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}
