//! Reading a trace: its blocks are parsed on all threads, and put together in their order.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::thread;

use super::{Arrival, KeyName, Workload};
use crate::trace::{Block, LineFault, TraceError, TraceReader};

/// Bytes that are parsed together.
const BLOCK_BYTES: usize = 1 << 19;

/// Blocks for each thread that are read ahead.
const BLOCKS_EACH: usize = 4;

const UNPOISONED: &str = "nobody panics with the lock";

/// Takes in a trace as it is, but folded.
pub(super) fn read(trace: TraceReader, fold: Option<u32>) -> Result<Workload, TraceError> {
    read_blocks(trace, fold, BLOCK_BYTES)
}

fn read_blocks(mut trace: TraceReader, fold: Option<u32>, block_bytes: usize) -> Result<Workload, TraceError> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let next_blocks =
        |trace: &mut TraceReader| (0..BLOCKS_EACH * threads).map_while(|_| trace.next_block(block_bytes)).collect();
    let mut whole = Whole { line: trace.line(), ..Whole::default() };
    let mut parsed = Vec::new();
    let mut blocks: Vec<_> = next_blocks(&mut trace);
    while !blocks.is_empty() || !parsed.is_empty() {
        let unparsed = Mutex::new(std::mem::take(&mut blocks).into_iter().enumerate());
        let done = Mutex::new(BTreeMap::new());
        let parse = || {
            loop {
                let Some((place, block)) = unparsed.lock().expect(UNPOISONED).next() else { break };
                let part: Result<_, TraceError> = block.map(|block| Part::parse(block, fold));
                done.lock().expect(UNPOISONED).insert(place, part);
            }
        };
        // While some are parsed, what was parsed before is put together, and the next ones are read.
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(parse);
            }
            parsed.drain(..).try_for_each(|part: Result<Part, _>| whole.append(part?, &trace))?;
            blocks = next_blocks(&mut trace);
            parse();
            Ok(())
        })?;
        parsed.extend(done.into_inner().expect(UNPOISONED).into_values());
    }
    Ok(Workload { keys: whole.keys.names, requests: whole.requests })
}

/// What was put together so far.
#[derive(Default)]
struct Whole {
    keys: Keys,
    requests: Vec<Arrival>,
    /// Lines so far.
    line: u64,
}

impl Whole {
    fn append(&mut self, part: Part, trace: &TraceReader) -> Result<(), TraceError> {
        let Part { keys, requests, first_line, lines, bytes_read, error } = part;
        let previous_ms = self.requests.last().map_or(0, |request| request.at_ms);
        if let Some(first) = requests.first().filter(|first| first.at_ms < previous_ms) {
            let fault = LineFault::Unsorted { at_ms: first.at_ms, previous_ms };
            return Err(trace.fault_at(first_line, fault).after(self.line - Block::HEADER));
        }
        if let Some(error) = error {
            return Err(error.after(self.line - Block::HEADER));
        }
        if self.requests.capacity() - self.requests.len() < requests.len() {
            let estimate = trace.estimate(self.requests.len() + requests.len(), bytes_read);
            let more = estimate.saturating_sub(self.requests.len()).max(requests.len());
            self.requests.reserve(more + more / 16);
        }
        let of_key: Vec<_> = keys.names.into_iter().map(|name| self.keys.index_of(name)).collect();
        self.requests
            .extend(requests.into_iter().map(|request| Arrival { key: of_key[request.key as usize], ..request }));
        self.line += lines;
        Ok(())
    }
}

/// A parsed block.
struct Part {
    /// Its own.
    keys: Keys,
    requests: Vec<Arrival>,
    /// The line of its first row, and how many lines it has.
    first_line: u64,
    lines: u64,
    /// Of the file, up to its end.
    bytes_read: u64,
    /// Of the row after the last request.
    error: Option<TraceError>,
}

impl Part {
    fn parse(mut block: Block, fold: Option<u32>) -> Self {
        let bytes_read = block.bytes_read();
        let (keys, requests) = (Keys::default(), Vec::new());
        let mut part = Self { keys, requests, first_line: 0, lines: 0, bytes_read, error: None };
        while let Some(row) = block.next_ref() {
            let row = match row {
                Ok(row) => row,
                Err(error) => {
                    part.error = Some(error);
                    break;
                }
            };
            let key = part.keys.index(row.account, row.model, fold);
            let row = row.named(String::new(), String::new());
            part.requests.push(Arrival {
                at_ms: row.at_ms,
                key,
                prompt_tokens: row.prompt_tokens,
                uncached_prompt_tokens: row.prompt_tokens - row.cached_tokens().min(row.prompt_tokens),
                generated_tokens: row.generated_tokens,
                // At most a day.
                duration_ms: u32::try_from(row.duration_ms()).unwrap_or(u32::MAX),
                max_generated_tokens: row.max_generated_tokens,
            });
            if part.requests.len() == 1 {
                part.first_line = block.line();
            }
        }
        part.lines = block.line() - Block::HEADER - 1;
        part
    }
}

/// The keys met so far.
#[derive(Default)]
struct Keys {
    names: Vec<KeyName>,
    indices: HashMap<KeyName, u32>,
    /// By the names as the trace has them, account and model in one text: a row of a known key allocates nothing.
    as_written: HashMap<String, u32>,
    text: String,
}

impl Keys {
    fn index(&mut self, account: &str, model: &str, fold: Option<u32>) -> u32 {
        // Names have no control characters, so no other two names make the same text.
        self.text.clear();
        self.text.extend([account, "\0", model]);
        if let Some(index) = self.as_written.get(&self.text) {
            return *index;
        }
        let account =
            fold.map_or_else(|| account.to_owned(), |accounts| format!("fold-{}", crc32(account) % accounts.max(1)));
        let index = self.index_of(KeyName { account, model: model.to_owned() });
        self.as_written.insert(self.text.clone(), index);
        index
    }

    fn index_of(&mut self, name: KeyName) -> u32 {
        let names = &mut self.names;
        *self.indices.entry(name).or_insert_with_key(|name| {
            names.push(name.clone());
            u32::try_from(names.len() - 1).unwrap_or(u32::MAX)
        })
    }
}

/// CRC-32 (ISO 3309) of a name.
fn crc32(name: &str) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(name.as_bytes());
    crc.sum()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn trace(rows: &str) -> TraceReader {
        let csv = format!("\nt_ms,account,model,prompt_tokens,generated_tokens\n{rows}");
        TraceReader::new(Path::new("t.csv"), Box::new(Cursor::new(csv.into_bytes()))).expect("header")
    }

    /// A row `wait` ms after the one before it, or something else.
    fn row() -> impl Strategy<Value = (u64, &'static str)> {
        let rest = prop_oneof![
            20 => prop::sample::select(vec![",a,m,1,2\n", ",b,m,3,4\n", ",a,n,5,6\r\n", ",\"a\",m,7,8\n\n", ",\u{e9},m,9,10\n"]),
            1 => prop::sample::select(vec![",a,m,0,2\n", ",a,m,1\n", "\u{feff},a,m,1,2\n"]),
        ];
        (prop_oneof![30 => 0_u64..100, 1 => Just(u64::MAX)], rest)
    }

    proptest! {
        /// Wherever a trace is cut, it is the same workload, or the same line is wrong with it.
        #[test]
        fn a_trace_in_blocks_reads_as_one_read_row_by_row(
            rows in prop::collection::vec(row(), 0..60), block_bytes in 1_usize..300, ended in any::<bool>(),
        ) {
            let (mut text, mut at_ms) = (String::new(), 1_000_u64);
            for (wait, rest) in rows {
                // Now and then one that comes too early.
                at_ms = at_ms.checked_add(wait).unwrap_or(at_ms.saturating_sub(1));
                text.extend([&at_ms.to_string(), rest]);
            }
            let text = if ended { text.as_str() } else { text.trim_end() };
            let rows: Result<Vec<_>, _> = trace(text).collect();
            let read = read_blocks(trace(text), None, block_bytes);
            match (rows, read) {
                (Ok(rows), Ok(read)) => {
                    let names = |request: &Arrival| read.keys[request.key as usize].clone();
                    let seen: Vec<_> = read.requests.iter().map(|request| {
                        let KeyName { account, model } = names(request);
                        (request.at_ms, account, model, request.prompt_tokens, request.generated_tokens)
                    }).collect();
                    let expected: Vec<_> = rows.into_iter().map(|row| {
                        (row.at_ms, row.account, row.model, row.prompt_tokens, row.generated_tokens)
                    }).collect();
                    prop_assert_eq!(seen, expected);
                }
                (Err(expected), Err(seen)) => prop_assert_eq!(seen.to_string(), expected.to_string()),
                (expected, seen) => prop_assert!(false, "{expected:?}, but {seen:?}"),
            }
        }
    }
}
