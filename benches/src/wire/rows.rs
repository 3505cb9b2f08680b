//! What is compared with what, and what must come out.

use super::side::{Side, Subject};
use super::turn::Turn;

/// Keys that are all hot.
const HOT: &str = "--keys 64";
/// More keys than caches hold.
const MANY: &str = "--keys 1000000";
/// Touches nearly all of [`MANY`] before a turn.
const TOUCH: &str = "--keys 1000000 --warm-up 1ms --duration 12s --view decision --connections 4 --streams 32";

/// What a row compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    /// Calls a second; settlements are calls.
    Calls,
}

impl Figure {
    /// The figure of a turn.
    pub(super) const fn of(self, turn: &Turn) -> f64 {
        match self {
            Self::Calls => turn.calls_per_s,
        }
    }

    /// Microseconds of the server's processor time for one.
    pub(super) const fn cost(self, turn: &Turn) -> f64 {
        match self {
            Self::Calls => turn.server_us_per_call,
        }
    }

    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::Calls => "calls/s",
        }
    }
}

/// What the ratio must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bar {
    /// At least this; the second is the aim.
    AtLeast(f64, f64),
    /// Nothing: it is only reported.
    None,
}

impl Bar {
    /// Whether it is met; `None` where there is none.
    pub(super) fn is_met(self, ratio: f64) -> Option<bool> {
        match self {
            Self::AtLeast(bar, _) => Some(ratio >= bar),
            Self::None => None,
        }
    }
}

/// One comparison.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) what: String,
    pub(super) ours: Side,
    pub(super) theirs: Side,
    pub(super) figure: Figure,
    pub(super) bar: Bar,
}

/// Comparisons whose sides take turns in one run.
#[derive(Clone, Debug)]
pub struct Block {
    /// What `--only` calls it.
    pub name: &'static str,
    pub(super) rows: Vec<Row>,
}

/// All of them.
#[must_use]
pub fn blocks() -> Vec<Block> {
    vec![
        unary("unary-4x32", "4x32", "--connections 4 --streams 32", [0.85, 1.0], Some([0.75, 0.9])),
        unary("unary-64x1", "64x1", "--connections 64 --streams 1", [0.92, 1.0], None),
    ]
}

/// CheckAndReserve, each call on its own, against T1.
fn unary(name: &'static str, shape: &str, load: &str, hot: [f64; 2], many: Option<[f64; 2]>) -> Block {
    let mut rows = Vec::new();
    let mut row = |subject, keys: &str, flags: &str, bar: Option<[f64; 2]>| {
        let ours = Side::new(subject, load).with(keys).with(flags);
        let touched = subject == Subject::MANY_KEYS;
        rows.push(Row {
            what: format!("unary {shape}, {}{flags}", if touched { "1M keys, " } else { "" }),
            ours: if touched { ours.after(TOUCH) } else { ours },
            theirs: Side::new(Subject::Empty, load).with(HOT).with(flags),
            figure: Figure::Calls,
            bar: bar.map_or(Bar::None, |[bar, aim]| Bar::AtLeast(bar, aim)),
        });
    };
    row(Subject::TIDEGATE, HOT, "--view full", Some(hot));
    row(Subject::TIDEGATE, HOT, "--view full --settle", Some(hot));
    row(Subject::TIDEGATE, HOT, "--view windows", None);
    row(Subject::TIDEGATE, HOT, "--view decision", None);
    row(Subject::TIDEGATE, HOT, "--view decision --settle", None);
    if let Some(bar) = many.filter(|_| false) {
        row(Subject::MANY_KEYS, MANY, "--view full", Some(bar));
        row(Subject::MANY_KEYS, MANY, "--view full --settle", Some(bar));
    }
    Block { name, rows }
}
