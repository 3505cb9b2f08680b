//! How often sidecars ask the store, by how often they are asked themselves: as the store counts it, second by second.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use tidegate_tests::page::Page;
use tidegate_tests::redis::{Kind, Server as Redis};
use tidegate_tests::server::Server;
use tokio::runtime::Builder;

use super::{Done, Failure, WIDE, decisions, server, sidecar};
use crate::open_loop::{self, Load};
use crate::zipf::Zipf;

/// Before it is counted: leases are there, limits that are to be full are.
const WARM_UP: u64 = 3;

/// A row: how many sidecars are asked, for how many keys, how often each of them a second.
#[derive(Clone, Copy)]
struct Row {
    sidecars: usize,
    keys: usize,
    rate: u64,
    full: bool,
}

const fn row(sidecars: usize, keys: usize, rate: u64, full: bool) -> Row {
    Row { sidecars, keys, rate, full }
}

const ROWS: &[Row] = &[
    row(1, 1, 10, false),
    row(1, 1, 100, false),
    row(1, 1, 1_000, false),
    row(1, 1, 5_000, false),
    row(2, 1, 1_000, false),
    row(4, 1, 250, false),
    row(4, 1, 1_250, false),
    row(2, 1, 1_000, true),
    row(4, 1, 250, true),
    row(4, 1, 1_250, true),
    row(1, 2_000, 100, false),
    row(1, 1_000, 200, false),
    row(1, 1_000, 1_000, false),
    row(1, 1_000, 5_000, false),
];

/// Of a row whose limit is full: a window has room for half a second of what two sidecars are asked.
const FULL: u64 = 100_000;
/// Those of which no row asks anything run, too.
const SIDECARS: usize = 4;

/// Counts the calls of each row.
///
/// # Errors
/// No binary is named, or a server does not answer.
pub fn study(seconds: u64) -> Result<String, Failure> {
    let mut out = String::from(
        "| sidecars | keys | decisions/s of each sidecar | limit | admitted/s, all | calls of the script/s, sidecar and key: mean | \
         most in a second | by the sidecars' own count | calls per admitted decision | us of the script, each | \
         denied, and decided without the store, from the first call on |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for full in [false, true] {
        let store = server(Kind::Redis7)?.start();
        let limit = if full { FULL } else { WIDE };
        let start = || Ok::<_, Failure>(sidecar(Some(&store.url()), limit, "")?.start());
        // The first one waits for the new store, the others find it ready.
        let sidecars = (0..SIDECARS).map(|_| start()).collect::<Result<Vec<_>, _>>()?;
        for row in ROWS.iter().filter(|row| row.full == full) {
            let line = measure(*row, &store, &sidecars[..row.sidecars], seconds)?;
            out.push_str(&line);
        }
    }
    out.push_str("\nbars: at most 12 a second for each sidecar and key; at most 0.05 per admitted decision at 1,000 admitted/s\n");
    Ok(out)
}

fn measure(row: Row, store: &Redis, sidecars: &[Server], seconds: u64) -> Result<String, Failure> {
    let keys = Zipf::even(row.keys);
    let load = Load {
        rate: row.rate,
        length: Duration::from_secs(WARM_UP + seconds + 1),
        connections: 2,
        settled: 100,
        seed: row.rate,
    };
    let counted = |sidecars: &[Server]| {
        let own = sidecars.iter().map(|one| Page::scrape(one.http()).sum("tidegate_store_calls_total", &[]));
        (own.sum::<f64>(), sidecars.iter().map(|one| decisions(one).1).sum::<f64>())
    };
    let apart = |sidecars: &[Server]| {
        let denied = |one: &Server| decisions(one).0 - decisions(one).1;
        let degraded =
            |one: &Server| Page::scrape(one.http()).sum("tidegate_store_decisions_total", &[("by", "degraded")]);
        (sidecars.iter().map(denied).sum::<f64>(), sidecars.iter().map(degraded).sum::<f64>())
    };
    let apart_before = apart(sidecars);
    thread::scope(|scope| -> Result<String, Failure> {
        let drive = |sidecar: &Server| -> Result<(), String> {
            let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
            runtime
                .block_on(open_loop::run(&[sidecar.limiter()], load, &keys))
                .map(drop)
                .map_err(|error| error.to_string())
        };
        let driven: Vec<_> = sidecars.iter().map(|sidecar| scope.spawn(move || drive(sidecar))).collect();
        thread::sleep(Duration::from_secs(WARM_UP));
        let (own, admitted) = counted(sidecars);
        let first = Done::by(store)?;
        let (mut last, mut most) = (first.clone(), 0.0_f64);
        for _ in 0..seconds {
            thread::sleep(Duration::from_secs(1));
            let now = Done::by(store)?;
            most = most.max(now.since(&last, "evalsha").0);
            last = now;
        }
        let (own_after, admitted_after) = counted(sidecars);
        for thread in driven {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (span, pairs) = (seconds as f64, (row.keys * sidecars.len()) as f64);
        let (calls, took) = last.since(&first, "evalsha");
        // Each sidecar runs one script a second to say that it is there.
        #[expect(clippy::cast_precision_loss, reason = "there are four")]
        let there = SIDECARS as f64;
        let (calls, most) = (calls - there * span, most - there);
        let admitted = admitted_after - admitted;
        let (denied, degraded) = apart(sidecars);
        let mut line = String::new();
        writeln!(
            line,
            "| {} | {} | {} | {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.4} | {:.1} | {:.0}, {:.0} |",
            sidecars.len(),
            row.keys,
            row.rate,
            if row.full { "full" } else { "wide" },
            admitted / span,
            calls / span / pairs,
            most / pairs,
            (own_after - own) / span / pairs,
            calls / admitted,
            took / (calls + there * span),
            denied - apart_before.0,
            degraded - apart_before.1,
        )?;
        Ok(line)
    })
}
