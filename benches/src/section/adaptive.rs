//! Under the adaptive law: traffic that doubles every ten minutes, and a launch.

use std::time::Duration;

use tidegate_core::MAX_TOKENS;
use tidegate_core::law::{Bounds, LawParams};
use tidegate_core::policy::BUILT_IN_FLOORS;
use tidegate_core::window::{PerWindow, Tokens, Window};
use tidegate_sim::policy::{KeyRules, Policy};
use tidegate_sim::random::SplitMix64;
use tidegate_sim::run::{Keep, Outcome, run};
use tidegate_sim::workload::{Arrival, KeyName, Workload};

use super::{Conduct, Scope};
use crate::made_up::{arrivals, whole};
use crate::markdown::{Table, count, percent, verdict};
use crate::threads::in_order;
use crate::traces::Trace;

/// Seeds where nobody says otherwise.
const SEEDS: u64 = 20;

/// A request takes at most this share of any window's floor.
const LARGEST: f64 = 0.01;

/// At least this share of a trace's rows must be within that.
const KEPT: f64 = 0.95;

/// Ceilings, in floors.
const CEILING: u64 = 18;

/// Where traffic starts and where the ramp ends, in floors.
const START: f64 = 0.5;
const TOP: f64 = 0.8 * CEILING as f64;

/// 2^(1/600): what doubles in ten minutes grows by this each second.
const GROWTH_PER_SECOND: f64 = 1.001_155_912_853_823_6;

/// How long the ramp stays at its top, seconds.
const HELD_SECONDS: usize = 600;

/// A launch: traffic at its start for an hour, then this many floors for 50 minutes.
const LAUNCH: f64 = 10.0;
const BEFORE_LAUNCH_SECONDS: u64 = 3_600;
const LAUNCH_SECONDS: usize = 3_000;

/// From the end of this minute after the launch on nothing may be denied: 34 min for 10x at a doubling in ten, and the two
/// minutes of the law's rounding.
const LAST_DENIAL_MINUTE: f64 = 36.0;

/// How often gateways report.
const REPORTS: Duration = Duration::from_secs(30);

/// Rows of a trace that can be drawn from, and the floors under which they are played.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub(super) rows: Vec<Arrival>,
    /// Share of the trace's rows.
    kept: f64,
    pub(super) floors: Tokens,
    /// Requests a minute that fill the fullest window to its floor, on average.
    pub(super) per_minute: f64,
}

impl Sizes {
    /// Floors in the proportion of the mean tokens of the rows that are kept, as low as 95 % of the rows allow, which take at most
    /// this share of any of them. `None` for a trace without tokens.
    pub(super) fn fitted(trace: &Trace, at_most: f64) -> Option<Self> {
        let all = &trace.workload.requests;
        let mut rows = all.clone();
        let mut floors = Tokens::default();
        // What is kept depends on the means and these on what is kept: a few rounds settle it.
        for _ in 0..50 {
            let means = means(&rows)?;
            let weight = |row: &Arrival| {
                let tokens = of(row);
                let shares = Window::ALL.map(|window| ratio(tokens[window] as f64, means[window]).unwrap_or(0.0));
                shares.into_iter().fold(0.0, f64::max)
            };
            let mut weights: Vec<f64> = all.iter().map(weight).collect();
            weights.sort_by(f64::total_cmp);
            let rank = usize::try_from(whole((weights.len() as f64 * KEPT).ceil())).ok()?.clamp(1, weights.len());
            let largest = weights[rank - 1];
            floors = means.map(|mean| whole((mean * largest / at_most).ceil()).clamp(1, MAX_TOKENS / CEILING));
            let kept: Vec<Arrival> = all.iter().filter(|row| weight(row) <= largest).copied().collect();
            let settled = kept.len() == rows.len();
            rows = kept;
            if settled {
                break;
            }
        }
        Self::new(rows, all.len(), floors)
    }

    /// The built-in floors, and the rows that are small enough for them. `None` where there is no such row.
    fn built_in(trace: &Trace) -> Option<Self> {
        let all = &trace.workload.requests;
        let fits = |row: &&Arrival| {
            let tokens = of(row);
            Window::ALL.into_iter().all(|window| tokens[window] as f64 <= BUILT_IN_FLOORS[window] as f64 * LARGEST)
        };
        Self::new(all.iter().filter(fits).copied().collect(), all.len(), BUILT_IN_FLOORS)
    }

    fn new(rows: Vec<Arrival>, of_rows: usize, floors: Tokens) -> Option<Self> {
        let means = means(&rows)?;
        let fills = Window::ALL.into_iter().filter_map(|window| ratio(floors[window] as f64, means[window]));
        let per_minute = fills.fold(f64::MAX, f64::min);
        Some(Self { kept: rows.len() as f64 / of_rows as f64, rows, floors, per_minute })
    }

    /// Poisson arrivals whose expected tokens are so many floors a minute, given second by second. The key's name, and so the
    /// phase of its law's minute, depends on the seed.
    fn workload(&self, seed: u64, in_floors: impl Iterator<Item = f64>) -> Workload {
        let mut random = SplitMix64::new(seed);
        let arrivals = arrivals(&mut random, in_floors.map(|floors| floors * self.per_minute / 60.0));
        let draw = |at_ms| {
            let index = usize::try_from(random.below(self.rows.len() as u64)).unwrap_or(0);
            Arrival { at_ms, key: 0, ..self.rows[index] }
        };
        let keys = vec![KeyName { account: format!("seed-{seed}"), model: "default".to_owned() }];
        Workload { keys, requests: arrivals.into_iter().map(draw).collect() }
    }

    fn play(&self, workload: &Workload) -> Outcome {
        let bounds = self
            .floors
            .map(|floor| Bounds::new(floor, floor * CEILING).expect("the floor is at least 1, 18 of it at most 2^40"));
        let rules = [KeyRules { bounds, law: LawParams::DEFAULT }];
        let conduct = Conduct { progress_every: Some(REPORTS), ..Conduct::usual() };
        run(workload, Policy::Forecast, &conduct.setup(&rules, Keep::Course), &|_| {})
    }
}

const fn of(row: &Arrival) -> Tokens {
    Tokens::new(row.prompt_tokens, row.uncached_prompt_tokens, row.generated_tokens)
}

/// `None` where there is nothing to divide by.
fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// `None` without tokens.
fn means(rows: &[Arrival]) -> Option<PerWindow<f64>> {
    let means = PerWindow::from_fn(|window| {
        rows.iter().map(|row| of(row)[window] as f64).sum::<f64>() / rows.len().max(1) as f64
    });
    Window::ALL.into_iter().any(|window| means[window] > 0.0).then_some(means)
}

/// The ramp, in floors, second by second.
fn ramp() -> impl Iterator<Item = f64> {
    let rising = std::iter::successors(Some(START), |floors| Some(floors * GROWTH_PER_SECOND));
    rising.take_while(|floors| *floors < TOP).chain(std::iter::repeat_n(TOP, HELD_SECONDS))
}

fn launch() -> impl Iterator<Item = f64> {
    let before = usize::try_from(BEFORE_LAUNCH_SECONDS).unwrap_or(usize::MAX);
    std::iter::repeat_n(START, before).chain(std::iter::repeat_n(LAUNCH, LAUNCH_SECONDS))
}

/// Denied tokens as a share of those asked for, in the window where it is largest.
fn denied_share(outcome: &Outcome) -> f64 {
    let share = |window: Window| {
        let asked = outcome.tokens[window] + outcome.tokens_denied[window];
        if asked == 0 { 0.0 } else { outcome.tokens_denied[window] as f64 / asked as f64 }
    };
    Window::ALL.into_iter().map(share).fold(0.0, f64::max)
}

/// Minute of the last denial since the launch; 0 without one.
fn last_denial_minute(outcome: &Outcome) -> f64 {
    let seconds = outcome.keys.iter().filter_map(|key| key.record.as_ref()).flat_map(|record| &record.rate_limited);
    seconds.max().map_or(0.0, |last| (last + 1).saturating_sub(BEFORE_LAUNCH_SECONDS) as f64 / 60.0)
}

/// The smallest value that at least 99 % of the values do not exceed; with fewer than 100 values the largest.
fn p99(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * 99).div_ceil(100);
    rank.checked_sub(1).map_or(f64::NAN, |index| sorted[index])
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

pub(super) fn markdown(scope: &Scope) -> String {
    let sizes: Vec<(String, Sizes)> = scope
        .traces
        .iter()
        .flat_map(|trace| {
            let name = |floors| format!("{}, {floors} floors", trace.name);
            let designs = [("fitted", Sizes::fitted(trace, LARGEST)), ("built-in", Sizes::built_in(trace))];
            designs.into_iter().filter_map(move |(floors, sizes)| sizes.map(|sizes| (name(floors), sizes)))
        })
        .collect();
    let seeds = scope.seeds(SEEDS);
    let jobs: Vec<_> = sizes.iter().flat_map(|(_, sizes)| seeds.clone().map(move |seed| (sizes, seed))).collect();
    let ramps = in_order("adaptive, ramp", &jobs, scope.threads, |(sizes, seed)| {
        let outcome = sizes.play(&sizes.workload(*seed, ramp()));
        (denied_share(&outcome), outcome.requests - outcome.admitted)
    });
    let launches = in_order("adaptive, launch", &jobs, scope.threads, |(sizes, seed)| {
        let outcome = sizes.play(&sizes.workload(*seed, launch()));
        (denied_share(&outcome), last_denial_minute(&outcome))
    });

    let mut design = Table::new(&[
        "trace",
        "rows kept %",
        "floor prompt",
        "uncached",
        "generated",
        "requests a minute at the floor",
    ]);
    let mut ramped = Table::new(&[
        "trace",
        "denied tokens %, mean",
        "p99 over seeds",
        "denied requests, all seeds",
        "seeds without a denial",
    ]);
    let mut launched =
        Table::new(&["trace", "denied tokens %, mean", "last denial, min, mean", "latest", "none after minute 36"]);
    let per_trace = usize::try_from(*seeds.end()).unwrap_or(usize::MAX);
    for (((name, sizes), ramps), launches) in sizes.iter().zip(ramps.chunks(per_trace)).zip(launches.chunks(per_trace))
    {
        design.row([
            name.clone(),
            percent(sizes.kept),
            count(sizes.floors.prompt),
            count(sizes.floors.uncached_prompt),
            count(sizes.floors.generated),
            format!("{:.0}", sizes.per_minute),
        ]);
        let shares: Vec<f64> = ramps.iter().map(|(share, _)| *share).collect();
        ramped.row([
            name.clone(),
            fine_percent(mean(&shares)),
            fine_percent(p99(&shares)),
            ramps.iter().map(|(_, denied)| denied).sum::<u64>().to_string(),
            format!("{} of {}", ramps.iter().filter(|(_, denied)| *denied == 0).count(), ramps.len()),
        ]);
        let shares: Vec<f64> = launches.iter().map(|(share, _)| *share).collect();
        let minutes: Vec<f64> = launches.iter().map(|(_, minute)| *minute).collect();
        let latest = minutes.iter().copied().fold(0.0, f64::max);
        launched.row([
            name.clone(),
            percent(mean(&shares)),
            format!("{:.1}", mean(&minutes)),
            format!("{latest:.1}"),
            verdict(latest <= LAST_DENIAL_MINUTE),
        ]);
    }
    format!(
        "## With the adaptive law\n\nOne key under the law's default profile, ceilings of {CEILING} floors, Poisson arrivals, \
         progress every 30 s, {} seeds. Sizes are rows drawn at random from the trace, of those that take at most 1 % of the floor \
         in every window. Fitted floors are in the proportion of the mean tokens of these rows, so that the three windows grow \
         alike, and as low as they can be with at least 95 % of the rows kept. Under the built-in floors fewer rows are small \
         enough, and one window fills before the others. Tokens asked for are said in floors a minute of the fullest window.\n\n{design}\n\
         ### A ramp: {START} to {TOP:.1} floors, doubling every 10 minutes, then 10 minutes at the top\n\nDenied tokens as a share of \
         those asked for, in the window where it is largest; of fewer than 100 seeds the p99 is the largest. The aim is 0.00 %.\n\n\
         {ramped}\n### A launch: an hour at {START} floors, then at once {LAUNCH} floors for 50 minutes\n\nMinutes count from the \
         launch; denied tokens are a share of the whole run's.\n\n{launched}",
        seeds.end(),
    )
}

/// Percent with four decimals: the aim is nothing at all, and 0.00 would hide what is left.
fn fine_percent(share: f64) -> String {
    format!("{:.4}", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{request, single_key};
    use crate::traces::Kind;

    fn trace() -> Trace {
        // 99 alike, and one that no floor is made for.
        let mut requests: Vec<Arrival> =
            (0..99).map(|index| Arrival { uncached_prompt_tokens: 50, ..request(index, 100, 10) }).collect();
        requests.push(request(99, 100_000, 9_000));
        Trace { name: "test".to_owned(), kind: Kind::Chat, workload: single_key(requests) }
    }

    #[test]
    fn floors_have_the_proportion_of_the_rows_that_are_kept() {
        let sizes = Sizes::fitted(&trace(), LARGEST).expect("there are tokens");
        assert_eq!(sizes.rows.len(), 99);
        assert_eq!(sizes.floors, Tokens::new(10_000, 5_000, 1_000), "each kept row takes 1 % of every floor");
        assert!((sizes.per_minute - 100.0).abs() < 1e-9);
        assert!(Sizes::fitted(&Trace { workload: Workload::default(), ..trace() }, LARGEST).is_none());
        let built_in = Sizes::built_in(&trace()).expect("most rows are small enough");
        assert_eq!((built_in.rows.len(), built_in.floors), (99, BUILT_IN_FLOORS));
        assert!((built_in.per_minute - 3_600.0).abs() < 1e-9, "generated tokens fill their floor first");
        let giants = single_key(vec![request(0, 10, 361)]);
        assert!(Sizes::built_in(&Trace { workload: giants, ..trace() }).is_none());
    }

    #[test]
    fn a_ramp_doubles_in_ten_minutes_and_asks_for_what_it_says() {
        let ramp: Vec<f64> = ramp().collect();
        assert!((ramp[600] / ramp[0] - 2.0).abs() < 1e-9);
        assert!((ramp[ramp.len() - 1] - 14.4).abs() < 1e-12 && ramp.len() > 2_900 + 600);
        let sizes = Sizes::fitted(&trace(), LARGEST).expect("there are tokens");
        let workload = sizes.workload(1, std::iter::repeat_n(2.0, 600));
        let generated: u64 = workload.requests.iter().map(|request| request.generated_tokens).sum();
        // Ten minutes at two floors of 1,000; five deviations of 2,000 requests.
        assert!((17_700..22_300).contains(&generated), "{generated}");
    }

    #[test]
    fn a_launch_is_denied_while_the_limit_grows_and_not_before() {
        let sizes = Sizes::fitted(&trace(), LARGEST).expect("there are tokens");
        let outcome = sizes.play(&sizes.workload(1, launch()));
        let first = outcome.keys[0].record.as_ref().and_then(|record| record.rate_limited.first().copied());
        assert!(first.is_some_and(|first| first >= BEFORE_LAUNCH_SECONDS), "{first:?}");
        // The law alone needs 34 minutes to 10x; before the 25th it cannot be over.
        assert!(last_denial_minute(&outcome) > 25.0, "{}", last_denial_minute(&outcome));
        let share = denied_share(&outcome);
        assert!((0.1..0.9).contains(&share), "{share}");
    }

    #[test]
    fn the_p99_of_few_seeds_is_the_largest() {
        assert!((p99(&[0.3, 0.1, 0.2]) - 0.3).abs() < 1e-12);
        let many: Vec<f64> = (1..=200).map(f64::from).collect();
        assert!((p99(&many) - 198.0).abs() < 1e-12);
        assert!((mean(&[1.0, 2.0]) - 1.5).abs() < 1e-12);
    }
}
