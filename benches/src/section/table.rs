//! The headline: every trace at every demand, `forecast` against the bars and all policies against each other.

use std::fmt::Write as _;

use tidegate_core::policy::BUILT_IN_FLOORS;
use tidegate_sim::policy::Policy;

use super::{Conduct, SEEDS, Scope, rows, runs};
use crate::markdown::{Table, count, percent, percents};
use crate::measure::{Bars, Figures, Spread};
use crate::threads::in_order;
use crate::traces::{Kind, subjects};

/// By how much another policy must be better on goodput, and not worse on overshoot p99, to count as better: half a point.
const MARGIN: f64 = 0.005;

pub(super) fn markdown(scope: &Scope) -> String {
    let subjects = subjects(&scope.traces);
    let seeds = scope.seeds(SEEDS);
    let runs = runs(&subjects, &seeds);
    let conduct = Conduct::usual();
    let figures: Vec<Vec<Figures>> = in_order("table", &runs, scope.threads, |run| {
        run.report(&conduct, &Policy::ALL).iter().map(Figures::of).collect()
    });

    let mut headline = Table::new(&[
        "trace",
        "demand",
        "goodput %",
        "overshoot p99 %",
        "overshoot max %",
        "first 180 s %",
        "false denials %",
        "meets the bars",
    ]);
    let mut all = Table::new(&[
        "trace",
        "demand",
        "policy",
        "goodput %",
        "overshoot p99 %",
        "overshoot max %",
        "first 180 s %",
        "false denials %",
    ]);
    let mut better = Vec::new();
    for (run, results) in rows(&runs, &figures) {
        let (name, demand) = (run.subject.name(), format!("x{}", run.demand));
        let spread = |policy: Policy| {
            let of_policy =
                |figures: &Vec<Figures>| Policy::ALL.iter().position(|other| *other == policy).map(|at| figures[at]);
            Spread::over(&results.iter().filter_map(of_policy).collect::<Vec<_>>())
        };
        let forecast = spread(Policy::Forecast);
        let (min, max) = (forecast.min, forecast.max);
        headline.row([
            name.clone(),
            demand.clone(),
            percents(min.goodput, max.goodput),
            percents(min.p99, max.p99),
            percents(min.max, max.max),
            percents(min.first, max.first),
            percents(min.false_denials, max.false_denials),
            Bars::of(run.subject.trace.kind).verdict(&forecast.worst()),
        ]);
        for policy in Policy::ALL {
            let mean = spread(policy).mean;
            all.row([
                name.clone(),
                demand.clone(),
                policy.name().to_owned(),
                percent(mean.goodput),
                percent(mean.p99),
                percent(mean.max),
                percent(mean.first),
                percent(mean.false_denials),
            ]);
            if policy != Policy::Oracle && policy != Policy::Forecast && is_better(&mean, &forecast.mean) {
                better.push(format!(
                    "{policy} on {name} {demand}: goodput {} against {} %, overshoot p99 {} against {} %",
                    percent(mean.goodput),
                    percent(forecast.mean.goodput),
                    percent(mean.p99),
                    percent(forecast.mean.p99)
                ));
            }
        }
    }
    let floors = BUILT_IN_FLOORS;
    let mut text = format!(
        "## Forecast against the bars\n\nStatic limits of {} prompt, {} uncached and {} generated tokens a minute, progress each \
         second. \"Generated alone\": the prompt limits are 2^40. At x4 the smallest and the largest of {} seeds; at x1 nothing \
         is drawn. A row meets the bars if its worst seed does.\n\n- chat: {}\n- agentic: {}\n\n{headline}\n",
        count(floors.prompt),
        count(floors.uncached_prompt),
        count(floors.generated),
        seeds.end(),
        Bars::of(Kind::Chat).text(),
        Bars::of(Kind::Agentic).text(),
    );
    text.push_str("### All policies, means over the seeds\n\n");
    let _ = writeln!(text, "{all}");
    text.push_str(
        "No other non-oracle policy is better on goodput by more than 0.5 points without being worse on overshoot p99 by more \
         than 0.5 points: ",
    );
    if better.is_empty() {
        text.push_str("holds in every row.\n");
    } else {
        let _ = writeln!(text, "**violated** in {} cases.\n", better.len());
        for case in better {
            let _ = writeln!(text, "- {case}");
        }
    }
    text
}

/// Whether `other` is better on goodput without being worse on overshoot p99.
fn is_better(other: &Figures, forecast: &Figures) -> bool {
    other.goodput > forecast.goodput + MARGIN && other.p99 <= forecast.p99 + MARGIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_dominates_only_with_more_goodput_and_no_more_overshoot() {
        let forecast = Figures { goodput: 0.98, p99: 0.01, max: 0.0, first: 0.0, false_denials: 0.0 };
        let other = |goodput, p99| Figures { goodput, p99, ..forecast };
        assert!(is_better(&other(0.986, 0.01), &forecast));
        assert!(is_better(&other(0.986, 0.0149), &forecast));
        assert!(!is_better(&other(0.9849, 0.0), &forecast), "not better by more than half a point");
        assert!(!is_better(&other(1.2, 0.0151), &forecast), "worse on overshoot");
    }
}
