//! The study's sections, each a piece of Markdown.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use tidegate_core::forecast::ForecastDefaults;
use tidegate_sim::policy::{KeyRules, Policy};
use tidegate_sim::report::{Limits, PolicyReport, Study};
use tidegate_sim::run::{Keep, Setup};
use tidegate_sim::workload::Workload;

use crate::StudyError;
use crate::traces::{Subject, Trace};

mod adaptive;
mod busy;
mod cost;
mod frontier;
mod gaming;
mod silent;
mod split;
mod step;
mod table;

/// A section, in the order of the study.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// The headline: every trace, every policy, against the bars.
    Table,
    /// Goodput against overshoot, the margin swept.
    Frontier,
    /// Without progress reports; with the cached count known at settlement alone.
    Silent,
    /// A step in a key's lengths.
    Step,
    /// A client that settles small and then sends giants, and what the guard costs.
    Gaming,
    /// Under the adaptive law: a ramp and a launch.
    Adaptive,
    /// A busy deployment: squeeze and shedding.
    Busy,
    /// Halves of the traces, and perturbed ones.
    Split,
    /// Nanoseconds of a decision.
    Cost,
}

/// What a study is made of.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The traces.
    pub traces: Vec<Trace>,
    /// Seeds of each run; `None`: what the section takes by itself.
    pub seeds: Option<u64>,
    /// Threads to run on.
    pub threads: NonZeroUsize,
    /// Where plots go; `None`: nowhere.
    pub plots: Option<PathBuf>,
}

impl Scope {
    /// The seeds of a section that takes `usual` by itself: 1 and up.
    fn seeds(&self, usual: u64) -> std::ops::RangeInclusive<u64> {
        1..=self.seeds.unwrap_or(usual)
    }
}

/// Demand of the tables: times the trace.
const DEMANDS: [u64; 2] = [1, 4];

/// Seeds where nobody says otherwise.
const SEEDS: u64 = 3;

/// How often gateways report, where nothing else is said.
const PROGRESS: Duration = Duration::from_secs(1);

impl Section {
    /// Runs it.
    ///
    /// # Errors
    /// A plot that cannot be written.
    pub fn markdown(self, scope: &Scope) -> Result<String, StudyError> {
        match self {
            Self::Table => Ok(table::markdown(scope)),
            Self::Frontier => frontier::markdown(scope),
            Self::Silent => Ok(silent::markdown(scope)),
            Self::Step => Ok(step::markdown(scope)),
            Self::Gaming => Ok(gaming::markdown(scope)),
            Self::Adaptive => Ok(adaptive::markdown(scope)),
            Self::Busy => busy::markdown(scope),
            Self::Split => Ok(split::markdown(scope)),
            Self::Cost => Ok(cost::markdown()),
        }
    }
}

/// How gateways behave in a run, and how the forecast is set.
#[derive(Clone, Copy, Debug)]
struct Conduct {
    progress_every: Option<Duration>,
    cache_known: bool,
    forecast: ForecastDefaults,
}

impl Conduct {
    /// Progress each second, cached counts stated, the forecast as it comes.
    fn usual() -> Self {
        Self { progress_every: Some(PROGRESS), cache_known: true, forecast: ForecastDefaults::default() }
    }

    /// The simulator's report on one workload under static limits.
    fn report(&self, workload: &Workload, rules: &[KeyRules], policies: &[Policy]) -> Vec<PolicyReport> {
        let study = Study {
            limits: Limits::Static,
            rules,
            policies,
            forecast: &self.forecast,
            progress_every: self.progress_every,
            cache_known: self.cache_known,
            record: false,
        };
        // One thread: the jobs around this one fill the machine.
        study.report("", 1_000, workload, NonZeroUsize::MIN, &|_| {}).policies
    }

    /// A single run.
    fn setup<'a>(&'a self, rules: &'a [KeyRules], keep: Keep) -> Setup<'a> {
        Setup {
            rules,
            forecast: &self.forecast,
            progress_every: self.progress_every,
            cache_known: self.cache_known,
            capacity: None,
            keep,
            threads: std::num::NonZeroUsize::MIN,
        }
    }
}

/// One subject at one demand with one seed.
#[derive(Clone, Copy, Debug)]
struct Run<'a> {
    subject: Subject<'a>,
    demand: u64,
    seed: u64,
}

/// Every subject at every demand with every seed. At x1 nothing is copied and so nothing is drawn: one seed stands for all.
fn runs<'a>(subjects: &[Subject<'a>], seeds: &std::ops::RangeInclusive<u64>) -> Vec<Run<'a>> {
    let mut runs = Vec::new();
    for &subject in subjects {
        for demand in DEMANDS {
            let seeds = if demand == 1 { 1..=1 } else { seeds.clone() };
            runs.extend(seeds.map(|seed| Run { subject, demand, seed }));
        }
    }
    runs
}

impl Run<'_> {
    /// Whether two runs belong to the same row.
    fn same_row(&self, other: &Self) -> bool {
        self.demand == other.demand && self.subject.name() == other.subject.name()
    }

    fn report(&self, conduct: &Conduct, policies: &[Policy]) -> Vec<PolicyReport> {
        conduct.report(&self.subject.workload(self.demand, self.seed), &self.subject.rules(), policies)
    }
}

/// Runs and their results, row by row.
fn rows<'r, 'a, R>(runs: &'r [Run<'a>], results: &'r [R]) -> Vec<(&'r Run<'a>, &'r [R])> {
    let mut rows = Vec::new();
    let mut start = 0;
    for chunk in runs.chunk_by(Run::same_row) {
        rows.push((&chunk[0], &results[start..start + chunk.len()]));
        start += chunk.len();
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{request, single_key};
    use crate::traces::{Kind, subjects};

    #[test]
    fn results_are_gathered_under_the_row_that_they_belong_to() {
        let workload = single_key(vec![request(0, 1, 1)]);
        let traces = [
            Trace { name: "agentic".to_owned(), kind: Kind::Agentic, workload: workload.clone() },
            Trace { name: "chat".to_owned(), kind: Kind::Chat, workload },
        ];
        let subjects = subjects(&traces);
        let runs = runs(&subjects, &(1..=3));
        let results: Vec<String> =
            runs.iter().map(|run| format!("{} x{} #{}", run.subject.name(), run.demand, run.seed)).collect();
        let rows = rows(&runs, &results);
        assert_eq!(rows.len(), 6);
        for (run, results) in rows {
            assert_eq!(results.len(), if run.demand == 1 { 1 } else { 3 });
            let row = format!("{} x{} #", run.subject.name(), run.demand);
            assert!(results.iter().all(|result| result.starts_with(&row)), "{row}: {results:?}");
        }
    }
}
