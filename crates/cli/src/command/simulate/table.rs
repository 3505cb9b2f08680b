//! A report for people.

use std::path::Path;

use tidegate_sim::report::{Limits, PolicyReport, Report};
use tidegate_sim::workload::Workload;

use crate::output::{Rows, grouped, printable};

/// A heading, a row for each policy, and for limits that move where they went.
pub(super) fn of(path: &Path, workload: &Workload, report: &Report) -> String {
    let limits = match report.limits {
        Limits::Static => "static",
        Limits::Adaptive => "adaptive",
    };
    let heading = format!(
        "{}: {} requests, {} {}, {:.1} minutes; {limits} limits, scale {}",
        printable(&path.display().to_string()),
        grouped(workload.requests.len() as u64),
        grouped(workload.keys.len() as u64),
        if workload.keys.len() == 1 { "key" } else { "keys" },
        workload.spans().iter().map(|span| span.end_ms).max().unwrap_or(0) as f64 / 60_000.0,
        report.scale,
    );
    let policies = policies(report);
    match report.limits {
        Limits::Static => format!("{heading}\n\n{policies}"),
        Limits::Adaptive => format!("{heading}\n\n{policies}\n{}", courses(report)),
    }
}

fn policies(report: &Report) -> Rows {
    let columns = match report.limits {
        Limits::Static => {
            &["POLICY", "#ADMITTED", "#DENIED", "#GOODPUT", "#OVERSHOOT P99", "#MAX", "#FIRST", "#FALSE DENIALS"][..]
        }
        // Goodput and overshoot are measured against limits that stay.
        Limits::Adaptive => &["POLICY", "#ADMITTED", "#DENIED"],
    };
    let mut rows = Rows::new(columns);
    for policy in &report.policies {
        let denied = policy.denied as f64 / policy.requests.max(1) as f64;
        let cells = [
            policy.policy.to_owned(),
            grouped(policy.admitted),
            percent(Some(denied)),
            percent(policy.goodput),
            percent(policy.overshoot_p99),
            percent(policy.overshoot_max),
            percent(policy.overshoot_first),
            percent(policy.false_denials),
        ];
        rows.push(cells.into_iter().take(columns.len()));
    }
    rows
}

/// The limits of the key that asked for most, window by window.
fn courses(report: &Report) -> Rows {
    let mut rows =
        Rows::new(&["LIMIT OF THE BUSIEST KEY, TPM", "#FIRST", "#LAST", "#PEAK", "#TOKENS ADMITTED, ALL KEYS"]);
    for window in report.policies.iter().flat_map(|PolicyReport { windows, .. }| windows) {
        let numbers = [window.limit_first, window.limit_last, window.limit_peak, window.tokens_admitted];
        rows.push([window.window.to_owned()].into_iter().chain(numbers.map(grouped)));
    }
    rows
}

/// Two decimals: a tenth of a percent is the difference between policies.
fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.2} %", share * 100.0))
}
