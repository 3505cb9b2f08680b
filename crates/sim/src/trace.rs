//! Traces: who asked for how many tokens when, as gzip or plain CSV, one request a row.
//!
//! Columns are found by their names in the first row; unknown ones are ignored. Rows are sorted by `t_ms`. A file is read
//! in one pass with bounded memory, whatever its length: a line is at most [`MAX_LINE_BYTES`] long, and a quoted field may
//! hold commas and doubled quotes but no line break.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;

mod blocks;
mod fault;
mod fields;
mod line;
mod plain;
#[cfg(test)]
mod tests;

pub(crate) use blocks::Block;
use fault::Place;
pub use fault::{LineFault, TraceError};

/// Longest line, in bytes without its end. Two names of 256 bytes, quoted and escaped, and six numbers fit.
pub const MAX_LINE_BYTES: usize = 4096;

/// What is read of a file at once.
const BUFFER_BYTES: usize = 64 * 1_024;

/// Largest count or time in a trace: 2^40, the largest token count that a call may state.
pub const MAX_COUNT: u64 = 1 << 40;

/// Longest name, in bytes: the bound of the wire.
const MAX_NAME_BYTES: usize = 256;

/// Where a source does not say: the first token after this many milliseconds ...
pub const FIRST_TOKEN_MS: u64 = 500;

/// ... and then one token in this many: 40 a second.
const TOKEN_MS: u64 = 25;

/// Longest time from arrival to last token: a day.
pub const LONGEST_DURATION_MS: u64 = 86_400_000;

/// One request of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceRow {
    /// Arrival, milliseconds from the start of the trace; never before the previous row's.
    pub at_ms: u64,
    /// Who is charged: 1 to 256 bytes, no control characters.
    pub account: String,
    /// The model: 1 to 256 bytes, no control characters.
    pub model: String,
    /// All prompt tokens, at least 1.
    pub prompt_tokens: u64,
    /// Of those, found in the prefix cache; at most `prompt_tokens`. `None`: the source does not say.
    pub cached_prompt_tokens: Option<u64>,
    /// Output tokens; 0 is normal.
    pub generated_tokens: u64,
    /// Arrival to last token, milliseconds. `None`: the source does not say.
    pub stated_duration_ms: Option<u64>,
    /// The most output that the client allowed. `None`: the source does not say.
    pub max_generated_tokens: Option<u64>,
}

impl TraceRow {
    /// Arrival to last token in milliseconds: as stated, else 0.5 s and 1/40 s for each generated token.
    /// At most [`LONGEST_DURATION_MS`].
    pub fn duration_ms(&self) -> u64 {
        let stated = self.stated_duration_ms;
        let duration = stated.unwrap_or(FIRST_TOKEN_MS + self.generated_tokens.saturating_mul(TOKEN_MS));
        duration.min(LONGEST_DURATION_MS)
    }

    /// Cached prompt tokens; 0 where the source does not say (everything is uncached).
    pub fn cached_tokens(&self) -> u64 {
        self.cached_prompt_tokens.unwrap_or(0)
    }
}

/// One request of a trace, as [`TraceRow`] has it, with names that live until the next row is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowRef<'r> {
    /// See [`TraceRow::at_ms`].
    pub at_ms: u64,
    /// See [`TraceRow::account`].
    pub account: &'r str,
    /// See [`TraceRow::model`].
    pub model: &'r str,
    /// See [`TraceRow::prompt_tokens`].
    pub prompt_tokens: u64,
    /// See [`TraceRow::cached_prompt_tokens`].
    pub cached_prompt_tokens: Option<u64>,
    /// See [`TraceRow::generated_tokens`].
    pub generated_tokens: u64,
    /// See [`TraceRow::stated_duration_ms`].
    pub stated_duration_ms: Option<u64>,
    /// See [`TraceRow::max_generated_tokens`].
    pub max_generated_tokens: Option<u64>,
}

impl RowRef<'_> {
    /// The same row under these names.
    #[must_use]
    pub fn named(&self, account: String, model: String) -> TraceRow {
        TraceRow {
            at_ms: self.at_ms,
            account,
            model,
            prompt_tokens: self.prompt_tokens,
            cached_prompt_tokens: self.cached_prompt_tokens,
            generated_tokens: self.generated_tokens,
            stated_duration_ms: self.stated_duration_ms,
            max_generated_tokens: self.max_generated_tokens,
        }
    }

    /// The same row with names of its own.
    #[must_use]
    pub fn to_row(&self) -> TraceRow {
        self.named(self.account.to_owned(), self.model.to_owned())
    }
}

/// The rows of a trace, in order. After the first error there are no more rows.
pub struct TraceReader {
    place: Place,
    lines: Box<dyn BufRead + Send>,
    /// What the file has and what was read of it, compressed or not; nothing is known of what is no file.
    bytes_of_file: u64,
    bytes_read: Arc<AtomicU64>,
    columns: line::Columns,
    bytes: Vec<u8>,
    splitter: fields::Splitter,
    previous_ms: u64,
    /// Bytes of the last row, which are the first that `lines` still has.
    taken: usize,
    failed: bool,
    /// What went wrong behind the lines of the last block.
    late: Option<io::Error>,
}

/// What one pass over a trace finds: the length of the work ahead, and that all of it can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Requests.
    pub rows: u64,
    /// Arrival of the last one, milliseconds from the start of the trace.
    pub last_arrival_ms: u64,
}

/// Reads the whole trace once and keeps nothing of it, so that a bad line is reported before anything is played.
pub fn survey(path: &Path) -> Result<Survey, TraceError> {
    let mut reader = TraceReader::open(path)?;
    let mut survey = Survey::default();
    while let Some(row) = reader.next_ref() {
        survey = Survey { rows: survey.rows + 1, last_arrival_ms: row?.at_ms };
    }
    Ok(survey)
}

impl TraceReader {
    /// Opens a trace and reads its header. Whether it is compressed is seen by its first bytes, not by its name.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let io_error = |error| TraceError::Io { path: path.to_owned(), error };
        let file = File::open(path).map_err(io_error)?;
        let bytes_of_file = file.metadata().map_err(io_error)?.len();
        let bytes_read = Arc::new(AtomicU64::new(0));
        let mut file = BufReader::with_capacity(BUFFER_BYTES, Counted { file, read: Arc::clone(&bytes_read) });
        let compressed = file.fill_buf().map_err(io_error)?.starts_with(&[0x1f, 0x8b]);
        let lines: Box<dyn BufRead + Send> = if compressed {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(file)))
        } else {
            Box::new(file)
        };
        Ok(Self { bytes_of_file, bytes_read, ..Self::new(path, lines)? })
    }

    /// Reads CSV from anything; `path` is the name that errors give.
    pub fn new(path: &Path, lines: Box<dyn BufRead + Send>) -> Result<Self, TraceError> {
        let mut reader = Self {
            place: Place { path: path.to_owned(), line: 0 },
            lines,
            bytes_of_file: 0,
            bytes_read: Arc::default(),
            columns: line::Columns::default(),
            bytes: Vec::new(),
            splitter: fields::Splitter::default(),
            previous_ms: 0,
            taken: 0,
            failed: false,
            late: None,
        };
        let Self { place, lines, bytes, splitter, .. } = &mut reader;
        let header = next_line(place, &mut **lines, bytes)?.ok_or_else(|| place.fault(LineFault::NoHeader))?;
        let columns = splitter.split(header).and_then(|names| line::Columns::parse(&names));
        reader.columns = columns.map_err(|fault| place.fault(fault))?;
        Ok(reader)
    }

    /// The next row, without an allocation. As an iterator, the reader gives the same rows with names of their own.
    pub fn next_ref(&mut self) -> Option<Result<RowRef<'_>, TraceError>> {
        if self.failed {
            return None;
        }
        // Stays so if this row cannot be read.
        self.failed = true;
        let Self { place, lines, columns, bytes, splitter, previous_ms, taken, failed, .. } = self;
        lines.consume(std::mem::take(taken));
        let buffer = match lines.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) => return Some(Err(place.io(error))),
        };
        let parsed = if let Some(plain) = plain::parse(&columns.roles, buffer) {
            place.line += 1;
            *taken = plain.length;
            // The same buffer: nothing was consumed.
            Ok(plain.row(lines.fill_buf().ok()?)?)
        } else {
            let line = match next_line(place, &mut **lines, bytes) {
                Ok(line) => line?,
                Err(error) => return Some(Err(error)),
            };
            splitter.split(line).and_then(|fields| columns.parse_row(fields))
        };
        Some(match parsed {
            Ok(row) if row.at_ms < *previous_ms => {
                Err(place.fault(LineFault::Unsorted { at_ms: row.at_ms, previous_ms: *previous_ms }))
            }
            Ok(row) => {
                *previous_ms = row.at_ms;
                *failed = false;
                Ok(row)
            }
            Err(fault) => Err(place.fault(fault)),
        })
    }
}

/// A file, and how much of it was read.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The next line that is not empty, without its end; `None` at the end of the file.
fn next_line<'b>(
    place: &mut Place,
    lines: &mut dyn BufRead,
    bytes: &'b mut Vec<u8>,
) -> Result<Option<&'b str>, TraceError> {
    loop {
        bytes.clear();
        place.line += 1;
        // Two more than a line may have: its end, and the byte that shows it to be too long.
        let read = lines.take(MAX_LINE_BYTES as u64 + 2).read_until(b'\n', bytes);
        if read.map_err(|error| place.io(error))? == 0 {
            return Ok(None);
        }
        while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            bytes.pop();
        }
        if bytes.len() > MAX_LINE_BYTES {
            return Err(place.fault(LineFault::TooLong));
        }
        if place.line == 1 && bytes.starts_with("\u{feff}".as_bytes()) {
            bytes.drain(..'\u{feff}'.len_utf8());
        }
        if !bytes.is_empty() {
            break;
        }
    }
    std::str::from_utf8(bytes).map(Some).map_err(|_| place.fault(LineFault::NotUtf8))
}

impl Iterator for TraceReader {
    type Item = Result<TraceRow, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_ref().map(|row| row.map(|row| row.to_row()))
    }
}
