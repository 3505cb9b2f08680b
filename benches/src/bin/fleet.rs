//! What it costs to share limits: `cargo run --release --package tidegate-benches --bin fleet -- cost|calls|script|spread`.
//!
//! Sidecars are the binary that `TIDEGATE_BIN` names: `cargo build --release`, then `TIDEGATE_BIN=target/release/tidegate cargo
//! run ...`. Redis 7 is `redis-server` in `PATH`, Valkey 9 is found by `TIDEGATE_PYTHON`, as `./test` installs it.

use clap::{Parser, Subcommand};
use tidegate_benches::fleet::{calls, cost, script, spread};

/// As `tidegate` itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    study: Study,
}

#[derive(Subcommand)]
enum Study {
    /// Processor time of a decision and latency with a shared store, against memory alone
    Cost {
        /// Rounds, each with both
        #[arg(long, default_value_t = 9)]
        rounds: usize,
        /// Seconds that each is driven in a round
        #[arg(long, default_value_t = 4)]
        seconds: u64,
        /// Decisions a second that are asked for, of all sidecars together
        #[arg(long, default_value_t = 5_000)]
        rate: u64,
        /// How many keys, by Zipf's law
        #[arg(long, default_value_t = 1_000)]
        keys: usize,
        /// Share of reservations that are settled, percent
        #[arg(long, default_value_t = 100)]
        settle: u64,
        /// How many sidecars
        #[arg(long, default_value_t = 1)]
        sidecars: usize,
        /// How many with memory alone; as many, if it is not said
        #[arg(long)]
        against: Option<usize>,
        /// Both with memory alone: how far two equal sides seem to be apart
        #[arg(long)]
        itself: bool,
    },
    /// How often sidecars ask the store, by how often they are asked
    Calls {
        /// Seconds for each row
        #[arg(long, default_value_t = 8)]
        seconds: u64,
    },
    /// What a report costs in the store, by how many sidecars use its key
    Script {
        /// Reports for each row, at most
        #[arg(long, default_value_t = 20_000)]
        reports: usize,
    },
    /// Many keys, one server and three masters, many sidecars
    Spread {
        /// Which of it
        #[arg(value_enum, default_values_t = [spread::Part::Keys, spread::Part::Servers, spread::Part::Slots, spread::Part::Idle, spread::Part::Roll, spread::Part::Policy, spread::Part::Plan])]
        parts: Vec<spread::Part>,
    },
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Arguments::parse().study {
        Study::Cost { rounds, seconds, rate, keys, settle: settled, sidecars, against, itself } => {
            let against = against.unwrap_or(sidecars);
            let compared = cost::Compared { rounds, seconds, rate, keys, settled, sidecars, against, itself };
            println!("{}", cost::study(compared)?);
        }
        Study::Calls { seconds } => println!("{}", calls::study(seconds)?),
        Study::Script { reports } => println!("{}", script::study(reports)?),
        Study::Spread { parts } => {
            for part in parts {
                println!("{}", spread::study(part)?);
            }
        }
    }
    Ok(())
}
