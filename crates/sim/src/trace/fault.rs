//! What can be wrong with a trace, and where.

use std::io;
use std::path::PathBuf;

use super::{MAX_LINE_BYTES, line};

/// Why a trace could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be opened or read, or its gzip data are damaged.
    #[error("{}: {error}", path.display())]
    Io {
        /// The trace.
        path: PathBuf,
        /// What the system or the decompressor said.
        error: io::Error,
    },
    /// A line does not hold what it should.
    #[error("{}:{line}: {fault}", path.display())]
    Line {
        /// The trace.
        path: PathBuf,
        /// The line's number in the decompressed text, from 1.
        line: u64,
        /// What is wrong with it.
        fault: LineFault,
    },
}

/// What is wrong with a line of a trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// The file is empty.
    #[error("expected a header row with the columns {}", line::REQUIRED.join(", "))]
    NoHeader,
    /// The header lacks a column.
    #[error("the header has no column `{0}`")]
    MissingColumn(&'static str),
    /// The header has a column twice.
    #[error("the header has the column `{0}` twice")]
    RepeatedColumn(&'static str),
    /// The line is longer than [`MAX_LINE_BYTES`].
    #[error("the line is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// The line is not UTF-8.
    #[error("the line is not UTF-8 text")]
    NotUtf8,
    /// A quote is not closed, or something follows the closing one.
    #[error("column {0}: a quoted field must end with a quote before the next comma or the end of the line")]
    Quoting(usize),
    /// More or fewer fields than the header has.
    #[error("the row has {found} fields, the header has {expected}")]
    FieldCount {
        /// Fields of this row.
        found: usize,
        /// Fields of the header.
        expected: usize,
    },
    /// A field that must not be empty is.
    #[error("column `{0}`: is empty")]
    Empty(&'static str),
    /// Not digits alone.
    #[error("column `{column}`: `{text}` is not a whole number")]
    NotANumber {
        /// The column's name.
        column: &'static str,
        /// What stands there, at most 40 characters of it.
        text: String,
    },
    /// Above [`super::MAX_COUNT`].
    #[error("column `{column}`: {text} is above 2^40")]
    TooLarge {
        /// The column's name.
        column: &'static str,
        /// What stands there, at most 40 characters of it.
        text: String,
    },
    /// 0 prompt tokens.
    #[error("column `prompt_tokens`: is 0; a request has at least one prompt token")]
    NoPrompt,
    /// More cached than prompt tokens.
    #[error("column `cached_prompt_tokens`: {cached} is more than the {prompt} of `prompt_tokens`")]
    CachedAbovePrompt {
        /// What the row says is cached.
        cached: u64,
        /// What the row says is the prompt.
        prompt: u64,
    },
    /// A name that the service would refuse.
    #[error("column `{0}`: is longer than 256 bytes or has control characters")]
    BadName(&'static str),
    /// Earlier than the row before.
    #[error("column `t_ms`: {at_ms} is before the {previous_ms} of the row before; sort the trace by `t_ms`")]
    Unsorted {
        /// This row's.
        at_ms: u64,
        /// The row before's.
        previous_ms: u64,
    },
}

impl TraceError {
    /// The same of a text that begins after so many more lines.
    pub(crate) fn after(self, lines: u64) -> Self {
        match self {
            Self::Line { path, line, fault } => Self::Line { path, line: line + lines, fault },
            Self::Io { .. } => self,
        }
    }
}

/// Where in which trace the reader is, for what it says about errors.
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) line: u64,
}

impl Place {
    pub(super) fn io(&self, error: io::Error) -> TraceError {
        TraceError::Io { path: self.path.clone(), error }
    }

    pub(super) fn fault(&self, fault: LineFault) -> TraceError {
        TraceError::Line { path: self.path.clone(), line: self.line, fault }
    }
}
