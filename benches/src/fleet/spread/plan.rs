//! The arithmetic to ten million keys: calls by how often a key is asked for, as `calls` measured them, added up.

use std::fmt::Write as _;

use crate::fleet::Failure;

/// Decisions a second of a key at a sidecar, and calls a second for it: `calls`, limits not reached.
const MEASURED: &[(f64, f64)] =
    &[(0.05, 0.22), (0.2, 0.46), (1.0, 0.91), (5.0, 1.77), (10.0, 2.0), (100.0, 2.5), (1_000.0, 2.67), (5_000.0, 3.0)];
/// Processor time of a report in a server, seconds, where something leaves in three seconds of each window (`spread servers`), and
/// for each second more (`script`).
const REPORT: f64 = 37e-6;
const SECOND: f64 = 1.28e-6;
const KEYS: f64 = 1e7;
/// Keys of neighbouring ranks are taken together: so many parts of a rank.
const FINE: f64 = 200.0;

/// Calls a second for a key that is asked for so often: between what was measured, along the logarithm; beyond it, in
/// proportion below and no more above.
fn calls(rate: f64) -> f64 {
    let (least, calls_of_least) = MEASURED[0];
    if rate <= least {
        return calls_of_least * rate / least;
    }
    for pair in MEASURED.windows(2) {
        let ((below, few), (above, many)) = (pair[0], pair[1]);
        if rate <= above {
            return few + (many - few) * (rate / below).ln() / (above / below).ln();
        }
    }
    MEASURED[MEASURED.len() - 1].1
}

/// Processor time of a report on such a key: in how many of the last 60 seconds something happened, at random instants.
fn cost(rate: f64) -> f64 {
    let seconds = 60.0 * -(-rate).exp_m1();
    REPORT + SECOND * (seconds - 3.0).max(0.0)
}

/// Adds up.
pub(super) fn plan() -> Result<String, Failure> {
    let mut out = String::from(
        "ten million keys\n\n| keys are asked for | sidecars of each key | decisions/s | calls/s | calls a decision | cores of servers, full |\n\
         |---|---|---|---|---|---|\n",
    );
    let harmonic = KEYS.ln() + 0.577_215_7;
    for (name, is_even) in [("by Zipf's law", false), ("evenly", true)] {
        for sidecars in [1.0, 4.0, 1_000.0] {
            for decisions in [1e4, 1e5, 2e5, 3e5, 5e5, 7e5, 1e6] {
                let (mut sum, mut cores, mut rank) = (0.0, 0.0, 1.0);
                while rank <= KEYS {
                    let width = (rank / FINE).floor().max(1.0).min(KEYS - rank + 1.0);
                    let share = if is_even { 1.0 / KEYS } else { 1.0 / ((rank + (width - 1.0) / 2.0) * harmonic) };
                    let rate = decisions * share / sidecars;
                    let calls = width * sidecars * calls(rate);
                    sum += calls;
                    cores += calls * cost(rate);
                    rank += width;
                }
                writeln!(
                    out,
                    "| {name} | {sidecars:.0} | {decisions:.0} | {sum:.0} | {:.2} | {cores:.1} |",
                    sum / decisions
                )?;
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_on_the_line_and_nothing_is_beyond_it() {
        for (rate, measured) in MEASURED {
            assert!((calls(*rate) - measured).abs() < 1e-9, "{rate}");
        }
        assert!((calls(0.01) - 0.044).abs() < 1e-9);
        assert!((calls(1e6) - 3.0).abs() < 1e-9);
        assert!((cost(0.001) - REPORT).abs() < 1e-12, "hardly ever more than one second");
        assert!((cost(100.0) - REPORT - 57.0 * SECOND).abs() < 1e-12, "all of them");
    }
}
