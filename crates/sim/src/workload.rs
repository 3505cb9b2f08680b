//! Workloads: the requests of a trace, folded to fewer accounts and scaled to more demand.

use std::collections::HashMap;
use std::path::Path;

use crate::random::SplitMix64;
use crate::trace::{FIRST_TOKEN_MS, TraceError, TraceReader, TraceRow};

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
    /// Arrival to last token.
    pub duration_ms: u64,
    /// The most output that the client allowed, where the trace says.
    pub max_generated_tokens: Option<u64>,
}

impl Arrival {
    /// When the last token is there.
    #[must_use]
    pub const fn end_ms(&self) -> u64 {
        self.at_ms.saturating_add(self.duration_ms)
    }

    /// Generated tokens that are there at `at_ms`: none before the first token, then evenly until the last.
    #[must_use]
    pub fn generated_by(&self, at_ms: u64) -> u64 {
        let elapsed = at_ms.saturating_sub(self.at_ms);
        if elapsed >= self.duration_ms {
            return if at_ms >= self.at_ms { self.generated_tokens } else { 0 };
        }
        // A request of less than 0.5 s has its tokens at its end.
        let Some(elapsed) = elapsed.checked_sub(FIRST_TOKEN_MS) else { return 0 };
        let span = self.duration_ms - FIRST_TOKEN_MS;
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
    /// Reads a whole trace into memory, 72 bytes for each request, and shapes it.
    ///
    /// # Errors
    /// The first line of the trace that cannot be read.
    pub fn read(path: &Path, shape: &Shape) -> Result<Self, TraceError> {
        Ok(Self::from_rows(TraceReader::open(path)?, shape.fold)?.scaled(shape))
    }

    /// Takes in the rows of a trace as they are, but folded.
    ///
    /// # Errors
    /// The first error among `rows`.
    pub fn from_rows<E>(rows: impl Iterator<Item = Result<TraceRow, E>>, fold: Option<u32>) -> Result<Self, E> {
        let mut workload = Self::default();
        let mut indices = HashMap::new();
        let mut account = String::new();
        for row in rows {
            let row = row?;
            account.clone_from(&row.account);
            if let Some(accounts) = fold {
                account = format!("fold-{}", crc32(&row.account) % accounts.max(1));
            }
            let name = KeyName { account: account.clone(), model: row.model.clone() };
            let key = *indices.entry(name).or_insert_with_key(|name| {
                workload.keys.push(name.clone());
                u32::try_from(workload.keys.len() - 1).unwrap_or(u32::MAX)
            });
            workload.requests.push(Arrival {
                at_ms: row.at_ms,
                key,
                prompt_tokens: row.prompt_tokens,
                uncached_prompt_tokens: row.prompt_tokens - row.cached_tokens().min(row.prompt_tokens),
                generated_tokens: row.generated_tokens,
                duration_ms: row.duration_ms(),
                max_generated_tokens: row.max_generated_tokens,
            });
        }
        Ok(workload)
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

    /// When the last token of the last request is there; 0 without requests.
    #[must_use]
    pub fn end_ms(&self) -> u64 {
        self.requests.iter().map(Arrival::end_ms).max().unwrap_or(0)
    }
}

/// CRC-32 (ISO 3309) of a name.
fn crc32(name: &str) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(name.as_bytes());
    crc.sum()
}
