//! The figures of a policy on a trace, over seeds, and the bars that they must meet.

use tidegate_core::window::Window;
use tidegate_sim::policy::KeyRules;
use tidegate_sim::report::PolicyReport;
use tidegate_sim::run::Outcome;

use crate::markdown::percent;
use crate::traces::Kind;

/// Shares, as the simulator's report defines them; NaN where it says nothing, which meets no bar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Of the oracle's.
    pub goodput: f64,
    /// Of the limit; first 180 s of each key left out.
    pub p99: f64,
    /// Of the limit; first 180 s of each key left out.
    pub max: f64,
    /// Of the limit, in each key's first 180 s.
    pub first: f64,
    /// Of the requests.
    pub false_denials: f64,
}

impl Figures {
    /// From a report under static limits.
    #[must_use]
    pub fn of(report: &PolicyReport) -> Self {
        Self {
            goodput: report.goodput.unwrap_or(f64::NAN),
            p99: report.overshoot_p99.unwrap_or(f64::NAN),
            max: report.overshoot_max.unwrap_or(f64::NAN),
            first: report.overshoot_first.unwrap_or(f64::NAN),
            false_denials: report.false_denials.unwrap_or(f64::NAN),
        }
    }

    fn zip(self, other: Self, merge: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            goodput: merge(self.goodput, other.goodput),
            p99: merge(self.p99, other.p99),
            max: merge(self.max, other.max),
            first: merge(self.first, other.first),
            false_denials: merge(self.false_denials, other.false_denials),
        }
    }
}

/// Figures over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Each figure's smallest.
    pub min: Figures,
    /// Each figure's mean.
    pub mean: Figures,
    /// Each figure's largest.
    pub max: Figures,
}

impl Spread {
    /// Over at least one run; NaN throughout without any. A NaN among the figures stays one.
    #[must_use]
    pub fn over(runs: &[Figures]) -> Self {
        // `f64::min` would drop a NaN, and a figure that is missing would meet its bar.
        let keep = |pick: fn(f64, f64) -> f64| {
            move |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { pick(a, b) }
        };
        let fold = |merge: &dyn Fn(f64, f64) -> f64| {
            let folded = runs.iter().copied().reduce(|left, right| left.zip(right, merge));
            let nothing = f64::NAN;
            folded.unwrap_or(Figures {
                goodput: nothing,
                p99: nothing,
                max: nothing,
                first: nothing,
                false_denials: nothing,
            })
        };
        let count = runs.len() as f64;
        let sum = fold(&|a, b| a + b);
        Self { min: fold(&keep(f64::min)), mean: sum.zip(sum, |a, _| a / count), max: fold(&keep(f64::max)) }
    }

    /// The worst that any seed showed: the smallest goodput, the largest of everything else.
    #[must_use]
    pub fn worst(&self) -> Figures {
        Figures { goodput: self.min.goodput, ..self.max }
    }
}

/// What must be shown of `forecast`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bars {
    at_least: f64,
    p99: f64,
    max: f64,
    first: f64,
    false_denials: f64,
}

impl Bars {
    /// The bars of a kind of trace.
    #[must_use]
    pub const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Chat => Self { at_least: 0.98, p99: 0.01, max: 0.05, first: 0.25, false_denials: 0.002 },
            Kind::Agentic => Self { at_least: 0.98, p99: 0.01, max: 0.15, first: 0.25, false_denials: 0.005 },
        }
    }

    /// The bars in words.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "goodput >= {} %, overshoot p99 <= {} %, max <= {} %, first 180 s <= {} %, false denials <= {} %",
            percent(self.at_least),
            percent(self.p99),
            percent(self.max),
            percent(self.first),
            percent(self.false_denials)
        )
    }

    /// The names of the bars that `figures` miss; empty if all are met.
    #[must_use]
    pub fn missed(&self, figures: &Figures) -> Vec<&'static str> {
        let met = [
            ("goodput", figures.goodput >= self.at_least),
            ("p99", figures.p99 <= self.p99),
            ("max", figures.max <= self.max),
            ("first 180 s", figures.first <= self.first),
            ("false denials", figures.false_denials <= self.false_denials),
        ];
        met.into_iter().filter(|(_, met)| !met).map(|(name, _)| name).collect()
    }

    /// `yes`, or what is missed.
    #[must_use]
    pub fn verdict(&self, figures: &Figures) -> String {
        let missed = self.missed(figures);
        if missed.is_empty() { "yes".to_owned() } else { format!("**no**: {}", missed.join(", ")) }
    }
}

/// What the oracle did with a workload, to measure other runs against: the same arithmetic as the simulator's report, for
/// sweeps, which would otherwise play the oracle once for each of their points.
#[derive(Clone, Copy, Debug)]
pub struct Baseline {
    window: Window,
    filled: u128,
}

impl Baseline {
    /// From the oracle's outcome under `rules`: the window that it fills most, over time and all keys.
    #[must_use]
    pub fn of(oracle: &Outcome, rules: &[KeyRules]) -> Self {
        let fill = |window: Window| {
            let keys = oracle.keys.iter().zip(rules);
            let room: u128 = keys
                .map(|(key, rules)| u128::from(rules.floors()[window]) * u128::from(key.truth[window].seconds))
                .sum();
            share(filled(oracle, window), room)
        };
        let fullest = Window::ALL.into_iter().max_by(|left, right| fill(*left).total_cmp(&fill(*right)));
        let window = fullest.unwrap_or(Window::Generated);
        Self { window, filled: filled(oracle, window) }
    }

    /// Share of the oracle's tokens in that window.
    #[must_use]
    pub fn goodput(&self, outcome: &Outcome) -> f64 {
        share(filled(outcome, self.window), self.filled)
    }
}

/// Overshoot p99 and max of the worst key and window, first 180 s of each key left out; shares of the limit.
#[must_use]
pub fn overshoot(outcome: &Outcome) -> (f64, f64) {
    let windows = || outcome.keys.iter().flat_map(|key| Window::ALL.map(|window| &key.truth[window]));
    let p99 = windows().map(|truth| truth.p99()).fold(0.0, f64::max);
    (p99, windows().map(|truth| truth.max()).fold(0.0, f64::max))
}

fn filled(outcome: &Outcome, window: Window) -> u128 {
    outcome.keys.iter().map(|key| key.truth[window].filled).sum()
}

/// `part / whole`; 1 where both are nothing.
fn share(part: u128, whole: u128) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use tidegate_core::forecast::ForecastDefaults;
    use tidegate_core::window::Tokens;
    use tidegate_sim::policy::Policy;
    use tidegate_sim::report::{Limits, Study};
    use tidegate_sim::run::{Keep, Setup, run};

    use super::*;
    use crate::made_up::{Lengths, single_key, steady};

    const GOOD: Figures = Figures { goodput: 0.99, p99: 0.005, max: 0.05, first: 0.25, false_denials: 0.001 };

    #[test]
    fn a_bar_is_met_at_its_edge_and_missed_beyond_it() {
        let bars = Bars::of(Kind::Chat);
        assert_eq!(bars.verdict(&GOOD), "yes");
        assert_eq!(bars.missed(&Figures { goodput: 0.979, ..GOOD }), ["goodput"]);
        assert_eq!(bars.missed(&Figures { p99: 0.011, max: 0.051, ..GOOD }), ["p99", "max"]);
        assert_eq!(
            bars.missed(&Figures { first: 0.26, false_denials: 0.003, ..GOOD }),
            ["first 180 s", "false denials"]
        );
        assert_eq!(bars.missed(&Figures { max: f64::NAN, ..GOOD }), ["max"], "what is not known is not met");
        let agentic = Bars::of(Kind::Agentic);
        assert_eq!(agentic.verdict(&Figures { max: 0.15, false_denials: 0.005, ..GOOD }), "yes");
    }

    #[test]
    fn the_worst_of_seeds_is_the_least_goodput_and_the_most_of_all_else() {
        let bad = Figures { goodput: 0.9, p99: 0.001, max: 0.2, ..GOOD };
        let spread = Spread::over(&[GOOD, bad]);
        assert_eq!(spread.worst(), Figures { goodput: 0.9, max: 0.2, ..GOOD });
        assert!((spread.mean.goodput - 0.945).abs() < 1e-12 && (spread.mean.max - 0.125).abs() < 1e-12);
        let unknown = Spread::over(&[Figures { max: f64::NAN, ..GOOD }, GOOD]);
        assert!(unknown.worst().max.is_nan());
        assert!(Spread::over(&[]).worst().goodput.is_nan());
    }

    /// The sweep's arithmetic must be the report's, or the frontier would not go through the headline's point.
    #[test]
    fn sweeps_measure_what_the_simulators_report_measures() {
        let lengths = Lengths::Even { mean: 200 };
        let workload = single_key(steady(7, 200.0, 600, 500, &[(0, lengths)]));
        let rules = [KeyRules::fixed(&Tokens::new(1 << 30, 1 << 30, 12_000))];
        let forecast = ForecastDefaults { margin_sigmas_permille: 0, ..ForecastDefaults::default() };
        let every = Some(Duration::from_secs(1));
        let study = Study {
            limits: Limits::Static,
            rules: &rules,
            policies: &[Policy::Forecast],
            forecast: &forecast,
            progress_every: every,
            cache_known: true,
            record: false,
        };
        let report = study.report("test", 1_000, &workload, NonZeroUsize::MIN, &|_| {});
        let expected = Figures::of(&report.policies[0]);
        let setup = Setup {
            rules: &rules,
            forecast: &forecast,
            progress_every: every,
            cache_known: true,
            capacity: None,
            keep: Keep::Truth,
            threads: NonZeroUsize::MIN,
        };
        let baseline = Baseline::of(&run(&workload, Policy::Oracle, &setup, &|_| {}), &rules);
        let outcome = run(&workload, Policy::Forecast, &setup, &|_| {});
        assert_eq!((expected.p99, expected.max), overshoot(&outcome));
        assert!(expected.max > 0.0, "without a margin it overshoots, else this compares zeros");
        assert!((expected.goodput - baseline.goodput(&outcome)).abs() < 1e-12);
        assert!(expected.goodput > 0.5 && expected.goodput < 1.1);
    }
}
