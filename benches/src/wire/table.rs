//! The tables of a block.

use std::fmt::Write as _;

use super::Failure;
use super::rows::Row;
use super::side::Subject;
use super::study::Seen;
use super::turn::Turn;
use crate::markdown::{Table, count, verdict};

/// A median with the least and the most.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(figures: &[f64]) -> Self {
        let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let most = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self { median: median(figures.to_vec()), least, most }
    }

    fn text(&self) -> String {
        format!("{:.2} ({:.2} to {:.2})", self.median, self.least, self.most)
    }
}

/// The middle one, or the mean of the two in the middle; NaN of nothing.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
    let half = figures.len() / 2;
    if figures.len().is_multiple_of(2) {
        f64::midpoint(middle(half.wrapping_sub(1)), middle(half))
    } else {
        middle(half)
    }
}

/// Comparisons, then what each side did.
pub(super) fn draw(seen: &Seen<'_>) -> Result<String, Failure> {
    let mut out = format!("\n### {}\n\n", seen.block.name);
    let mut table = Table::new(&[
        "row",
        "tidegate",
        "other",
        "ratio",
        "server us, tidegate",
        "other",
        "ratio by server us",
        "must (aim)",
        "met",
    ]);
    for row in &seen.block.rows {
        table.row(compared(row, seen));
    }
    write!(out, "{table}")?;
    writeln!(
        out,
        "\n`*`: that server used less than 90 % of its core, so the load set the pace, and the ratio of server time counts. \
         {} rounds dropped: somebody else used the machine.\n",
        seen.dropped
    )?;
    write!(out, "{}", sides(seen))?;
    Ok(out)
}

fn compared(row: &Row, seen: &Seen<'_>) -> [String; 9] {
    let (what, bar) = (row.what.clone(), row.bar.text());
    let other = row.theirs.subject.name();
    let pairs = match seen.pairs(row) {
        Ok(pairs) if !pairs.is_empty() => pairs,
        Ok(_) => return not_here(what, bar, "no quiet round"),
        Err(missing) => return not_here(what, bar, &format!("not here: {missing}")),
    };
    let figure = row.figure;
    let of = |pick: &dyn Fn(&(Turn, Turn)) -> f64| Spread::of(&pairs.iter().map(pick).collect::<Vec<_>>());
    let ratio = of(&|(ours, theirs)| figure.of(ours) / figure.of(theirs));
    let by_cost = of(&|(ours, theirs)| figure.cost(theirs) / figure.cost(ours));
    let idle = |side: fn(&(Turn, Turn)) -> Turn| {
        figure.is_throughput() && pairs.iter().filter(|pair| !side(pair).server_was_busy()).count() * 2 > pairs.len()
    };
    let (ours_idle, theirs_idle) = (idle(|pair| pair.0), idle(|pair| pair.1));
    let mark = |idle| if idle { "*" } else { "" };
    let counts = if ours_idle || theirs_idle { by_cost.median } else { ratio.median };
    let (ours, theirs) = (of(&|pair| figure.of(&pair.0)).median, of(&|pair| figure.of(&pair.1)).median);
    [
        what,
        format!("{} {}{}", whole(ours), figure.unit(), mark(ours_idle)),
        format!("{other} {}{}", whole(theirs), mark(theirs_idle)),
        ratio.text(),
        format!("{:.2}", of(&|pair| figure.cost(&pair.0)).median),
        format!("{:.2}", of(&|pair| figure.cost(&pair.1)).median),
        by_cost.text(),
        bar,
        row.bar.is_met(counts).map_or_else(String::new, verdict),
    ]
}

fn not_here(what: String, bar: String, why: &str) -> [String; 9] {
    let none = String::new;
    [what, format!("**{why}**"), none(), none(), none(), none(), none(), bar, "**not measured**".to_owned()]
}

fn sides(seen: &Seen<'_>) -> Table {
    let mut table = Table::new(&[
        "side",
        "load",
        "calls/s",
        "decisions/s",
        "bytes",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "server us a call",
        "server busy",
        "load busy",
    ]);
    for (side, turns) in seen.sides.iter().zip(&seen.turns) {
        let of = |pick: fn(&Turn) -> f64| median(turns.iter().map(pick).collect());
        if turns.is_empty() {
            continue;
        }
        table.row([
            match side.subject {
                Subject::Tidegate { threads, .. } if threads > 1 => format!("tidegate, {threads} threads"),
                subject => subject.name().to_owned(),
            },
            format!("`{}`{}", side.load.join(" "), if side.unix { ", Unix socket" } else { "" }),
            whole(of(|turn| turn.calls_per_s)),
            whole(of(|turn| turn.decisions_per_s)),
            whole(of(|turn| turn.bytes_per_decision)),
            format!("{:.0}", of(|turn| turn.p50_us)),
            format!("{:.0}", of(|turn| turn.p99_us)),
            format!("{:.0}", of(|turn| turn.p999_us)),
            format!("{:.2}", of(|turn| turn.server_us_per_call)),
            format!("{:.2}", of(|turn| turn.server_utilisation)),
            format!("{:.2}", of(|turn| turn.load_utilisation)),
        ]);
    }
    table
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates, rounded for people")]
fn whole(figure: f64) -> String {
    count(figure.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rows::chosen;

    /// The cells of a row whose sides had these turns.
    fn cells(what: &str, turns: [Vec<Turn>; 2], missing: Option<&'static str>) -> [String; 9] {
        let blocks = chosen(&[what.to_owned()]).expect("a row");
        let row = &blocks[0].rows[0];
        let sides = vec![row.ours.clone(), row.theirs.clone()];
        compared(row, &Seen { block: &blocks[0], sides, turns: turns.into(), missing: vec![None, missing], dropped: 0 })
    }

    #[test]
    fn the_median_of_the_rounds_meets_the_bar_or_not() {
        let ours = [90.0, 80.0, 100.0].map(|rate| Turn::at(rate, 4.0, 1.0)).to_vec();
        let theirs = vec![Turn::at(100.0, 3.0, 1.0); 3];
        let cells = cells("unary 4x32 hot keys FULL", [ours, theirs], None);
        assert_eq!(cells[1..4], ["90 calls/s", "T1 100", "0.90 (0.80 to 1.00)"]);
        assert_eq!(cells[4..], ["4.00", "3.00", "0.75 (0.75 to 0.75)", ">= 0.85 (1)", "yes"]);
    }

    #[test]
    fn the_median_of_an_even_number_favours_neither_side() {
        assert_eq!(median(vec![3.0, 1.0]), 2.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn where_the_load_set_the_pace_server_time_counts() {
        let turns = [vec![Turn::at(90.0, 4.0, 1.0)], vec![Turn::at(100.0, 3.0, 0.8)]];
        let cells = cells("unary 4x32 hot keys FULL", turns, None);
        assert_eq!((cells[2].as_str(), cells[8].as_str()), ("T1 100*", "**no**"));
    }

    #[test]
    fn latencies_are_to_be_short_and_servers_idle() {
        let turns = [vec![Turn::at(100.0, 4.0, 0.1)], vec![Turn::at(120.0, 4.0, 0.1)]];
        let cells = cells("p50 at 5000 calls/s TCP", turns, None);
        assert_eq!(cells[1..4], ["10,000 us", "T1 8,333", "1.20 (1.20 to 1.20)"]);
        assert_eq!(cells[7..], ["<= 1.15 (1.05)", "**no**"]);
    }

    #[test]
    fn a_peer_that_is_not_here_is_seen() {
        let turns = [vec![Turn::at(100.0, 4.0, 1.0)], Vec::new()];
        let cells = cells("unary 4x32 DECISION", turns, Some("throttlecrab-server"));
        assert_eq!(cells[1], "**not here: throttlecrab-server**");
        assert_eq!(cells[8], "**not measured**");
        let [_, quiet, ..] = self::cells("unary 4x32 hot keys FULL", [Vec::new(), Vec::new()], None);
        assert_eq!(quiet, "**no quiet round**");
    }
}
