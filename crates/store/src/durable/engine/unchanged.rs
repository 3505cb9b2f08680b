//! Reading a file without changing it: what the engine writes goes into memory, and is gone with it.
//!
//! The engine repairs a file that was not closed in good order, and notes in any file that it is open. Rejected: its own
//! read-only mode, which refuses the file of a process that was killed, the one that somebody most wants to look at.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use redb::{Builder, StorageBackend};

use super::{CACHE_BYTES, Engine, EngineError};

/// What is kept in memory, piece by piece.
const PAGE_BYTES: usize = 4_096;

impl Engine {
    /// Opens the file at `path`, which no other process has, to read from it; it stays as it is, byte by byte. What is
    /// committed is lost.
    ///
    /// # Errors
    /// It is no file of the engine, or cannot be read.
    pub(in crate::durable) fn open_unchanged(path: &Path) -> Result<Self, EngineError> {
        let backend = Unchanged::open(path)?;
        let open = || {
            let mut builder = Builder::new();
            builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
            builder.create_with_backend(backend)
        };
        let database = catch_unwind(AssertUnwindSafe(open)).map_err(|_| EngineError::Panic)??;
        Ok(Self { database, path: path.to_owned(), pace: Arc::default() })
    }
}

/// A file, and what would have been written to it.
#[derive(Debug)]
struct Unchanged {
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    length: u64,
    /// The part of the file that counts: it was never cut off further down than this.
    of_file: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Unchanged {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        if length == 0 {
            // The engine would make a new one of it.
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty"));
        }
        Ok(Self { file, written: Mutex::new(Written { length, of_file: length, pages: BTreeMap::new() }) })
    }

    /// The bytes of the file from `offset` on; zeros beyond its end.
    fn read_file(&self, of_file: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = usize::try_from(of_file.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let (from_file, beyond) = out.split_at_mut(there);
        beyond.fill(0);
        self.file.read_exact_at(from_file, offset)
    }
}

/// The page in which a byte is, and where in it.
fn page_of(offset: u64) -> (u64, usize) {
    let bytes = PAGE_BYTES as u64;
    (offset / bytes, usize::try_from(offset % bytes).expect("less than a page"))
}

/// The pages that `offset..offset + length` touches: of each its number, where it begins in the page, and where in the range.
fn pages(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done >= length {
            return None;
        }
        let at = offset + done as u64;
        let (page, within) = page_of(at);
        let range = done..length.min(done + PAGE_BYTES - within);
        done = range.end;
        Some((page, within, range))
    })
}

impl StorageBackend for Unchanged {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written.lock().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written.lock();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > written.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_file(written.of_file, offset, out)?;
        for (page, within, range) in pages(offset, out.len()) {
            if let Some(page) = written.pages.get(&page) {
                let length = range.len();
                out[range].copy_from_slice(&page[within..within + length]);
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut written = self.written.lock();
        if length < written.length {
            written.pages.split_off(&length.div_ceil(PAGE_BYTES as u64));
            let (last, within) = page_of(length);
            if let Some(page) = written.pages.get_mut(&last) {
                page[within..].fill(0);
            }
        }
        written.length = length;
        written.of_file = written.of_file.min(length);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock();
        let of_file = written.of_file;
        for (number, within, range) in pages(offset, data.len()) {
            let page = match written.pages.entry(number) {
                Entry::Occupied(page) => page.into_mut(),
                Entry::Vacant(place) => {
                    let mut page = vec![0; PAGE_BYTES];
                    self.read_file(of_file, number * PAGE_BYTES as u64, &mut page)?;
                    place.insert(page)
                }
            };
            let length = range.len();
            page[within..within + length].copy_from_slice(&data[range]);
        }
        written.length = written.length.max(offset + data.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        SetLen(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u64..20_000, prop::collection::vec(any::<u8>(), 1..9_000)).prop_map(|(at, data)| Step::Write(at, data)),
            (0_u64..30_000).prop_map(Step::SetLen),
        ]
    }

    proptest! {
        /// It reads as a file would to which all was written, and the file is as it was.
        #[test]
        fn it_is_a_file_that_does_not_change(steps in prop::collection::vec(step(), 0..12)) {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("file");
            let mut expected: Vec<u8> = (0..10_000_u32).map(|index| index.to_le_bytes()[0] | 1).collect();
            std::fs::write(&path, &expected).expect("writable");
            let before = expected.clone();
            let backend = Unchanged::open(&path).expect("it is there");
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        let at = usize::try_from(at).expect("small");
                        expected.resize(expected.len().max(at + data.len()), 0);
                        expected[at..at + data.len()].copy_from_slice(&data);
                        backend.write(at as u64, &data).expect("memory");
                    }
                    Step::SetLen(length) => {
                        expected.resize(usize::try_from(length).expect("small"), 0);
                        backend.set_len(length).expect("memory");
                    }
                }
                let mut read = vec![7; expected.len()];
                prop_assert_eq!(backend.len().expect("memory"), expected.len() as u64);
                backend.read(0, &mut read).expect("within");
                prop_assert!(read == expected);
                prop_assert!(backend.read(1, &mut read).is_err() || read.is_empty());
            }
            prop_assert_eq!(std::fs::read(&path).expect("readable"), before);
        }
    }
}
