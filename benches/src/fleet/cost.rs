//! Sidecars that share their limits and sidecars with memory alone, by turns: processor time of a decision, and latency. The rate is that
//! of all sidecars of a side together: each call goes to any one of them.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use tidegate_tests::redis::Kind;
use tidegate_tests::server::Server;
use tokio::runtime::Builder;

use super::{Done, Failure, WIDE, micros, otherwise, processor_time, server, sidecar, spread_of};
use crate::durable::median;
use crate::open_loop::{self, Load};
use crate::zipf::Zipf;

const CONNECTIONS: usize = 4;
/// Between two turns: what one has left to do does not fall into the turn of the other.
const PAUSE: Duration = Duration::from_millis(600);

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    /// Rounds, each with both.
    pub rounds: usize,
    /// Seconds for each, in each round.
    pub seconds: u64,
    /// Decisions a second.
    pub rate: u64,
    /// How many keys, by Zipf's law.
    pub keys: usize,
    /// Share of reservations that are settled, percent.
    pub settled: u64,
    /// Sidecars that share their limits.
    pub sidecars: usize,
    /// Sidecars with memory alone: where they are as many, a process costs both sides the same, whatever it is asked.
    pub against: usize,
    /// Both with memory alone.
    pub itself: bool,
}

/// What a turn came to, microseconds.
struct Turn {
    rate: f64,
    processor: f64,
    p50: f64,
    p99: f64,
    store: f64,
    /// Of the script, a second.
    calls: f64,
}

/// Drives both by turns, and says how they compare.
///
/// # Errors
/// No binary is named, or a server does not answer.
pub fn study(compared: Compared) -> Result<String, Failure> {
    let Compared { rounds, seconds, rate, keys, settled, sidecars, against, itself } = compared;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let store = server(Kind::Redis7)?.start();
    let url = store.url();
    let start = |many: usize, url: Option<&str>| -> Result<Vec<Server>, Failure> {
        (0..many).map(|_| Ok(sidecar(url, WIDE, "")?.start())).collect()
    };
    let alone = start(against, None)?;
    let shared = start(sidecars, Some(url.as_str()).filter(|_| !itself))?;
    let keys = Zipf::new(keys);
    let mut out = String::from(
        "| round | decisions/s memory | shared | us of processor memory | shared | ratio | p50 us memory | shared | \
         p99 us memory | shared |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let length = Duration::from_secs(seconds);
    let load = Load { rate, length, connections: CONNECTIONS, settled, seed: 0 };
    let (mut ratios, mut p50s, mut p99s, mut stores) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut of_memory, mut of_shared, mut calls, mut seed) = (Vec::new(), Vec::new(), Vec::new(), 1);
    for round in 0..=rounds {
        let mut turns = [None, None];
        // Each is first in every other round.
        for which in [round % 2, 1 - round % 2] {
            seed += 1;
            let before = Done::by(&store)?;
            let mut turn = runtime.block_on(turn([&alone, &shared][which], Load { seed, ..load }, &keys))?;
            let done = Done::by(&store)?;
            turn.store = micros(done.processor_time_since(&before)) / (turn.rate * length.as_secs_f64());
            turn.calls = done.since(&before, "evalsha").0 / length.as_secs_f64();
            turns[which] = Some(turn);
            std::thread::sleep(PAUSE);
        }
        let [Some(memory), Some(with_store)] = turns else { continue };
        // The first round makes the keys.
        if round == 0 {
            continue;
        }
        ratios.push(with_store.processor / memory.processor);
        p50s.push(with_store.p50 / memory.p50);
        p99s.push(with_store.p99 / memory.p99);
        stores.push(with_store.store);
        calls.push(with_store.calls);
        of_memory.push(memory.processor);
        of_shared.push(with_store.processor);
        writeln!(
            out,
            "| {round} | {:.0} | {:.0} | {:.1} | {:.1} | {:.3} | {:.0} | {:.0} | {:.0} | {:.0} |",
            memory.rate,
            with_store.rate,
            memory.processor,
            with_store.processor,
            with_store.processor / memory.processor,
            memory.p50,
            with_store.p50,
            memory.p99,
            with_store.p99
        )?;
    }
    let (least, most) = spread_of(&ratios);
    // Each sidecar runs one script a second to say that it is there.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (sidecars, rate) = (sidecars as f64, rate as f64);
    let calls = median(calls) - if itself { 0.0 } else { sidecars };
    writeln!(
        out,
        "\nmedians: {:.1} and {:.1} us of processor for a decision and its settlement, ratio {:.3} ({least:.3} to {most:.3}; bar: at \
         most 1.25); p50 {:.2} and p99 {:.2} of memory alone; the store itself {:.2} us a decision; \
         {:.2} calls/s of a sidecar, {:.4} a decision{}",
        median(of_memory),
        median(of_shared),
        median(ratios),
        median(p50s),
        median(p99s),
        median(stores),
        calls / sidecars,
        calls / rate,
        shared.iter().map(otherwise).collect::<String>(),
    )?;
    Ok(out)
}

async fn turn(sidecars: &[Server], load: Load, keys: &Zipf) -> Result<Turn, Failure> {
    let processor_time = || sidecars.iter().map(|sidecar| processor_time(sidecar.pid())).sum::<io::Result<Duration>>();
    let before = processor_time()?;
    let limiters: Vec<&str> = sidecars.iter().map(Server::limiter).collect();
    let seen = open_loop::run(&limiters, load, keys).await?;
    let used = processor_time()?.saturating_sub(before);
    let latencies = &seen.latencies;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let [decisions, p50, p99] =
        [latencies.len(), latencies.value_at_quantile(0.5), latencies.value_at_quantile(0.99)].map(|n| n as f64);
    let rate = decisions / seen.took.as_secs_f64();
    let processor = micros(used) / decisions;
    Ok(Turn { rate, processor, p50: p50 / 1e3, p99: p99 / 1e3, store: 0.0, calls: 0.0 })
}
