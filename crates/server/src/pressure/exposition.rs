//! Prometheus' text format, as far as gauges need it: the samples of a page, line by line.
//!
//! Rejected: a parser of the whole format. It refuses a page for one line that it does not like, and knows types, help and
//! histograms that nobody here asks for. What is no sample is skipped; that a gauge is missing is noticed by whoever wants it.

/// A longer line is skipped.
const MAX_LINE_BYTES: usize = 16 * 1_024;

/// One sample; its labels are not kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample<'a> {
    pub(super) name: &'a str,
    /// May be infinite or not a number.
    pub(super) value: f64,
}

/// Every sample of a page, in order. Never fails and allocates nothing, whatever the bytes.
pub(super) fn samples(page: &[u8]) -> impl Iterator<Item = Sample<'_>> {
    page.split(|byte| *byte == b'\n')
        .filter(|line| line.len() <= MAX_LINE_BYTES)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .filter_map(sample)
}

/// `name value`, `name{labels} value` and both with a timestamp behind.
fn sample(line: &str) -> Option<Sample<'_>> {
    let line = line.trim();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':')))?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let values = match rest.trim_start().strip_prefix('{') {
        Some(labels) => after_labels(labels)?,
        None if rest.starts_with(char::is_whitespace) => rest,
        None => return None,
    };
    let mut words = values.split_whitespace();
    let value = words.next()?.parse().ok()?;
    let timestamp = words.next();
    let ends = words.next().is_none() && timestamp.is_none_or(|word| word.parse::<i64>().is_ok());
    ends.then_some(Sample { name, value })
}

/// What stands behind the closing brace. Braces in quotes are text; `\"` does not end a quote.
fn after_labels(labels: &str) -> Option<&str> {
    let (mut quoted, mut escaped) = (false, false);
    for (index, byte) in labels.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return labels.get(index + 1..),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(page: &str) -> Vec<(&str, f64)> {
        samples(page.as_bytes()).map(|sample| (sample.name, sample.value)).collect()
    }

    #[test]
    fn names_labels_values_and_timestamps_are_told_apart() {
        let page = "# HELP a Of a.\n# TYPE a gauge\na 1\n  b{x=\"1\"}  2.5  \r\n\nc{} 3e2 1395066363000\nd:e_9 { f = \"g\" , } -4\n\
                    h{i=\"} 7 \\\" {\",j=\"\\\\\"} 5\nk +Inf\nl NaN\n";
        let read = read(page);
        let expected = [("a", 1.0), ("b", 2.5), ("c", 300.0), ("d:e_9", -4.0), ("h", 5.0), ("k", f64::INFINITY)];
        assert_eq!(read[..6], expected);
        assert!(read[6].0 == "l" && read[6].1.is_nan() && read.len() == 7);
    }

    #[test]
    fn what_is_no_sample_is_skipped_and_its_neighbours_are_not() {
        for line in [
            "a",
            "a{",
            "a{x=\"1} 1",
            "a{x=\"1\"}",
            "a one",
            "a 1 2 3",
            "a 1 soon",
            "9a 1",
            "a-b 1",
            "{x=\"1\"} 1",
            "<html>",
            "\u{feff}a 1",
            "",
        ] {
            assert_eq!(read(&format!("before 1\n{line}\nafter 2")), [("before", 1.0), ("after", 2.0)], "{line}");
        }
        let bytes = b"before 1\n\xff\xfe 3\nafter 2";
        assert_eq!(samples(bytes).count(), 2);
        let long = format!("long{{x=\"{}\"}} 1\nafter 2", "y".repeat(MAX_LINE_BYTES));
        assert_eq!(read(&long), [("after", 2.0)]);
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(page in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            samples(&page).for_each(drop);
        }

        /// Anything made of the format's own pieces.
        #[test]
        fn no_pieces_break_it(pieces in proptest::collection::vec("[a-z]{1,2}|[{}\"\\\\,= \n#]|1|NaN|é", 0..60)) {
            let page = pieces.concat();
            for sample in samples(page.as_bytes()) {
                prop_assert!(page.contains(sample.name) && !sample.name.is_empty());
            }
        }

        /// What was written as the format wants it is read, whatever stands in the labels.
        #[test]
        fn every_label_can_be_written(label in any::<String>(), value in -1e12_f64..1e12) {
            let label = label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let page = format!("g{{l=\"{label}\"}} {value}\n");
            prop_assert_eq!(read(&page), [("g", value)]);
        }
    }
}
