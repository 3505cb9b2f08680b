//! Two sidecars by turns, one that shares its limits and one with memory alone: processor time of a decision, and latency.

use std::fmt::Write as _;
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
}

/// Drives both by turns, and says how they compare.
///
/// # Errors
/// No binary is named, or a server does not answer.
pub fn study(compared: Compared) -> Result<String, Failure> {
    let Compared { rounds, seconds, rate, keys, settled, itself } = compared;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let store = server(Kind::Redis7)?.start();
    let alone = sidecar(None, WIDE, "")?.start();
    let url = store.url();
    let shared = sidecar(Some(&url).filter(|_| !itself).map(String::as_str), WIDE, "")?.start();
    let keys = Zipf::new(keys);
    let mut out = String::from(
        "| round | decisions/s memory | shared | us of processor memory | shared | ratio | p50 us memory | shared | \
         p99 us memory | shared |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let length = Duration::from_secs(seconds);
    let load = Load { rate, length, connections: CONNECTIONS, settled, seed: 0 };
    let (mut ratios, mut p50s, mut p99s, mut stores) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut of_memory, mut of_shared, mut seed) = (Vec::new(), Vec::new(), 1);
    for round in 0..=rounds {
        let mut turns = [None, None];
        // Each is first in every other round.
        for which in [round % 2, 1 - round % 2] {
            let sidecar = [&alone, &shared][which];
            seed += 1;
            let before = Done::by(&store)?;
            let mut turn = runtime.block_on(turn(sidecar, Load { seed, ..load }, &keys))?;
            turn.store = micros(Done::by(&store)?.processor_time_since(&before)) / (turn.rate * length.as_secs_f64());
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
    writeln!(
        out,
        "\nmedians: {:.1} and {:.1} us of processor for a decision and its settlement, ratio {:.3} ({least:.3} to {most:.3}; bar: at \
         most 1.25); p50 {:.2} and p99 {:.2} of memory alone; the store itself {:.2} us a decision{}",
        median(of_memory),
        median(of_shared),
        median(ratios),
        median(p50s),
        median(p99s),
        median(stores),
        otherwise(&shared),
    )?;
    Ok(out)
}

async fn turn(sidecar: &Server, load: Load, keys: &Zipf) -> Result<Turn, Failure> {
    let before = processor_time(sidecar.pid())?;
    let seen = open_loop::run(sidecar.limiter(), load, keys).await?;
    let used = processor_time(sidecar.pid())?.saturating_sub(before);
    let latencies = &seen.latencies;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let [decisions, p50, p99] =
        [latencies.len(), latencies.value_at_quantile(0.5), latencies.value_at_quantile(0.99)].map(|n| n as f64);
    let rate = decisions / seen.took.as_secs_f64();
    let processor = micros(used) / decisions;
    Ok(Turn { rate, processor, p50: p50 / 1e3, p99: p99 / 1e3, store: 0.0 })
}
