//! Standard output for results, standard error for everything else.
//!
//! `println!` panics when the reader is gone (`tidegate admin ... | head -1`). Here a closed pipe means that the reader has
//! seen enough: the rest is dropped and the command ends as if all had been read.

use std::io::{self, ErrorKind, Write as _};

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::failure::Failure;

/// Writes a result, whole, with a line break at its end if it has none.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let line_end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(line_end.as_bytes()));
    match written.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a result as JSON, on one line.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&value.to_string())
}

/// Writes a remark to standard error. Nobody there to read it is no failure.
pub(crate) fn remark(text: &str) {
    // Nothing is left to tell it to.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A table without lines, for people and for `awk` alike.
pub(crate) struct Rows {
    table: Table,
    numeric: Vec<bool>,
}

impl Rows {
    /// A table with these columns; `#` before a name aligns the column to the right.
    pub(crate) fn new(columns: &[&str]) -> Self {
        let mut rows = Self::without_header(columns);
        let header = rows.aligned(columns.iter().map(|name| name.trim_start_matches('#').to_owned()));
        rows.table.set_header(header);
        rows
    }

    /// The same columns without their names: the next page of a list.
    pub(crate) fn without_header(columns: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        Self { table, numeric: columns.iter().map(|name| name.starts_with('#')).collect() }
    }

    /// Adds a row; control characters in it are shown, not sent to the terminal.
    pub(crate) fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        let row = self.aligned(cells);
        self.table.add_row(row);
    }

    fn aligned(&self, cells: impl IntoIterator<Item = String>) -> Vec<Cell> {
        let align = |numeric: bool| if numeric { CellAlignment::Right } else { CellAlignment::Left };
        let aligns = self.numeric.iter().map(|numeric| align(*numeric));
        cells.into_iter().zip(aligns).map(|(text, align)| Cell::new(printable(&text)).set_alignment(align)).collect()
    }
}

impl std::fmt::Display for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in self.table.lines() {
            // The preset indents every cell by one space, and pads the last.
            let line = line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned();
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// Text from elsewhere, safe to show on a terminal.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(shown).collect()
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (3_600_000, "3,600,000")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn tables_align_numbers_and_show_control_characters() {
        let mut rows = Rows::new(&["NAME", "#TPM"]);
        rows.push(["a\u{1b}[31m".to_owned(), "5".to_owned()]);
        rows.push(["long-name".to_owned(), "1,000".to_owned()]);
        let text = rows.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines, ["NAME           TPM", "a\\u{1b}[31m      5", "long-name    1,000"], "{text}");
    }
}
