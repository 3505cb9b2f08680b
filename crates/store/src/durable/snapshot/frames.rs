//! The file: a line in words, then frames, then how many there were.
//!
//! A frame is a table's number, the lengths of key and value, these two, and the checksum of everything in the file so far. A
//! frame is thus only taken after the very bytes that were written before it. The last frame has table number 0 and how many
//! came before it, and nothing follows. Numbers are big-endian.
//!
//! The checksum is SipHash-1-3, whose key is no secret: it tells of accidents, not of forgers. Whoever can write a snapshot
//! can write what he likes into it.

use std::hash::Hasher;
use std::io::{self, BufRead, Read, Write};

use siphasher::sip::SipHasher13;

use super::super::batch::Table;

/// The first line, before the version.
const TITLE: &str = "tidegate snapshot, format ";
/// The version that this program writes, and the only one that it reads.
pub(super) const FORMAT: u32 = 1;
/// The first line is not longer than this.
const MOST_TITLE_BYTES: u64 = 64;
/// Most bytes of a key and of a value: far more than any has, and little enough to be read at once.
const MOST_KEY_BYTES: u32 = 1 << 16;
const MOST_VALUE_BYTES: u32 = 1 << 28;
/// The table number of the last frame.
const END: u8 = 0;
const HEADER_BYTES: usize = 9;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system's.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("it is not a snapshot of tidegate: its first line is not \"{TITLE}{FORMAT}\"")]
    Foreign,
    /// Another program wrote it, a newer one most likely.
    #[error(
        "it has snapshot format {found}; this program reads format {FORMAT}: use the version of tidegate that wrote it"
    )]
    Format {
        /// The version found.
        found: u32,
    },
    /// It ends too early, or is not what was written.
    #[error("it was cut off or altered: at byte {at}, {what}. Nothing of it is used; take another one")]
    Damaged {
        /// How far into the file it is right.
        at: u64,
        /// What is wrong there.
        what: &'static str,
    },
}

/// Writes a snapshot.
pub(super) struct Frames<W> {
    to: W,
    sum: SipHasher13,
    records: u64,
    bytes: u64,
}

impl<W: Write> Frames<W> {
    pub(super) fn begin(to: W) -> io::Result<Self> {
        let mut frames = Self { to, sum: SipHasher13::new(), records: 0, bytes: 0 };
        frames.write(format!("{TITLE}{FORMAT}\n").as_bytes())?;
        Ok(frames)
    }

    pub(super) fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> io::Result<()> {
        let length = |bytes: &[u8], most: u32| u32::try_from(bytes.len()).ok().filter(|length| *length <= most);
        let lengths = length(key, MOST_KEY_BYTES).zip(length(value, MOST_VALUE_BYTES));
        let Some((key_bytes, value_bytes)) = lengths else {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a record is larger than a snapshot may have"));
        };
        let mut header = [0; HEADER_BYTES];
        header[0] = number_of(table);
        header[1..5].copy_from_slice(&key_bytes.to_be_bytes());
        header[5..].copy_from_slice(&value_bytes.to_be_bytes());
        self.write(&header)?;
        self.write(key)?;
        self.write(value)?;
        self.records += 1;
        self.check()
    }

    /// The last frame. Returns how many records and bytes there are.
    pub(super) fn finish(mut self) -> io::Result<(u64, u64)> {
        let mut header = [END; HEADER_BYTES];
        header[1..].copy_from_slice(&self.records.to_be_bytes());
        self.write(&header)?;
        self.check()?;
        self.to.flush()?;
        Ok((self.records, self.bytes))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.write(bytes);
        self.bytes += bytes.len() as u64;
        self.to.write_all(bytes)
    }

    fn check(&mut self) -> io::Result<()> {
        let sum = self.sum.finish().to_be_bytes();
        self.bytes += sum.len() as u64;
        self.to.write_all(&sum)
    }
}

/// A table, and key and value of a row of it.
pub(super) type Row<'a> = (Table, &'a [u8], &'a [u8]);

/// Reads a snapshot. What [`Reader::next`] returns is as it was written; that the file is whole is known at its end.
pub(super) struct Reader<R> {
    from: R,
    sum: SipHasher13,
    records: u64,
    at: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    pub(super) fn begin(mut from: R) -> Result<Self, FileError> {
        let mut line = Vec::new();
        (&mut from).take(MOST_TITLE_BYTES).read_until(b'\n', &mut line)?;
        let text = std::str::from_utf8(&line).ok().and_then(|line| line.strip_prefix(TITLE)?.strip_suffix('\n'));
        match text.and_then(|version| version.parse().ok()) {
            Some(FORMAT) => {}
            Some(found) => return Err(FileError::Format { found }),
            None => return Err(FileError::Foreign),
        }
        let mut sum = SipHasher13::new();
        sum.write(&line);
        Ok(Self { from, sum, records: 0, at: line.len() as u64, key: Vec::new(), value: Vec::new() })
    }

    /// The next row; `None` where all were read, and nothing is left.
    pub(super) fn next(&mut self) -> Result<Option<Row<'_>>, FileError> {
        let mut at = self.at;
        let damaged = |what| FileError::Damaged { at, what };
        let header: [u8; HEADER_BYTES] = array(&mut self.from)?.ok_or_else(|| damaged("it ends"))?;
        self.sum.write(&header);
        let table = match header[0] {
            END => None,
            number => Some(table_of(number).ok_or_else(|| damaged("a table has no such number"))?),
        };
        let (lengths, _) = header[1..].as_chunks::<4>();
        let [key_bytes, value_bytes] = match table {
            None => [0; 2],
            Some(_) => [lengths[0], lengths[1]].map(u32::from_be_bytes),
        };
        if key_bytes > MOST_KEY_BYTES || value_bytes > MOST_VALUE_BYTES {
            return Err(damaged("a record is larger than any is"));
        }
        for (part, bytes) in [(&mut self.key, key_bytes), (&mut self.value, value_bytes)] {
            part.clear();
            // No more room is taken than the file has bytes.
            let read = (&mut self.from).take(bytes.into()).read_to_end(part)?;
            if read as u64 != u64::from(bytes) {
                return Err(damaged("it ends within a record"));
            }
            self.sum.write(part);
        }
        let sum = array(&mut self.from)?.ok_or_else(|| damaged("it ends within a record"))?;
        if u64::from_be_bytes(sum) != self.sum.finish() {
            return Err(damaged("a checksum is wrong"));
        }
        let Some(table) = table else { return self.end(&header).map(|()| None) };
        at += (HEADER_BYTES + self.key.len() + self.value.len() + sum.len()) as u64;
        self.at = at;
        self.records += 1;
        Ok(Some((table, &self.key, &self.value)))
    }

    fn end(&mut self, header: &[u8; HEADER_BYTES]) -> Result<(), FileError> {
        let at = self.at;
        if header[1..] != self.records.to_be_bytes() {
            return Err(FileError::Damaged { at, what: "records are missing" });
        }
        match self.from.fill_buf()? {
            [] => Ok(()),
            _ => Err(FileError::Damaged { at, what: "something follows the end" }),
        }
    }
}

/// The next bytes; `None` where there are not so many.
fn array<const N: usize>(from: &mut impl Read) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    match from.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// The number of a table in a file: it stays for good.
const fn number_of(table: Table) -> u8 {
    match table {
        Table::Meta => 1,
        Table::Policy => 2,
        Table::Changes => 3,
        Table::Models => 4,
        Table::Keys => 5,
    }
}

fn table_of(number: u8) -> Option<Table> {
    Table::ALL.into_iter().find(|table| number_of(*table) == number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (Table, Vec<u8>, Vec<u8>);

    fn written(rows: &[Owned]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut frames = Frames::begin(&mut file).expect("memory");
        for (table, key, value) in rows {
            frames.put(*table, key, value).expect("memory");
        }
        let (records, bytes) = frames.finish().expect("memory");
        assert_eq!((records, bytes), (rows.len() as u64, file.len() as u64));
        file
    }

    fn read(file: &[u8]) -> Result<Vec<Owned>, FileError> {
        let (mut reader, mut rows) = (Reader::begin(file)?, Vec::new());
        while let Some((table, key, value)) = reader.next()? {
            rows.push((table, key.to_vec(), value.to_vec()));
        }
        Ok(rows)
    }

    fn rows() -> impl Strategy<Value = Vec<Owned>> {
        let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
        prop::collection::vec((prop::sample::select(&Table::ALL[..]), bytes(40), bytes(300)), 0..12)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(rows in rows()) {
            prop_assert_eq!(read(&written(&rows)).expect("whole"), rows);
        }

        #[test]
        fn arbitrary_bytes_are_refused(
            title in any::<bool>(),
            bytes in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let begin = if title { format!("{TITLE}{FORMAT}\n") } else { String::new() };
            prop_assert!(read(&[begin.as_bytes(), &bytes].concat()).is_err());
        }

        /// Frames that are moved, left out, doubled or taken from another snapshot are noticed, each by itself as good as it may be.
        #[test]
        fn frames_count_only_where_they_were_written(rows in rows(), cut in any::<prop::sample::Index>(), again in any::<bool>()) {
            prop_assume!(!rows.is_empty());
            let file = written(&rows);
            let start = |rows: &[Owned]| written(rows).len() - HEADER_BYTES - 8;
            let index = cut.index(rows.len());
            let (from, to) = (start(&rows[..index]), start(&rows[..=index]));
            let altered = if again {
                [&file[..to], &file[from..]].concat()
            } else {
                [&file[..from], &file[to..]].concat()
            };
            prop_assert!(read(&altered).is_err());
        }
    }

    #[test]
    fn another_format_is_named_and_what_is_no_snapshot_too() {
        let newer = format!("{TITLE}2\nwhatever");
        assert!(matches!(read(newer.as_bytes()), Err(FileError::Format { found: 2 })));
        assert!(matches!(read(b"tidegate data directory, format 1\n"), Err(FileError::Foreign)));
        assert!(matches!(read(b""), Err(FileError::Foreign)));
    }

    #[test]
    fn every_cut_and_every_altered_bit_is_noticed() {
        let file = written(&[(Table::Meta, b"a".to_vec(), b"bc".to_vec()), (Table::Keys, vec![0; 8], vec![1; 30])]);
        for end in 0..file.len() {
            assert!(read(&file[..end]).is_err(), "cut off at {end}");
        }
        assert!(read(&[&file[..], b"x"].concat()).is_err());
        for bit in 0..8 * file.len() {
            let mut file = file.clone();
            file[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&file).is_err(), "bit {bit}");
        }
    }
}
