//! The fields of one line: where each begins and ends, in buffers that serve every line of a file.

use std::ops::Range;

use super::LineFault;

/// What lines are split with. Kept from line to line, so that no line costs an allocation.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    ranges: Vec<Range<usize>>,
    /// The fields of a line with quotes, one after the other, without them.
    unquoted: String,
}

/// The fields of a line.
#[derive(Debug)]
pub(super) struct Fields<'l> {
    text: &'l str,
    ranges: &'l [Range<usize>],
}

impl<'l> Fields<'l> {
    /// How many there are; at least 1.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// What stands in the field at `index`, from 0 and below [`Self::len`].
    pub(super) fn text(&self, index: usize) -> &'l str {
        &self.text[self.ranges[index].clone()]
    }
}

impl Splitter {
    /// Splits at commas outside quotes; `""` in a quoted field is one quote (RFC 4180, within one line).
    pub(super) fn split<'l>(&'l mut self, line: &'l str) -> Result<Fields<'l>, LineFault> {
        self.ranges.clear();
        if line.contains('"') {
            self.split_quoted(line)?;
            return Ok(Fields { text: &self.unquoted, ranges: &self.ranges });
        }
        let mut start = 0;
        for (index, byte) in line.bytes().enumerate() {
            if byte == b',' {
                self.ranges.push(start..index);
                start = index + 1;
            }
        }
        self.ranges.push(start..line.len());
        Ok(Fields { text: line, ranges: &self.ranges })
    }

    fn split_quoted(&mut self, line: &str) -> Result<(), LineFault> {
        self.unquoted.clear();
        let mut rest = line;
        loop {
            let start = self.unquoted.len();
            let after = if let Some(quoted) = rest.strip_prefix('"') {
                unquote(quoted, &mut self.unquoted).ok_or(LineFault::Quoting(self.ranges.len() + 1))?
            } else {
                let end = rest.find(',').unwrap_or(rest.len());
                self.unquoted.push_str(&rest[..end]);
                &rest[end..]
            };
            self.ranges.push(start..self.unquoted.len());
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => return Ok(()),
            }
        }
    }
}

/// Takes what follows an opening quote, to the closing one, into `field`: the line from the comma after it. `None`: not
/// closed, or not followed by a comma or the end.
fn unquote<'l>(quoted: &'l str, field: &mut String) -> Option<&'l str> {
    let mut rest = quoted;
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return (after.is_empty() || after.starts_with(',')).then_some(after),
        }
    }
}
