//! The metrics page, read as Prometheus would read it, and the probes beside it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A sample's labels, name to value.
pub type Labels = BTreeMap<String, String>;

/// A scraped metrics page.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The page as it was served.
    pub text: String,
    samples: Vec<(String, Labels, f64)>,
}

impl Page {
    /// Scrapes `http://ADDRESS/metrics`.
    ///
    /// # Panics
    /// If it is not answered with 200, or holds a line that is not in the exposition format.
    #[must_use]
    pub fn scrape(address: &str) -> Self {
        let (status, text) = get(address, "/metrics");
        assert_eq!(status, 200, "{text}");
        Self::parse(&text)
    }

    /// Reads a page.
    ///
    /// # Panics
    /// If a line is not in the exposition format.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line}"))).collect();
        Self { text: text.to_owned(), samples }
    }

    /// The sum of all samples of `name` whose labels include `labels`; 0 where there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&(String, Labels, f64)| {
            sample.0 == name && labels.iter().all(|(key, value)| sample.1.get(*key).is_some_and(|have| have == value))
        };
        self.samples.iter().filter(fits).map(|(_, _, value)| value).sum()
    }

    /// Every sample of `name`.
    pub fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Labels, f64)> {
        self.samples.iter().filter(move |sample| sample.0 == name).map(|(_, labels, value)| (labels, *value))
    }

    /// The names of all metrics on the page.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.samples.iter().map(|(name, _, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let Some((name, rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ')?;
        return Some((name.to_owned(), Labels::new(), value.parse().ok()?));
    };
    let mut labels = Labels::new();
    let mut rest = rest;
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(value) = rest.strip_prefix('}') {
            return Some((name.to_owned(), labels, value.trim().parse().ok()?));
        }
        let (label, quoted) = rest.split_once("=\"")?;
        let (mut value, mut escaped, mut end) = (String::new(), false, None);
        for (index, character) in quoted.char_indices() {
            match character {
                _ if escaped => {
                    value.push(if character == 'n' { '\n' } else { character });
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    end = Some(index);
                    break;
                }
                _ => value.push(character),
            }
        }
        labels.insert(label.to_owned(), value);
        rest = &quoted[end? + 1..];
    }
}

/// `GET path`: status and body. Plain HTTP/1.1, one connection for each request: a probe, not a client.
///
/// # Panics
/// If nobody answers within 10 s.
#[must_use]
pub fn get(address: &str, path: &str) -> (u16, String) {
    try_get(address, path).unwrap_or_else(|error| panic!("GET http://{address}{path}: {error}"))
}

/// As [`get`], where it may be that nobody answers.
///
/// # Errors
/// What the connection said.
pub fn try_get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { unchunk(body) } else { body.to_owned() }))
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        if length == 0 || length > rest.len() {
            break;
        }
        whole.push_str(&rest[..length]);
        body = rest[length..].trim_start_matches("\r\n");
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_samples_and_sums_them() {
        let page = Page::parse(
            "# TYPE a counter\na{x=\"1\",y=\"p\"} 2\na{x=\"2\",y=\"p\"} 3.5\n\nb 7\nc{text=\"a \\\"b\\\" , }\"} 1\n",
        );
        assert!((page.sum("a", &[("y", "p")]) - 5.5).abs() < 1e-9);
        assert!((page.sum("a", &[("x", "2")]) - 3.5).abs() < 1e-9);
        assert!(page.sum("a", &[("x", "3")]).abs() < 1e-9);
        assert!((page.sum("b", &[]) - 7.0).abs() < 1e-9);
        assert_eq!(page.names(), ["a", "b", "c"]);
        assert_eq!(page.samples("c").next().map(|(labels, _)| labels["text"].as_str()), Some("a \"b\" , }"));
    }

    #[test]
    fn joins_chunks() {
        assert_eq!(unchunk("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "abcde");
    }
}
