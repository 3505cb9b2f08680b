//! Tables in Markdown, and how figures are written in them.

use std::fmt;

/// A table: one header row, rows of as many cells.
#[derive(Clone, Debug)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|&cell| cell.to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty, those beyond the header are dropped.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        let mut cells = cells.to_vec();
        cells.resize(self.header.len(), String::new());
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| {} |", self.header.join(" | "))?;
        writeln!(f, "|{}", "---|".repeat(self.header.len()))?;
        self.rows.iter().try_for_each(|row| writeln!(f, "| {} |", row.join(" | ")))
    }
}

/// A share as percent with two decimals, without the sign: 0.98765 is `98.77`.
#[must_use]
pub fn percent(share: f64) -> String {
    let text = format!("{:.2}", share * 100.0);
    if text == "-0.00" { "0.00".to_owned() } else { text }
}

/// Two shares as percent, `98.10 to 98.35`; one where they are written alike.
#[must_use]
pub fn percents(from: f64, to: f64) -> String {
    let (from, to) = (percent(from), percent(to));
    if from == to { from } else { format!("{from} to {to}") }
}

/// A count with commas: `3,600,000`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `yes` or `**no**`.
#[must_use]
pub fn verdict(met: bool) -> String {
    if met { "yes" } else { "**no**" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_as_documented() {
        assert_eq!(percent(0.987_65), "98.77");
        assert_eq!(percent(-0.000_001), "0.00");
        assert_eq!(percents(0.98, 0.980_001), "98.00");
        assert_eq!(percents(0.98, 0.99), "98.00 to 99.00");
        assert_eq!([0, 999, 1_000, 3_600_000].map(count), ["0", "999", "1,000", "3,600,000"]);
    }

    #[test]
    fn every_row_has_the_cells_of_the_header() {
        let mut table = Table::new(&["a", "b"]);
        table.row(["1".to_owned()]);
        table.row(["1".to_owned(), "2".to_owned(), "3".to_owned()]);
        assert_eq!(table.to_string(), "| a | b |\n|---|---|\n| 1 |  |\n| 1 | 2 |\n");
    }
}
