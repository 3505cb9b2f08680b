//! Synthetic traces: chat sessions of made-up accounts, the same bytes for the same arguments on every machine.
//!
//! Integers only: `f64::ln` and its kin differ in their last bit between C libraries, and a committed trace must be
//! reproducible byte for byte. So sizes are `2^x` with `x` a sum of uniforms (nearly normal, hence sizes nearly lognormal,
//! as in real traces) and `2^x` drawn straight between powers of two. Arrivals are uniform over the span, which makes
//! the counts of any minute nearly Poisson.

use std::fmt::Write as _;

use crate::random::SplitMix64;

/// Prompts are cached in blocks of this many tokens.
const CACHE_BLOCK: u64 = 64;

/// A conversation that grew beyond this many prompt tokens is over.
const LONGEST_PROMPT: u64 = 60_000;

/// Two models, so that an account has two limit keys.
const MODELS: [&str; 2] = ["synth-large", "synth-small"];

/// What to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynthTrace {
    /// The same seed gives the same trace.
    pub seed: u64,
    /// Length, 1 to 1,440 minutes.
    pub minutes: u64,
    /// Accounts, 1 to 10,000; the n-th asks 1/n times as often as the first.
    pub accounts: u64,
    /// Requests per minute, all accounts together, 1 to 100,000.
    pub rate: u64,
}

impl SynthTrace {
    /// The trace as CSV text, with the columns of the traces' README but the last. Takes memory for all of it.
    pub fn to_csv(self) -> String {
        let mut random = SplitMix64::new(self.seed);
        let span_ms = self.minutes * 60_000;
        let weights: Vec<u64> = (1..=self.accounts).map(|rank| 1_000_000 / rank).collect();
        let total_weight = weights.iter().sum();

        let mut arrivals: Vec<(u64, usize)> = (0..self.rate * self.minutes)
            .map(|_| (random.below(span_ms), pick(&weights, random.below(total_weight))))
            .collect();
        arrivals.sort_unstable();

        let mut sessions = vec![Session::default(); weights.len()];
        let mut csv =
            String::from("t_ms,account,model,prompt_tokens,cached_prompt_tokens,generated_tokens,duration_ms\n");
        for (at_ms, account) in arrivals {
            let request = sessions[account].next_request(&mut random);
            let Request { model, prompt_tokens, cached_prompt_tokens, generated_tokens, duration_ms } = request;
            let duration = duration_ms.map(|ms| ms.to_string()).unwrap_or_default();
            let name = account + 1;
            writeln!(
                csv,
                "{at_ms},synth-{name},{model},{prompt_tokens},{cached_prompt_tokens},{generated_tokens},{duration}"
            )
            .expect("writing to a String cannot fail");
        }
        csv
    }
}

/// One account's conversation: each request sends everything said so far, and what was sent before is cached.
#[derive(Clone, Debug, Default)]
struct Session {
    model: usize,
    sent: u64,
    said: u64,
}

struct Request {
    model: &'static str,
    prompt_tokens: u64,
    cached_prompt_tokens: u64,
    generated_tokens: u64,
    duration_ms: Option<u64>,
}

impl Session {
    fn next_request(&mut self, random: &mut SplitMix64) -> Request {
        if self.said > LONGEST_PROMPT || random.one_in(6) {
            *self = Self { model: usize::from(random.one_in(3)), sent: 0, said: 0 };
        }
        // Half of the prompts add less than 512 tokens, half of the answers are shorter than 256.
        let prompt_tokens = self.said + 1 + near_lognormal(random, 9);
        let cached_prompt_tokens = self.sent / CACHE_BLOCK * CACHE_BLOCK;
        let generated_tokens = if random.one_in(50) { 0 } else { near_lognormal(random, 8) };
        let tokens_per_second = 20 + random.below(60);
        let stated_ms = 300 + random.below(900) + generated_tokens * 1_000 / tokens_per_second;
        let duration_ms = (!random.one_in(8)).then_some(stated_ms);
        self.sent = prompt_tokens;
        self.said = prompt_tokens + generated_tokens;
        Request { model: MODELS[self.model], prompt_tokens, cached_prompt_tokens, generated_tokens, duration_ms }
    }
}

/// The index whose share of the sum of all weights `point` falls into; `point` is below that sum.
fn pick(weights: &[u64], point: u64) -> usize {
    let mut before = 0;
    let found = weights.iter().position(|weight| {
        before += weight;
        point < before
    });
    found.unwrap_or(weights.len() - 1)
}

/// About `2^x` with `x` near normal, mean `octaves`, standard deviation about 1.4, never further than 4.9 from the mean.
fn near_lognormal(random: &mut SplitMix64, octaves: u64) -> u64 {
    // Twelve uniforms sum to mean 6 and deviation 1 (Irwin-Hall); here in 1/1024 octave, scaled by 1.4 and cut.
    let sum: u64 = (0..12).map(|_| random.below(1_024)).sum();
    let deviation = (sum * 14 / 10).clamp(3_584, 13_616) - 3_584;
    let exponent = (octaves * 1_024 + deviation).saturating_sub(5_017);
    (1_024 + exponent % 1_024) << (exponent / 1_024) >> 10
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::path::Path;

    use super::*;
    use crate::trace::TraceReader;

    /// The arguments of `data/synthetic.csv`; `tidegate trace synth --help` shows them as its example.
    const COMMITTED: SynthTrace = SynthTrace { seed: 7, minutes: 10, accounts: 4, rate: 300 };

    #[test]
    fn the_committed_trace_is_what_the_generator_writes() {
        let committed = include_str!("../data/synthetic.csv");
        assert!(committed.len() < 150_000);
        assert!(COMMITTED.to_csv() == committed, "regenerate it: tidegate trace synth > crates/sim/data/synthetic.csv");
    }

    #[test]
    fn another_seed_is_another_trace_that_reads_as_well() {
        for seed in [0, 1, u64::MAX] {
            let synth = SynthTrace { seed, minutes: 2, accounts: 1, rate: 60 };
            let csv = synth.to_csv();
            assert_ne!(csv, SynthTrace { seed: seed ^ 2, ..synth }.to_csv());
            let rows = TraceReader::new(Path::new("synth"), Box::new(Cursor::new(csv.into_bytes()))).expect("header");
            assert_eq!(rows.map(|row| row.expect("reads")).filter(|row| row.at_ms < 120_000).count(), 120);
        }
    }

    #[test]
    fn sizes_are_spread_over_octaves_around_their_median() {
        let mut random = SplitMix64::new(1);
        let mut sizes: Vec<u64> = (0..10_001).map(|_| near_lognormal(&mut random, 8)).collect();
        sizes.sort_unstable();
        let at = |percent: usize| sizes[sizes.len() * percent / 100];
        assert!((230..=280).contains(&at(50)), "median {}", at(50));
        assert!((60..=130).contains(&at(16)) && (550..=850).contains(&at(84)), "{} .. {}", at(16), at(84));
        assert!(sizes[0] >= 8 && sizes[10_000] <= 8_192, "{} .. {}", sizes[0], sizes[10_000]);
    }
}
