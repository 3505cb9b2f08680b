//! The frontier: goodput against overshoot as the safety margin is swept, and where the default sits on it.

use std::path::Path;

use tidegate_core::forecast::ForecastDefaults;
use tidegate_sim::policy::Policy;
use tidegate_sim::run::{Keep, run};

use super::{Conduct, Run, Scope, runs};
use crate::StudyError;
use crate::markdown::{Table, percent};
use crate::measure::{Baseline, overshoot};
use crate::plot::{Frontier, Point};
use crate::threads::in_order;
use crate::traces::subjects;

/// Standard deviations, permille; the default is added where it is none of them.
const SWEPT_PERMILLE: [u32; 11] = [0, 500, 1_000, 1_500, 2_000, 2_500, 3_000, 3_500, 4_000, 5_000, 6_000];

pub(super) fn markdown(scope: &Scope) -> Result<String, StudyError> {
    let subjects = subjects(&scope.traces);
    let default = ForecastDefaults::default().margin_sigmas_permille;
    let mut swept = SWEPT_PERMILLE.to_vec();
    swept.push(default);
    swept.sort_unstable();
    swept.dedup();
    // One seed: a frontier is a shape, the headline has the seeds.
    let runs = runs(&subjects, &(1..=1));
    let baselines = in_order("frontier, oracle", &runs, scope.threads, |row| {
        let rules = row.subject.rules();
        let oracle = run(
            &row.subject.workload(row.demand, row.seed),
            Policy::Oracle,
            &Conduct::usual().setup(&rules, Keep::Truth),
            &|_| {},
        );
        Baseline::of(&oracle, &rules)
    });
    let jobs: Vec<_> = runs
        .iter()
        .zip(&baselines)
        .flat_map(|(row, baseline)| swept.iter().map(move |z| (row, baseline, *z)))
        .collect();
    let points = in_order("frontier", &jobs, scope.threads, |(row, baseline, margin)| {
        let forecast = ForecastDefaults { margin_sigmas_permille: *margin, ..ForecastDefaults::default() };
        let conduct = Conduct { forecast, ..Conduct::usual() };
        let rules = row.subject.rules();
        let workload = row.subject.workload(row.demand, row.seed);
        let outcome = run(&workload, Policy::Forecast, &conduct.setup(&rules, Keep::Truth), &|_| {});
        let (p99, max) = overshoot(&outcome);
        Point { margin_permille: *margin, goodput: baseline.goodput(&outcome), p99, max }
    });

    let mut text = String::from(
        "## The frontier\n\nz, the standard deviations of the safety margin, swept; the default in bold. `forecast`, progress \
         each second, one seed.\n\n",
    );
    let mut rows = runs.iter().zip(points.chunks(swept.len())).peekable();
    while let Some((row, points)) = rows.next() {
        let mut curves = vec![(row.demand, points)];
        while let Some((other, points)) = rows.next_if(|(other, _)| other.subject.name() == row.subject.name()) {
            curves.push((other.demand, points));
        }
        text.push_str(&section(row, &curves, default));
        if let Some(folder) = &scope.plots {
            draw(folder, row, &curves, default)?;
        }
    }
    Ok(text)
}

fn section(row: &Run<'_>, curves: &[(u64, &[Point])], default: u32) -> String {
    let mut table = Table::new(&["demand", "z", "goodput %", "overshoot p99 %", "overshoot max %"]);
    for (demand, points) in curves {
        for point in *points {
            let z = f64::from(point.margin_permille) / 1_000.0;
            let z = if point.margin_permille == default { format!("**{z}**") } else { z.to_string() };
            table.row([format!("x{demand}"), z, percent(point.goodput), percent(point.p99), percent(point.max)]);
        }
    }
    format!("### {}\n\n{table}\n", row.subject.name())
}

fn draw(folder: &Path, row: &Run<'_>, curves: &[(u64, &[Point])], default: u32) -> Result<(), StudyError> {
    let name = row.subject.name();
    let file: String = name.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' }).collect();
    Frontier { title: &name, curves, default_permille: default }.write(folder, &format!("frontier-{file}.svg"))
}
