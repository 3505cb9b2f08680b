//! A step in a key's lengths, from 200 to 2,000 tokens.

use tidegate_core::MAX_TOKENS;
use tidegate_core::policy::BUILT_IN_FLOORS;
use tidegate_core::window::Tokens;
use tidegate_sim::policy::{KeyRules, Policy};
use tidegate_sim::run::{Keep, Record, run};

use super::{Conduct, SEEDS, Scope};
use crate::made_up::{Lengths, single_key, steady};
use crate::markdown::{Table, percent, verdict};
use crate::threads::in_order;

/// When the lengths change, and when the traffic ends, seconds.
const STEP_SECONDS: u64 = 1_200;
const END_SECONDS: u64 = 2_400;

/// Generated tokens that are asked for, as a multiple of the limit.
const DEMAND: f64 = 3.0;

/// Where overshoot must be back from three minutes after the step on; share of the limit.
const BAR: f64 = 0.04;

/// The minutes after the step, as columns; the last is all that follows.
const COLUMNS: usize = 4;

pub(super) fn markdown(scope: &Scope) -> String {
    let spreads = [
        ("all alike", Lengths::Constant { mean: 200 }, Lengths::Constant { mean: 2_000 }),
        ("uniform, half to one and a half of the mean", Lengths::Even { mean: 200 }, Lengths::Even { mean: 2_000 }),
        ("exponential", Lengths::Wide { mean: 200 }, Lengths::Wide { mean: 2_000 }),
    ];
    let seeds = scope.seeds(SEEDS);
    let jobs: Vec<_> = spreads
        .into_iter()
        .flat_map(|(name, before, after)| seeds.clone().map(move |seed| (name, before, after, seed)))
        .collect();
    let limit = BUILT_IN_FLOORS.generated;
    let conduct = Conduct::usual();
    let rules = [KeyRules::fixed(&Tokens::new(MAX_TOKENS, MAX_TOKENS, limit))];
    let results = in_order("step", &jobs, scope.threads, |(_, before, after, seed)| {
        let per_second = DEMAND * limit as f64 / 60.0;
        let lengths = [(0, *before), (STEP_SECONDS, *after)];
        let workload = single_key(steady(*seed, per_second, END_SECONDS, 1_000, &lengths));
        let outcome = run(&workload, Policy::Forecast, &conduct.setup(&rules, Keep::Course), &|_| {});
        let record = outcome.keys[0].record.clone().unwrap_or_default();
        (before_step(&record, limit), since_step(&record, limit))
    });

    let mut table = Table::new(&[
        "lengths",
        "seed",
        "before, max %",
        "minute 0-1, max %",
        "1-2",
        "2-3",
        "after 3 min",
        "back under 4 % within 3 min",
    ]);
    for ((name, .., seed), (before, [first, second, third, after])) in jobs.iter().zip(&results) {
        table.row([
            (*name).to_owned(),
            seed.to_string(),
            percent(*before),
            percent(*first),
            percent(*second),
            percent(*third),
            percent(*after),
            verdict(*after < BAR),
        ]);
    }
    format!(
        "## A step in lengths\n\nOne key, Poisson arrivals that ask for {DEMAND} times the limit of 36,000 generated tokens, prompt \
         limits out of the way, progress each second. Lengths of mean 200 for 20 minutes, then of mean 2,000 for 20 more. Overshoot \
         of the limit, the largest in each minute since the step; \"before\" leaves out the first 180 s.\n\n{table}"
    )
}

/// Overshoot at each second from the start of the traffic on.
fn overshoots(record: &Record, limit: u64) -> impl Iterator<Item = (u64, f64)> {
    let seconds = record.held.iter().zip(record.first_second..);
    seconds.map(move |(held, second)| (second, (held.generated as f64 / limit as f64 - 1.0).max(0.0)))
}

/// The largest overshoot before the step, the key's first 180 s left out.
fn before_step(record: &Record, limit: u64) -> f64 {
    let late = overshoots(record, limit).filter(|(second, _)| (180..STEP_SECONDS).contains(second));
    late.map(|(_, above)| above).fold(0.0, f64::max)
}

/// The largest overshoot in the first three minutes since the step, one by one, and in all that follows.
fn since_step(record: &Record, limit: u64) -> [f64; COLUMNS] {
    let mut largest = [0.0; COLUMNS];
    for (second, above) in overshoots(record, limit) {
        if let Some(since) = second.checked_sub(STEP_SECONDS) {
            let minute = usize::try_from(since / 60).unwrap_or(usize::MAX).min(COLUMNS - 1);
            largest[minute] = f64::max(largest[minute], above);
        }
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overshoot_is_put_into_the_minute_in_which_it_was() {
        let held = |second: u64| match second {
            100 => 200, // Within the first 180 s.
            500 => 110, // Before the step.
            1_200 => 120,
            1_259 => 130,
            1_260 => 140,
            1_379 => 150,
            1_380 => 160,
            2_000 => 155,
            _ => 100,
        };
        let first_second = 7;
        let record = Record {
            first_second,
            held: (first_second..2_500).map(|second| Tokens::new(0, 0, held(second))).collect(),
            ..Record::default()
        };
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        near(before_step(&record, 100), 0.1);
        for (found, expected) in since_step(&record, 100).into_iter().zip([0.3, 0.4, 0.5, 0.6]) {
            near(found, expected);
        }
    }
}
