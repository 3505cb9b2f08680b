//! Workloads: the requests of a trace, folded to fewer accounts and scaled to more demand.

use std::collections::HashMap;
use std::path::Path;

use crate::random::SplitMix64;
use crate::trace::{FIRST_TOKEN_MS, TraceError, TraceReader};

mod read;

/// A copy of a request arrives up to this much later.
const COPY_DELAY_MS: u64 = 10_000;

/// A copy has the counts of a random row at most this many rows away.
const COPY_DISTANCE: usize = 100;

/// Who is asked to be charged, for which model. Traces know no variants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyName {
    /// 1 to 256 bytes.
    pub account: String,
    /// 1 to 256 bytes.
    pub model: String,
}

/// One request, with all that will become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Milliseconds from the start of the trace.
    pub at_ms: u64,
    /// Index into [`Workload::keys`].
    pub key: u32,
    /// All prompt tokens, at least 1.
    pub prompt_tokens: u64,
    /// Of those, the ones that the prefix cache did not serve.
    pub uncached_prompt_tokens: u64,
    /// Output tokens.
    pub generated_tokens: u64,
    /// Arrival to last token; at most a day.
    pub duration_ms: u32,
    /// The most output that the client allowed, where the trace says.
    pub max_generated_tokens: Option<u64>,
}

impl Arrival {
    /// When the last token is there.
    #[must_use]
    pub const fn end_ms(&self) -> u64 {
        self.at_ms.saturating_add(self.duration_ms as u64)
    }

    /// Generated tokens that are there at `at_ms`: none before the first token, then evenly until the last.
    #[must_use]
    pub fn generated_by(&self, at_ms: u64) -> u64 {
        let elapsed = at_ms.saturating_sub(self.at_ms);
        let duration = u64::from(self.duration_ms);
        if elapsed >= duration {
            return if at_ms >= self.at_ms { self.generated_tokens } else { 0 };
        }
        // A request of less than 0.5 s has its tokens at its end.
        let Some(elapsed) = elapsed.checked_sub(FIRST_TOKEN_MS) else { return 0 };
        let span = duration - FIRST_TOKEN_MS;
        if let Some(product) = self.generated_tokens.checked_mul(elapsed) {
            // Nearly always, and much cheaper.
            return product / span;
        }
        u64::try_from(u128::from(self.generated_tokens) * u128::from(elapsed) / u128::from(span)).unwrap_or(u64::MAX)
    }
}

/// The requests of a trace in the order of their arrival.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// The limit keys that occur, in the order of their first request.
    pub keys: Vec<KeyName>,
    /// Ascending in `at_ms`.
    pub requests: Vec<Arrival>,
}

/// A key's time, whatever is admitted; milliseconds from the start of the trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Its first request comes.
    pub first_ms: u64,
    /// Its last request comes.
    pub last_ms: u64,
    /// The last token of all of them is there, or would be.
    pub end_ms: u64,
}

/// What becomes of a trace before it is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Folds all accounts to this many, by the CRC-32 of their names; `None` leaves them alone.
    pub fold: Option<u32>,
    /// Each request is repeated this many times, in thousandths; the fraction by chance. A copy comes up to 10 s later and has
    /// the counts of a random row at most 100 rows away.
    pub scale_permille: u64,
    /// Seed of the copies.
    pub seed: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { fold: None, scale_permille: 1_000, seed: 0 }
    }
}

impl Workload {
    /// Reads a whole trace into memory, 56 bytes for each request, and shapes it.
    ///
    /// # Errors
    /// The first line of the trace that cannot be read.
    pub fn read(path: &Path, shape: &Shape) -> Result<Self, TraceError> {
        Ok(read::read(TraceReader::open(path)?, shape.fold)?.scaled(shape))
    }

    /// Repeats or thins the requests as `shape` says.
    #[must_use]
    pub fn scaled(self, shape: &Shape) -> Self {
        if shape.scale_permille == 1_000 {
            return self;
        }
        let Self { keys, requests: rows } = self;
        let mut random = SplitMix64::new(shape.seed);
        let mut requests = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            let whole = shape.scale_permille / 1_000;
            let times = whole + u64::from(random.below(1_000) < shape.scale_permille % 1_000);
            for time in 0..times {
                if time == 0 {
                    requests.push(*row);
                    continue;
                }
                let first = index.saturating_sub(COPY_DISTANCE);
                let last = (index + COPY_DISTANCE).min(rows.len() - 1);
                let offset = random.below((last - first + 1) as u64);
                let counts = rows[first + usize::try_from(offset).unwrap_or(0)];
                let at_ms = row.at_ms.saturating_add(random.below(COPY_DELAY_MS + 1));
                requests.push(Arrival { at_ms, key: row.key, ..counts });
            }
        }
        requests.sort_by_key(|request| request.at_ms);
        Self { keys, requests }
    }

    /// The model of each key, by number, and how many there are; in the order of their first key.
    #[must_use]
    pub fn models(&self) -> (Vec<usize>, usize) {
        let mut numbers = HashMap::new();
        let of_key = |name: &KeyName| {
            let next = numbers.len();
            *numbers.entry(name.model.clone()).or_insert(next)
        };
        let models = self.keys.iter().map(of_key).collect();
        (models, numbers.len())
    }

    /// The indices of each key's requests, in the order of arrival.
    #[must_use]
    pub fn by_key(&self) -> Vec<Vec<u32>> {
        let mut by_key = vec![Vec::new(); self.keys.len()];
        for (index, request) in (0..).zip(&self.requests) {
            by_key[request.key as usize].push(index);
        }
        by_key
    }

    /// From when to when each key asks, and when the last token of all its requests is there.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<Option<Span>> = vec![None; self.keys.len()];
        for request in &self.requests {
            let (at_ms, end_ms) = (request.at_ms, request.end_ms());
            let first = Span { first_ms: at_ms, last_ms: at_ms, end_ms };
            let span = spans[request.key as usize].get_or_insert(first);
            span.last_ms = at_ms;
            span.end_ms = span.end_ms.max(end_ms);
        }
        spans.into_iter().map(Option::unwrap_or_default).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn workload(rows: &str, fold: Option<u32>) -> Workload {
        let csv = format!("t_ms,account,model,prompt_tokens,cached_prompt_tokens,generated_tokens,duration_ms\n{rows}");
        let rows = TraceReader::new(Path::new("t.csv"), Box::new(Cursor::new(csv.into_bytes()))).expect("header");
        read::read(rows, fold).expect("reads")
    }

    const ROWS: &str = "0,a,m,10,4,20,\n5,b,m,10,,7,900\n5,a,n,10,10,7,900\n9,a,m,1,,0,0\n";

    #[test]
    fn keys_are_accounts_and_models_in_the_order_of_their_first_request() {
        let workload = workload(ROWS, None);
        let keys: Vec<_> = workload.keys.iter().map(|key| (key.account.as_str(), key.model.as_str())).collect();
        assert_eq!(keys, [("a", "m"), ("b", "m"), ("a", "n")]);
        assert_eq!(workload.requests.iter().map(|request| request.key).collect::<Vec<_>>(), [0, 1, 2, 0]);
        assert_eq!(
            workload.requests.iter().map(|request| request.uncached_prompt_tokens).collect::<Vec<_>>(),
            [6, 10, 0, 1]
        );
    }

    #[test]
    fn folding_leaves_so_many_accounts_and_every_model() {
        // zlib: crc32("a") % 2 = 1, crc32("b") % 2 = 1.
        let folded = workload(ROWS, Some(2));
        assert_eq!(folded.keys.iter().map(|key| key.account.as_str()).collect::<Vec<_>>(), ["fold-1", "fold-1"]);
        assert_eq!(workload(ROWS, Some(1)).keys.len(), 2);
    }

    #[test]
    fn output_comes_evenly_from_the_first_token_to_the_last() {
        let request = workload("1000,a,m,1,,100,2500\n", None).requests[0];
        assert_eq!([999, 1_000, 1_500, 2_500, 3_499, 3_500].map(|at| request.generated_by(at)), [0, 0, 0, 50, 99, 100]);
        let short = workload("0,a,m,1,,100,300\n", None).requests[0];
        assert_eq!([299, 300].map(|at| short.generated_by(at)), [0, 100]);
    }

    #[test]
    fn a_copy_comes_within_ten_seconds_with_the_counts_of_a_row_nearby() {
        let rows: String = (1..=500).map(|row| format!("{},a,m,{row},,{row},\n", row * 1_000)).collect();
        let single = workload(&rows, None);
        let shape = Shape { scale_permille: 2_500, seed: 7, ..Shape::default() };
        let scaled = single.clone().scaled(&shape);
        assert!((1_150..1_350).contains(&scaled.requests.len()), "{}", scaled.requests.len());
        assert!(scaled.requests.is_sorted_by_key(|request| request.at_ms));
        assert!(scaled.requests.iter().all(|request| {
            let row = request.prompt_tokens;
            // A row at most 100 rows away, up to 10 s later.
            let earliest = row.saturating_sub(100).max(1) * 1_000;
            request.generated_tokens == row && (earliest..=(row + 100) * 1_000 + 10_000).contains(&request.at_ms)
        }));
        assert_eq!(scaled, single.clone().scaled(&shape));
        assert_ne!(scaled, single.scaled(&Shape { seed: 8, ..shape }));
    }
}
