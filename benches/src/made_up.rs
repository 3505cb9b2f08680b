//! Made-up traffic: Poisson arrivals and lengths of a given character, the same on every machine.
//!
//! Nothing here takes a logarithm: `f64::ln` and its kin differ in their last bit between C libraries. Exponential variates
//! come from comparisons of uniforms alone (von Neumann 1951), rates from products.

use tidegate_sim::random::SplitMix64;
use tidegate_sim::trace::FIRST_TOKEN_MS;
use tidegate_sim::workload::{Arrival, KeyName, Workload};

/// One generated token in this many milliseconds, as where a trace does not say.
const TOKEN_MS: u64 = 25;

/// How long answers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lengths {
    /// All alike.
    Constant {
        /// Tokens.
        mean: u64,
    },
    /// Uniform from half the mean to one and a half of it.
    Even {
        /// Tokens.
        mean: u64,
    },
    /// Exponential: deviation as large as the mean. At least 1 token.
    Wide {
        /// Tokens.
        mean: u64,
    },
}

impl Lengths {
    /// The mean, tokens.
    #[must_use]
    pub const fn mean(self) -> u64 {
        match self {
            Self::Constant { mean } | Self::Even { mean } | Self::Wide { mean } => mean,
        }
    }

    /// One length.
    pub fn draw(self, random: &mut SplitMix64) -> u64 {
        match self {
            Self::Constant { mean } => mean,
            Self::Even { mean } => mean / 2 + random.below(mean + 1),
            Self::Wide { mean } => whole(exponential(random) * mean as f64).max(1),
        }
    }
}

/// An exponential variate of mean 1.
pub fn exponential(random: &mut SplitMix64) -> f64 {
    let mut whole = 0.0;
    loop {
        let first = random.next_u64();
        let mut last = first;
        let mut descents = 0_u64;
        loop {
            let next = random.next_u64();
            if next >= last {
                break;
            }
            last = next;
            descents += 1;
        }
        if descents.is_multiple_of(2) {
            return whole + first as f64 / (u64::MAX as f64);
        }
        whole += 1.0;
    }
}

/// Poisson arrivals, milliseconds, at a rate that is given second by second, requests per second.
pub fn arrivals(random: &mut SplitMix64, rates: impl Iterator<Item = f64>) -> Vec<u64> {
    let mut arrivals = Vec::new();
    // In expected requests, so that it can be carried from one rate to the next.
    let mut until_next = exponential(random);
    for (second, rate) in rates.enumerate() {
        let mut left = rate;
        while until_next < left {
            left -= until_next;
            let within_ms = whole((rate - left) / rate * 1_000.0).min(999);
            arrivals.push(second as u64 * 1_000 + within_ms);
            until_next = exponential(random);
        }
        until_next -= left;
    }
    arrivals
}

/// A request that generates 40 tokens a second after half a second, all of its prompt uncached.
#[must_use]
pub fn request(at_ms: u64, prompt_tokens: u64, generated_tokens: u64) -> Arrival {
    let duration_ms = FIRST_TOKEN_MS + generated_tokens * TOKEN_MS;
    Arrival {
        at_ms,
        key: 0,
        prompt_tokens,
        uncached_prompt_tokens: prompt_tokens,
        generated_tokens,
        duration_ms: u32::try_from(duration_ms).unwrap_or(u32::MAX),
        max_generated_tokens: None,
    }
}

/// `seconds` of Poisson arrivals that ask for `generated_per_second` tokens. `lengths` says from which second on which
/// lengths are drawn; the first entry stands for all that comes before it.
#[must_use]
pub fn steady(
    seed: u64,
    generated_per_second: f64,
    seconds: u64,
    prompt_tokens: u64,
    lengths: &[(u64, Lengths)],
) -> Vec<Arrival> {
    let mut random = SplitMix64::new(seed);
    let at = |second: u64| {
        let current = lengths.iter().rev().find(|(from, _)| *from <= second).or(lengths.first());
        current.map_or(Lengths::Constant { mean: 1 }, |(_, lengths)| *lengths)
    };
    let arrivals = arrivals(&mut random, (0..seconds).map(|second| generated_per_second / at(second).mean() as f64));
    let requests = arrivals.into_iter().map(|at_ms| request(at_ms, prompt_tokens, at(at_ms / 1_000).draw(&mut random)));
    requests.collect()
}

/// A workload of one key, which is key 0 of every request; `requests` in any order.
#[must_use]
pub fn single_key(mut requests: Vec<Arrival>) -> Workload {
    requests.sort_by_key(|request| request.at_ms);
    Workload { keys: vec![KeyName { account: "made-up".to_owned(), model: "default".to_owned() }], requests }
}

/// Cut down to an integer; 0 for what is negative or not a number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, as documented")]
#[must_use]
pub const fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_variates_have_the_mean_the_deviation_and_the_tail_of_their_law() {
        let mut random = SplitMix64::new(1);
        let draws: Vec<f64> = (0..200_000).map(|_| exponential(&mut random)).collect();
        let count = draws.len() as f64;
        let mean = draws.iter().sum::<f64>() / count;
        let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / count;
        let beyond_two = draws.iter().filter(|draw| **draw > 2.0).count() as f64 / count;
        assert!((mean - 1.0).abs() < 0.01 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
        assert!((beyond_two - 0.1353).abs() < 0.004, "{beyond_two}");
    }

    #[test]
    fn arrivals_follow_their_rate_and_are_in_order() {
        let mut random = SplitMix64::new(2);
        let rates = (0..2_000).map(|second| if second < 1_000 { 2.0 } else { 20.0 });
        let arrivals = arrivals(&mut random, rates);
        assert!(arrivals.is_sorted());
        let early = arrivals.iter().filter(|at| **at < 1_000_000).count();
        // Poisson: five deviations of either side.
        assert!((1_776..=2_224).contains(&early), "{early}");
        assert!((19_293..=20_707).contains(&(arrivals.len() - early)), "{}", arrivals.len() - early);
        let per_second: Vec<usize> =
            (1_000..2_000).map(|second| arrivals.iter().filter(|at| **at / 1_000 == second).count()).collect();
        let variance = per_second.iter().map(|count| (*count as f64 - 20.0).powi(2)).sum::<f64>() / 1_000.0;
        assert!((16.0..24.0).contains(&variance), "the variance of a Poisson count is its mean: {variance}");
    }

    #[test]
    fn a_step_in_lengths_keeps_the_tokens_that_are_asked_for() {
        let lengths = [(0, Lengths::Even { mean: 200 }), (1_000, Lengths::Wide { mean: 2_000 })];
        let requests = steady(3, 1_000.0, 2_000, 10, &lengths);
        let (before, after): (Vec<&Arrival>, Vec<&Arrival>) =
            requests.iter().partition(|request| request.at_ms < 1_000_000);
        assert!(before.iter().all(|request| (100..=300).contains(&request.generated_tokens)));
        assert!(after.iter().any(|request| request.generated_tokens > 6_000));
        for half in [before, after] {
            let tokens: u64 = half.iter().map(|request| request.generated_tokens).sum();
            assert!((800_000..1_200_000).contains(&tokens), "{tokens}");
        }
    }
}
