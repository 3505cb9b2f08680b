//! The tables: a decision by the number of keys, and what ids cost of it.

use std::time::Duration;

use tidegate_core::reservation::{Number, Ticket};
use tidegate_core::time::Timestamp;
use tidegate_core::window::Tokens;
use tidegate_store::reservation_id::{self, ChecksumKey, ReservationId};

use super::{BLOCK, Costs, Ends, Load, Names, Nanos, costs};
use crate::markdown::{Table, count};
use crate::stopwatch::Stopwatch;
use crate::zipf::Zipf;

/// Which keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// All of them equally.
    Evenly,
    /// By Zipf's law.
    Zipf,
}

impl Drawn {
    fn of(self, keys: usize) -> Zipf {
        match self {
            Self::Evenly => Zipf::even(keys),
            Self::Zipf => Zipf::new(keys),
        }
    }
}

/// Nothing is denied for want of tokens.
const ROOMY_TPM: u64 = 1 << 36;

/// A row for each: reserve and settle, then reserve and expire.
#[must_use]
pub fn table(rows: &[(usize, Drawn)], ends: &[Ends], calls: usize) -> Table {
    let mut table =
        Table::new(&["keys", "drawn", "ends", "reserve ns", "mean", "settle ns", "mean", "timers ns", "allowed %"]);
    for (keys, drawn) in rows {
        for ends in ends {
            let warm_up = match ends {
                Ends::Settled | Ends::Live => calls / 4,
                // As many as are remembered expire first.
                Ends::Expired => 5 * calls,
            };
            let load = Load { floor_tpm: ROOMY_TPM, ends: *ends, calls, warm_up };
            row(&mut table, *keys, *drawn, *ends, &costs(*keys, &drawn.of(*keys), &load));
        }
    }
    table
}

/// A denial at full windows.
#[must_use]
pub fn denied(rows: &[usize], calls: usize) -> Table {
    let mut table =
        Table::new(&["keys", "drawn", "ends", "reserve ns", "mean", "settle ns", "mean", "timers ns", "allowed %"]);
    for keys in rows {
        let load = Load { floor_tpm: 8_000, ends: Ends::Live, calls, warm_up: (calls / 4).max(16 * *keys) };
        row(&mut table, *keys, Drawn::Evenly, Ends::Live, &costs(*keys, &Zipf::even(*keys), &load));
    }
    table
}

fn row(table: &mut Table, keys: usize, drawn: Drawn, ends: Ends, costs: &Costs) {
    let figure = |nanos: f64| if nanos.is_nan() { String::new() } else { format!("{nanos:.0}") };
    let (reserve, settle) = (costs.reserve.median_and_mean(), costs.settle.median_and_mean());
    table.row([
        count(keys as u64),
        format!("{drawn:?}").to_lowercase(),
        format!("{ends:?}").to_lowercase(),
        figure(reserve.0),
        figure(reserve.1),
        figure(settle.0),
        figure(settle.1),
        figure(costs.tick),
        format!("{:.1}", costs.allowed * 100.0),
    ]);
}

/// What making and reading an id takes of a decision and of a settlement.
#[must_use]
pub fn ids() -> Table {
    let (secret, mut names) = (ChecksumKey::new([7; 16]), Names::default());
    names.write(7);
    let key = names.request(Duration::from_secs(1)).key;
    let mut sequence = 0;
    let (mut made, mut read) = (Nanos::default(), Nanos::default());
    for _ in 0..1_000 {
        let mut ids = Vec::with_capacity(BLOCK);
        let watch = Stopwatch::start();
        for _ in 0..BLOCK {
            sequence += 1;
            let ticket = Ticket {
                number: Number { incarnation: 1 << 60, sequence },
                admitted_at: Timestamp::from_seconds(1_700_000_000),
                ttl: Duration::from_secs(1),
                reserved: Tokens::new(800, 800, 100),
            };
            ids.push(ReservationId::new(secret, ticket).text(key));
        }
        made.push(watch.elapsed(), BLOCK);
        let watch = Stopwatch::start();
        let good = ids.iter().filter(|id| reservation_id::decode(&secret, id).is_some()).count();
        read.push(watch.elapsed(), good);
    }
    let mut table = Table::new(&["an id", "ns", "mean"]);
    for (what, nanos) in [("made", made), ("read", read)] {
        let (median, mean) = nanos.median_and_mean();
        table.row([what.to_owned(), format!("{median:.0}"), format!("{mean:.0}")]);
    }
    table
}
