//! Stretches of a trace, cut between lines, so that several can be parsed at once.

use std::io::{self, BufRead, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{LineFault, MAX_LINE_BYTES, Place, RowRef, TraceError, TraceReader, fields};

/// Whole lines of a trace. Lines are counted as if they followed a header of [`Block::HEADER`] lines.
pub(crate) struct Block(TraceReader);

impl Block {
    /// The next row, as [`TraceReader::next_ref`].
    pub(crate) fn next_ref(&mut self) -> Option<Result<RowRef<'_>, TraceError>> {
        self.0.next_ref()
    }

    /// The line of the last row; once there are no more rows, that after the last.
    pub(crate) const fn line(&self) -> u64 {
        self.0.place.line
    }

    pub(crate) const HEADER: u64 = 1;

    /// Bytes of the file that had been read when the block ended; 0 where there is no file.
    pub(crate) const fn bytes_read(&self) -> u64 {
        self.0.bytes_of_file
    }
}

impl TraceReader {
    /// The next block of about so many bytes, unparsed. An error is that of the first line that cannot be read and comes after all blocks before it.
    pub(crate) fn next_block(&mut self, length: usize) -> Option<Result<Block, TraceError>> {
        self.lines.consume(std::mem::take(&mut self.taken));
        if self.failed {
            return self.next_late();
        }
        let mut bytes = Vec::with_capacity(length + MAX_LINE_BYTES + 2);
        if let Err(error) = read_lines(&mut *self.lines, length, &mut bytes) {
            self.failed = true;
            self.late = Some(error);
            // What was read of the line at which it happened is not a line.
            bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1));
        }
        if bytes.is_empty() {
            self.failed = true;
            return self.next_late();
        }
        Some(Ok(Block(Self {
            place: Place { path: self.place.path.clone(), line: Block::HEADER },
            lines: Box::new(Cursor::new(bytes)),
            columns: self.columns.clone(),
            bytes_of_file: self.bytes_read.load(Ordering::Relaxed),
            bytes_read: Arc::default(),
            bytes: Vec::new(),
            splitter: fields::Splitter::default(),
            previous_ms: 0,
            taken: 0,
            late: None,
            failed: false,
        })))
    }

    fn next_late(&mut self) -> Option<Result<Block, TraceError>> {
        self.late.take().map(|error| Err(self.place.io(error)))
    }

    /// What is wrong with a line, by its number.
    pub(crate) fn fault_at(&self, line: u64, fault: LineFault) -> TraceError {
        TraceError::Line { path: self.place.path.clone(), line, fault }
    }

    /// Lines before the next block, as long as none was read.
    pub(crate) const fn line(&self) -> u64 {
        self.place.line
    }

    /// How many rows the whole trace has if it goes on like these, which `bytes_read` bytes of the file hold; 0 where nobody
    /// knows.
    pub(crate) fn estimate(&self, rows: usize, bytes_read: u64) -> usize {
        let rows = u128::try_from(rows).unwrap_or(0) * u128::from(self.bytes_of_file) / u128::from(bytes_read.max(1));
        usize::try_from(rows).unwrap_or(0)
    }
}

/// Reads whole lines of about so many bytes; a line that is too long may be cut.
fn read_lines(lines: &mut dyn BufRead, length: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
    lines.take(length as u64).read_to_end(bytes)?;
    if bytes.last().is_some_and(|last| *last != b'\n') {
        // Enough of the rest of a line to see that it is too long.
        lines.take(MAX_LINE_BYTES as u64 + 2).read_until(b'\n', bytes)?;
    }
    Ok(())
}
