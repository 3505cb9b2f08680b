//! What is left of the forecast when gateways say less: no progress reports, or cached counts at settlement alone.

use tidegate_core::window::Window;
use tidegate_sim::policy::Policy;

use super::{Conduct, SEEDS, Scope, rows, runs};
use crate::markdown::{Table, percents};
use crate::measure::{Bars, Figures, Spread};
use crate::threads::in_order;
use crate::traces::subjects;

/// One run: its figures without the uncached window, and that window's overshoot p99 and max.
#[derive(Clone, Copy)]
struct Apart {
    figures: Figures,
    uncached: (f64, f64),
}

pub(super) fn markdown(scope: &Scope) -> String {
    let usual = Conduct::usual();
    let variants = [
        ("Without progress reports", Conduct { progress_every: None, ..usual }),
        ("Cached count known at settlement alone, progress each second", Conduct { cache_known: false, ..usual }),
        ("Neither", Conduct { progress_every: None, cache_known: false, ..usual }),
    ];
    let subjects = subjects(&scope.traces);
    let runs = runs(&subjects, &scope.seeds(SEEDS));
    let jobs: Vec<_> = variants.iter().flat_map(|(_, conduct)| runs.iter().map(move |run| (conduct, run))).collect();
    let results = in_order("silent", &jobs, scope.threads, |(conduct, run)| {
        let reports = run.report(conduct, &[Policy::Forecast]);
        let of = |window: Window| {
            let report = reports[0].windows.iter().find(|report| report.window == window.name());
            let nothing = f64::NAN;
            report.map_or((nothing, nothing), |report| {
                (report.overshoot_p99.unwrap_or(nothing), report.overshoot_max.unwrap_or(nothing))
            })
        };
        let (prompt, generated) = (of(Window::Prompt), of(Window::Generated));
        let figures =
            Figures { p99: prompt.0.max(generated.0), max: prompt.1.max(generated.1), ..Figures::of(&reports[0]) };
        Apart { figures, uncached: of(Window::UncachedPrompt) }
    });

    let mut text = String::from(
        "## Gateways that say less\n\n`forecast` alone, otherwise as above. Overshoot of the uncached window stands apart; the \
         other two columns are of prompt and generated tokens, the first 180 s of all three. The bars are those of the \
         headline, the uncached window left out.\n\n",
    );
    for ((title, _), results) in variants.iter().zip(results.chunks(runs.len())) {
        let mut table = Table::new(&[
            "trace",
            "demand",
            "goodput %",
            "overshoot p99 %",
            "overshoot max %",
            "uncached p99 %",
            "uncached max %",
            "first 180 s %",
            "false denials %",
            "meets the bars",
        ]);
        for (run, results) in rows(&runs, results) {
            let spread = Spread::over(&results.iter().map(|apart| apart.figures).collect::<Vec<_>>());
            let uncached =
                results.iter().map(|apart| Figures { p99: apart.uncached.0, max: apart.uncached.1, ..apart.figures });
            let uncached = Spread::over(&uncached.collect::<Vec<_>>());
            let (min, max) = (spread.min, spread.max);
            table.row([
                run.subject.name(),
                format!("x{}", run.demand),
                percents(min.goodput, max.goodput),
                percents(min.p99, max.p99),
                percents(min.max, max.max),
                percents(uncached.min.p99, uncached.max.p99),
                percents(uncached.min.max, uncached.max.max),
                percents(min.first, max.first),
                percents(min.false_denials, max.false_denials),
                Bars::of(run.subject.trace.kind).verdict(&spread.worst()),
            ]);
        }
        text.push_str(&format!("### {title}\n\n{table}\n"));
    }
    text
}
