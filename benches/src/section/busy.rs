//! A busy deployment: small accounts and big ones, and what the pressure makes of them.

use std::time::Duration;

use tidegate_core::law::{Bounds, LawParams};
use tidegate_core::window::{PerWindow, Tokens, Window};
use tidegate_sim::busy::Capacity;
use tidegate_sim::policy::{KeyRules, Policy};
use tidegate_sim::random::SplitMix64;
use tidegate_sim::run::{Keep, KeyOutcome, Outcome, run};
use tidegate_sim::workload::{Arrival, KeyName, Workload};

use super::adaptive::Sizes;
use super::{Conduct, Scope};
use crate::StudyError;
use crate::made_up::arrivals;
use crate::markdown::{Table, percent, verdict};
use crate::plot::Busy;
use crate::threads::in_order;

/// A request takes at most this share of any window's floor.
const LARGEST: f64 = 0.05;

const SMALL: u32 = 36;
const BIG: u32 = 4;

/// What an account asks for, in floors; a big one from its launch on.
const USUAL: f64 = 0.8;
const LAUNCHED: f64 = 10.0;

const LAUNCH_SECOND: u64 = 1_800;
const SECONDS: u64 = 6 * 3_600;

/// Ceilings, in floors.
const CEILING: u64 = 50;

/// What the deployment can do, in floors, from which second on.
const CAPACITY: [(u64, u64); 3] = [(0, 60), (3 * 3_600, 36), (4 * 3_600, 60)];

/// How often gateways report progress.
const REPORTS: Duration = Duration::from_secs(30);

/// Minutes in which the deployment may do more than it can.
const MOST_MINUTES: usize = 10;
/// Share of the small accounts' requests that may be refused with a 503.
const MOST_REFUSED: f64 = 0.005;

/// Seeds where nobody says otherwise.
const SEEDS: u64 = 1;

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figures {
    minutes_over: usize,
    small_503: f64,
    small_429: f64,
    big_503: f64,
    big_429: f64,
    /// Mean use of the capacity from the launch on, in the fullest window.
    used: f64,
}

fn capacity(floors: Tokens) -> Capacity {
    let steps = CAPACITY.map(|(from, times)| (from, floors.map(|floor| floor * times)));
    Capacity::new(steps.to_vec()).expect("floors are at least 1, and the seconds ascend")
}

/// Poisson arrivals of every account, each with sizes of its own drawing.
fn workload(sizes: &Sizes, seed: u64) -> Workload {
    let mut requests = Vec::new();
    let mut random = SplitMix64::new(seed);
    for key in 0..SMALL + BIG {
        let floors = |second| if key >= SMALL && second >= LAUNCH_SECOND { LAUNCHED } else { USUAL };
        let rates = (0..SECONDS).map(|second| floors(second) * sizes.per_minute / 60.0);
        let mut random = SplitMix64::new(random.next_u64());
        let arrivals = arrivals(&mut random, rates);
        requests.extend(arrivals.into_iter().map(|at_ms| {
            let index = usize::try_from(random.below(sizes.rows.len() as u64)).unwrap_or(0);
            Arrival { at_ms, key, ..sizes.rows[index] }
        }));
    }
    requests.sort_by_key(|request| request.at_ms);
    let name = |key| KeyName { account: format!("account-{key}"), model: "default".to_owned() };
    Workload { keys: (0..SMALL + BIG).map(name).collect(), requests }
}

/// What came of a run, and its course, minute by minute.
struct Played {
    figures: Figures,
    /// Use of the capacity, in the fullest window.
    used: Vec<f64>,
    /// Requests refused with a 503, of small accounts and of big ones.
    refused: [Vec<u64>; 2],
}

fn play(sizes: &Sizes, seed: u64, reported: bool) -> Played {
    let capacity = capacity(sizes.floors);
    let bounds = sizes.floors.map(|floor| Bounds::new(floor, floor * CEILING).expect("1 to 2^40"));
    let rules = vec![KeyRules { bounds, law: LawParams::DEFAULT }; (SMALL + BIG) as usize];
    let conduct = Conduct { progress_every: Some(REPORTS), ..Conduct::usual() };
    // Without pressure the deployment is watched all the same: its capacity is beyond reach.
    let unlimited = Capacity::new(vec![(0, Tokens::new(1 << 60, 1 << 60, 1 << 60))]).expect("not 0");
    let told = if reported { &capacity } else { &unlimited };
    let setup = tidegate_sim::run::Setup { capacity: Some(told), ..conduct.setup(&rules, Keep::Course) };
    Played::of(&run(&workload(sizes, seed), Policy::Forecast, &setup, &|_| {}), &capacity)
}

impl Played {
    fn of(outcome: &Outcome, capacity: &Capacity) -> Self {
        let used = used_by_minute(&outcome.served[0].seconds, capacity);
        let (small, big) = outcome.keys.split_at(SMALL as usize);
        let refused = [small, big].map(|keys| {
            let mut minutes = vec![0; used.len()];
            let records = keys.iter().filter_map(|key| key.record.as_ref());
            for second in records.flat_map(|record| &record.overloaded) {
                if let Some(minute) = minutes.get_mut(usize::try_from(second / 60).unwrap_or(usize::MAX)) {
                    *minute += 1;
                }
            }
            minutes
        });
        Self { figures: Figures::of(outcome, &used), used, refused }
    }
}

/// Use of the capacity in each whole minute, in the fullest window.
fn used_by_minute(seconds: &[Tokens], capacity: &Capacity) -> Vec<f64> {
    let minutes = seconds.chunks_exact(60).enumerate().map(|(minute, tokens)| {
        let able = capacity.at(minute as u64 * 60);
        let done: Tokens = PerWindow::from_fn(|window| tokens.iter().map(|second| second[window]).sum());
        Window::ALL.map(|window| done[window] as f64 / able[window] as f64).into_iter().fold(0.0, f64::max)
    });
    minutes.collect()
}

impl Figures {
    fn of(outcome: &Outcome, used: &[f64]) -> Self {
        let (small, big) = outcome.keys.split_at(SMALL as usize);
        let share = |keys: &[KeyOutcome], refused: fn(&KeyOutcome) -> u64| {
            let requests: u64 = keys.iter().map(|key| key.requests).sum();
            keys.iter().map(refused).sum::<u64>() as f64 / requests.max(1) as f64
        };
        let launched = used.get(usize::try_from(LAUNCH_SECOND / 60).unwrap_or(usize::MAX)..).unwrap_or_default();
        Self {
            minutes_over: used.iter().filter(|used| **used > 1.0).count(),
            small_503: share(small, |key| key.overloaded),
            small_429: share(small, |key| key.rate_limited),
            big_503: share(big, |key| key.overloaded),
            big_429: share(big, |key| key.rate_limited),
            used: launched.iter().sum::<f64>() / launched.len().max(1) as f64,
        }
    }

    fn meets_the_bars(&self) -> bool {
        self.minutes_over <= MOST_MINUTES && self.small_503 <= MOST_REFUSED
    }
}

/// # Errors
/// A plot that cannot be written.
pub(super) fn markdown(scope: &Scope) -> Result<String, StudyError> {
    let traces = scope.traces.iter().filter_map(|trace| Some((&trace.name, Sizes::fitted(trace, LARGEST)?)));
    let traces: Vec<_> = traces.collect();
    let seeds = scope.seeds(SEEDS);
    let jobs: Vec<_> = traces
        .iter()
        .flat_map(|(name, sizes)| seeds.clone().map(move |seed| (*name, sizes, seed)))
        .flat_map(|(name, sizes, seed)| [false, true].map(|reported| (name, sizes, seed, reported)))
        .collect();
    let results = in_order("busy", &jobs, scope.threads, |(_, sizes, seed, reported)| play(sizes, *seed, *reported));
    let mut table = Table::new(&[
        "trace",
        "seed",
        "pressure reported",
        "minutes over capacity",
        "503 small %",
        "429 small %",
        "503 big %",
        "429 big %",
        "mean use of the capacity %",
        "meets the bars",
    ]);
    plot(scope, &jobs, &results)?;
    for ((name, _, seed, reported), Played { figures, .. }) in jobs.iter().zip(&results) {
        table.row([
            (*name).clone(),
            seed.to_string(),
            if *reported { "each second" } else { "no" }.to_owned(),
            figures.minutes_over.to_string(),
            percent(figures.small_503),
            percent(figures.small_429),
            percent(figures.big_503),
            percent(figures.big_429),
            percent(figures.used),
            if *reported { verdict(figures.meets_the_bars()) } else { String::new() },
        ]);
    }
    Ok(format!(
        "## A busy deployment\n\n{SMALL} accounts ask for {USUAL} of their floor, {BIG} for as much until 0:30 and for {LAUNCHED} floors from \
         then on, for six hours; the deployment can do 60 floors a minute, 36 from 3:00 to 4:00. Poisson arrivals, sizes drawn \
         from the trace, of the 95 % of its rows that take at most 5 % of a floor; floors in the proportion of their means, ceilings of \
         {CEILING} floors; progress every 30 s. Each second the deployment reports what it did in it, permille of what it can do. A \
         minute is over capacity where it did more in any window. The bars: at most {MOST_MINUTES} minutes, and 503 for at most \
         {} % of the small accounts' requests.\n\n{table}",
        percent(MOST_REFUSED),
    ))
}

type Job<'a> = (&'a String, &'a Sizes, u64, bool);

/// The first seed of each trace, without and with reports.
fn plot(scope: &Scope, jobs: &[Job<'_>], results: &[Played]) -> Result<(), StudyError> {
    let Some(folder) = &scope.plots else { return Ok(()) };
    for (index, (name, ..)) in jobs.iter().enumerate().filter(|(_, (_, _, seed, reported))| *seed == 1 && !reported) {
        let [unreported, reported] = [&results[index], &results[index + 1]];
        let [small, big] = &reported.refused;
        let title = format!("A busy deployment, sizes from {name}");
        let busy = Busy { title: &title, unreported: &unreported.used, reported: &reported.used, small, big };
        busy.write(folder, &format!("busy-{}.svg", name.replace(['_', ' '], "-")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{request, single_key};
    use crate::traces::{Kind, Trace};

    #[test]
    fn demand_is_what_the_scenario_says() {
        let rows = (0..100).map(|index| request(index, 100, 10)).collect();
        let trace = Trace { name: "test".to_owned(), kind: Kind::Chat, workload: single_key(rows) };
        let sizes = Sizes::fitted(&trace, LARGEST).expect("there are tokens");
        let workload = workload(&sizes, 1);
        let tokens = |keys: std::ops::Range<u32>, from: u64, to: u64| {
            let within =
                |request: &&Arrival| keys.contains(&request.key) && (from..to).contains(&(request.at_ms / 1_000));
            let sum: u64 = workload.requests.iter().filter(within).map(|request| request.generated_tokens).sum();
            sum as f64 * 60.0 / (to - from) as f64 / sizes.floors.generated as f64
        };
        for (floors, seen) in [
            (28.8, tokens(0..SMALL, 0, SECONDS)),
            (3.2, tokens(SMALL..SMALL + BIG, 0, LAUNCH_SECOND)),
            (40.0, tokens(SMALL..SMALL + BIG, LAUNCH_SECOND, SECONDS)),
        ] {
            assert!((seen / floors - 1.0).abs() < 0.05, "{seen} for {floors}");
        }
    }
}
