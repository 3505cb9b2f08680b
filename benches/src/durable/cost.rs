//! Two servers by turns, one of them durable: throughput and latency as a client sees them.

use std::fmt::Write as _;
use std::time::Duration;

use tidegate_tests::page::Page;
use tidegate_tests::server::{Server, Setup};
use tokio::runtime::Builder;

use super::median;
use crate::open_loop::{self, Load, Seen};
use crate::zipf::Zipf;

const KEYS: usize = 100_000;
const CONNECTIONS: usize = 4;
/// Between two turns: what one server has left to do does not fall into the turn of the other.
const PAUSE: Duration = Duration::from_millis(1_200);

/// What a turn came to.
struct Turn {
    decisions_per_second: f64,
    p50: f64,
    p99: f64,
    /// Share of the decisions that allowed: hot keys are above their limits.
    allowed: f64,
}

/// Drives both by turns, and says how they compare.
///
/// # Errors
/// No binary is named, or a server does not answer.
pub fn study(
    rounds: usize,
    seconds: u64,
    rate: u64,
    settled: u64,
    itself: bool,
) -> Result<String, Box<dyn std::error::Error>> {
    // What `./test` builds is compiled otherwise, and may be of another day.
    let binary = std::env::var("TIDEGATE_BIN").map_err(|_| "name the released binary in TIDEGATE_BIN")?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data").display().to_string();
    let bounds = ["--max-reservations", "8M", "--log-filter", "warn"];
    let memory = Setup::release().arguments(bounds).start();
    let durable = Setup::release().arguments(bounds);
    let durable = if itself { durable } else { durable.arguments(["--data-dir".to_owned(), data]) }.start();
    let keys = Zipf::new(KEYS);
    let mut out = String::from(
        "| round | decisions/s memory | durable | p50 us memory | durable | p99 us memory | durable |\n|---|---|---|---|---|---|---|\n",
    );
    let length = Duration::from_secs(seconds);
    let load = Load { rate, length, connections: CONNECTIONS, settled, seed: 0 };
    let (mut throughputs, mut p50s, mut p99s) = (Vec::new(), Vec::new(), Vec::new());
    let (mut allowed, mut seed) = ([Vec::new(), Vec::new()], 1);
    for round in 0..=rounds {
        let mut turns = [None, None];
        // Each is first in every other round.
        for which in [round % 2, 1 - round % 2] {
            let server = [&memory, &durable][which];
            seed += 1;
            turns[which] = Some(runtime.block_on(turn(server, Load { seed, ..load }, &keys))?);
            std::thread::sleep(PAUSE);
        }
        let [Some(memory), Some(durable)] = turns else { continue };
        // The first round makes the keys.
        if round == 0 {
            continue;
        }
        throughputs.push(durable.decisions_per_second / memory.decisions_per_second);
        p50s.push(durable.p50 / memory.p50);
        p99s.push(durable.p99 / memory.p99);
        allowed[0].push(memory.allowed);
        allowed[1].push(durable.allowed);
        writeln!(
            out,
            "| {round} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            memory.decisions_per_second, durable.decisions_per_second, memory.p50, durable.p50, memory.p99, durable.p99
        )?;
    }
    let [memory, of_durable] = allowed.map(median);
    writeln!(
        out,
        "\n{binary}: medians: throughput {:.3} of memory alone, p50 {:.3}, p99 {:.3} of it; {:.1} and {:.1} % of the decisions allowed",
        median(throughputs),
        median(p50s),
        median(p99s),
        memory * 1e2,
        of_durable * 1e2,
    )?;
    if !itself {
        let page = Page::scrape(durable.http());
        let metric = |name| page.sum(name, &[]);
        writeln!(
            out,
            "{:.0} keys a batch, {:.0} MB written by {:.0} batches, {:.0} MB on disk, {} keys",
            metric("tidegate_disk_keys_total") / metric("tidegate_disk_batches_total"),
            metric("tidegate_disk_written_bytes_total") / 1e6,
            metric("tidegate_disk_batches_total"),
            metric("tidegate_disk_bytes") / 1e6,
            metric("tidegate_keys"),
        )?;
    }
    Ok(out)
}

async fn turn(server: &Server, load: Load, keys: &Zipf) -> Result<Turn, Box<dyn std::error::Error>> {
    let Seen { latencies, allowed, took } = open_loop::run(&[server.limiter()], load, keys).await?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let [decisions, allowed, p50, p99] =
        [latencies.len(), allowed, latencies.value_at_quantile(0.5), latencies.value_at_quantile(0.99)]
            .map(|n| n as f64);
    let decisions_per_second = decisions / took.as_secs_f64();
    Ok(Turn { decisions_per_second, p50: p50 / 1e3, p99: p99 / 1e3, allowed: allowed / decisions })
}
